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

/// What four bits mean in two's complement.
const NIBBLES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., -8., -7., -6., -5., -4., -3., -2., -1.];

/// From so many floats on, it is faster to read each where it lies.
const LOOKED_THROUGH: usize = 128;

/// Which numbers are among the sixteen from `first` on.
#[inline(always)]
unsafe fn within(numbers: __m512i, first: usize) -> __mmask16 {
    // SAFETY: AVX-512, says the caller.
    unsafe {
        let sixteenth = _mm512_srli_epi32::<4>(numbers);
        _mm512_cmpeq_epi32_mask(sixteenth, _mm512_set1_epi32((first / 16) as i32))
    }
}

impl Lanes for Avx512 {
    type Bytes = __m128i;
    /// All sixteen that there are, to be looked up.
    type Nibbles = __m512;

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
    unsafe fn look_up(from: *const f32, n: usize, numbers: *const i32) -> Self {
        // SAFETY: sixteen numbers of `n` floats, says the caller; masked lanes are not touched.
        unsafe {
            let numbers = _mm512_loadu_si512(numbers.cast());
            if n > LOOKED_THROUGH {
                return Avx512(_mm512_i32gather_ps::<4>(numbers, from));
            }
            let mut found = _mm512_setzero_ps();
            for first in (0..n).step_by(16) {
                let here = _mm512_maskz_loadu_ps(mask((n - first).min(16)), from.add(first));
                found = _mm512_mask_permutexvar_ps(found, within(numbers, first), numbers, here);
            }
            Avx512(found)
        }
    }

    #[inline(always)]
    unsafe fn look_up_i16(from: *const i16, n: usize, numbers: *const i32) -> Self {
        // SAFETY: sixteen numbers of `n`, says the caller; masked lanes are not touched.
        unsafe {
            let numbers = _mm512_loadu_si512(numbers.cast());
            let mut found = _mm512_setzero_si512();
            for first in (0..n).step_by(16) {
                let here = _mm256_maskz_loadu_epi16(mask((n - first).min(16)), from.add(first));
                let (here, within) = (_mm512_cvtepi16_epi32(here), within(numbers, first));
                found = _mm512_mask_permutexvar_epi32(found, within, numbers, here);
            }
            Avx512(_mm512_cvtepi32_ps(found))
        }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m128i {
        // SAFETY: sixteen bytes, says the caller.
        unsafe { _mm_loadu_si128(from.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes_part(from: *const u8, n: usize) -> __m128i {
        // SAFETY: `n` bytes, says the caller; masked lanes are not touched.
        unsafe { _mm_maskz_loadu_epi8(mask(n), from.cast()) }
    }

    #[inline(always)]
    unsafe fn from_i8(bytes: __m128i) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))) }
    }

    #[inline(always)]
    unsafe fn from_fp8(bytes: __m128i) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_cvtph_ps(super::avx2::fp8_as_f16(bytes))) }
    }

    #[inline(always)]
    unsafe fn nibbles(zero: f32, scale: f32) -> __m512 {
        // SAFETY: see `splat`.
        unsafe {
            let codes = _mm512_loadu_ps(NIBBLES.as_ptr());
            _mm512_mul_ps(_mm512_sub_ps(codes, _mm512_set1_ps(zero)), _mm512_set1_ps(scale))
        }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m128i, meaning: __m512) -> Self {
        // SAFETY: see `splat`. Looking up heeds four bits only.
        unsafe { Avx512(_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(bytes), meaning)) }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m128i, meaning: __m512) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let high = _mm512_srli_epi32::<4>(_mm512_cvtepu8_epi32(bytes));
            Avx512(_mm512_permutexvar_ps(high, meaning))
        }
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
    unsafe fn power(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx512(_mm512_and_ps(self.0, _mm512_set1_ps(f32::INFINITY))) }
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
