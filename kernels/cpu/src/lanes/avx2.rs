//! Lanes as two 256-bit vectors.

use super::{LANES, Lanes, ROUNDER};
use std::arch::x86_64::*;
use std::ptr::copy_nonoverlapping;

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

/// The sum of eight lanes, by the tree.
#[inline(always)]
pub(super) unsafe fn sum_eight(lanes: __m256) -> f32 {
    // SAFETY: AVX2, says the caller.
    unsafe {
        let high = _mm256_extractf128_ps::<1>(lanes);
        let quads = _mm_add_ps(_mm256_castps256_ps128(lanes), high);
        let pairs = _mm_add_ps(quads, _mm_movehl_ps(quads, quads));
        _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
    }
}

/// The first `n` of sixteen, zeros behind.
#[inline(always)]
unsafe fn padded<T: Copy + Default>(from: *const T, n: usize) -> [T; LANES] {
    debug_assert!(n <= LANES);
    let mut elements = [T::default(); LANES];
    // SAFETY: `n` elements, says the caller.
    unsafe { copy_nonoverlapping(from, elements.as_mut_ptr(), n) };
    elements
}

/// Upper halves of floats, widened.
#[inline(always)]
unsafe fn widen(halves: __m128i) -> __m256 {
    // SAFETY: AVX2, says the caller.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))) }
}

/// One half of [`Lanes::times_power`].
#[inline(always)]
unsafe fn times_power(value: __m256, power: __m256) -> __m256 {
    // SAFETY: AVX2, says the caller.
    unsafe {
        let rounder = _mm256_set1_epi32(ROUNDER.to_bits() as i32);
        let n = _mm256_sub_epi32(_mm256_castps_si256(power), rounder);
        let a = _mm256_srai_epi32::<1>(n);
        let b = _mm256_sub_epi32(n, a);
        let one = _mm256_set1_epi32(127);
        let [a, b] =
            [a, b].map(|n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, one))));
        _mm256_mul_ps(_mm256_mul_ps(value, a), b)
    }
}

impl Lanes for Avx2 {
    const TILE_ROWS: usize = 6;
    const TILE_COLUMNS: usize = 1;
    const LONE_COLUMNS: usize = 4;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: AVX2, says the caller; so for all of these.
        unsafe { Avx2(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen floats, says the caller.
        unsafe { Avx2(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: `n` floats, says the caller.
        unsafe { Self::load(padded(from, n).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            Avx2(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn load_f16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller.
        unsafe { Self::load_f16(padded(from, n).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe {
            let (low, high) = (_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(8).cast()));
            Avx2(widen(low), widen(high))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller.
        unsafe { Self::load_bf16(padded(from, n).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen floats, says the caller.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        debug_assert!(n <= LANES);
        let mut elements = [0.0f32; LANES];
        // SAFETY: `n` floats, says the caller.
        unsafe {
            self.store(elements.as_mut_ptr());
            copy_nonoverlapping(elements.as_ptr(), to, n);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_sub_ps(self.0, other.0), _mm256_sub_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_div_ps(self.0, other.0), _mm256_div_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            Avx2(
                _mm256_fmadd_ps(self.0, factor.0, summand.0),
                _mm256_fmadd_ps(self.1, factor.1, summand.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_max_ps(self.0, other.0), _mm256_max_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_min_ps(self.0, other.0), _mm256_min_ps(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Avx2(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }

    #[inline(always)]
    unsafe fn if_not_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let zero = _mm256_setzero_ps();
            let low = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, zero);
            let high = _mm256_cmp_ps::<_CMP_GE_OQ>(self.1, zero);
            Avx2(_mm256_blendv_ps(no.0, yes.0, low), _mm256_blendv_ps(no.1, yes.1, high))
        }
    }

    #[inline(always)]
    unsafe fn times_power(self, power: Self) -> Self {
        // SAFETY: see `splat`.
        unsafe { Avx2(times_power(self.0, power.0), times_power(self.1, power.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see `splat`.
        unsafe { sum_eight(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn sum_four([a, b, c, d]: [Self; 4], to: *mut f32) {
        // SAFETY: four floats, says the caller. A transpose on the way to the last two sums.
        unsafe {
            let [a, b, c, d] = [a, b, c, d].map(|lanes| {
                let eight = _mm256_add_ps(lanes.0, lanes.1);
                let high = _mm256_extractf128_ps::<1>(eight);
                _mm_add_ps(_mm256_castps256_ps128(eight), high)
            });
            let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
            let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
            let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
            let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
            _mm_storeu_ps(to, _mm_add_ps(even, odd));
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: see `splat`.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let high = _mm256_extractf128_ps::<1>(eight);
            let quads = _mm_max_ps(_mm256_castps256_ps128(eight), high);
            let pairs = _mm_max_ps(quads, _mm_movehl_ps(quads, quads));
            _mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a hint; it does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
}
