//! Lanes as one 512-bit vector.

use super::{Lanes, ROUNDER};
use std::arch::x86_64::*;

/// One vector.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// The first `n` lanes.
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as u16
}

impl Lanes for Avx512 {
    const TILE_ROWS: usize = 6;
    const TILE_COLUMNS: usize = 4;
    const LONE_COLUMNS: usize = 8;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX-512, says the caller; so for all of these.
        unsafe { Avx512(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen floats, says the caller.
        unsafe { Avx512(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: `n` floats, says the caller; masked lanes are not touched.
        unsafe { Avx512(_mm512_maskz_loadu_ps(mask(n), from)) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_f16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller; masked lanes are not touched.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe { widen(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller; masked lanes are not touched.
        unsafe { widen(_mm256_maskz_loadu_epi16(mask(n), from.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen floats, says the caller.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        // SAFETY: `n` floats, says the caller; masked lanes are not touched.
        unsafe { _mm512_mask_storeu_ps(to, mask(n), self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_fmadd_ps(self.0, factor.0, summand.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_sqrt_ps(self.0)) }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_abs_ps(self.0)) }
    }

    #[inline(always)]
    unsafe fn if_not_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, _mm512_setzero_ps());
            Avx512(_mm512_mask_blend_ps(mask, no.0, yes.0))
        }
    }

    #[inline(always)]
    unsafe fn times_power(self, power: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let rounder = _mm512_set1_epi32(ROUNDER.to_bits() as i32);
            let n = _mm512_sub_epi32(_mm512_castps_si512(power.0), rounder);
            let a = _mm512_srai_epi32::<1>(n);
            let b = _mm512_sub_epi32(n, a);
            let one = _mm512_set1_epi32(127);
            let [a, b] = [a, b]
                .map(|n| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(n, one))));
            Avx512(_mm512_mul_ps(_mm512_mul_ps(self.0, a), b))
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let high = _mm512_extractf32x8_ps::<1>(self.0);
            super::avx2::sum_eight(_mm256_add_ps(_mm512_castps512_ps256(self.0), high))
        }
    }

    #[inline(always)]
    unsafe fn sum_four([a, b, c, d]: [Self; 4], to: *mut f32) {
        // SAFETY: four floats, says the caller. Halves are joined in pairs, quarters in fours.
        unsafe {
            let low = _mm512_shuffle_f32x4::<0x44>(a.0, b.0);
            let high = _mm512_shuffle_f32x4::<0xEE>(a.0, b.0);
            let ab = _mm512_add_ps(low, high);
            let low = _mm512_shuffle_f32x4::<0x44>(c.0, d.0);
            let high = _mm512_shuffle_f32x4::<0xEE>(c.0, d.0);
            let cd = _mm512_add_ps(low, high);
            let even = _mm512_shuffle_f32x4::<0x88>(ab, cd);
            let odd = _mm512_shuffle_f32x4::<0xDD>(ab, cd);
            let quads = _mm512_add_ps(even, odd);
            let pairs = _mm512_add_ps(quads, _mm512_permute_ps::<0b01_00_11_10>(quads));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0b10_11_00_01>(pairs));
            let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let four = _mm512_castps512_ps128(_mm512_permutexvar_ps(first, sums));
            _mm_storeu_ps(to, four);
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: see `splat`.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a hint; it does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}

/// Upper halves of floats, widened.
#[inline(always)]
unsafe fn widen(halves: __m256i) -> Avx512 {
    // SAFETY: AVX-512, says the caller.
    unsafe {
        let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves));
        Avx512(_mm512_castsi512_ps(wide))
    }
}
