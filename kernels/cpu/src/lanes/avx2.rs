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

/// Floats of eight bits as halves that are 2⁸ times smaller: the exponent's bias is 15 instead of
/// 7. What was NaN gets the exponent that NaN has there.
#[inline(always)]
pub(super) unsafe fn fp8_as_f16(bytes: __m128i) -> __m256i {
    // SAFETY: AVX2, says the caller.
    unsafe {
        // The sign comes twice; the second is the exponent's highest bit.
        let twice = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(bytes));
        let halves = _mm256_and_si256(twice, _mm256_set1_epi16(0xBF80u16 as i16));
        // Counting up reaches that bit from NaN only, which is all ones.
        let next = _mm256_add_epi16(halves, _mm256_set1_epi16(0x80));
        _mm256_or_si256(halves, _mm256_and_si256(next, _mm256_set1_epi16(0x4000)))
    }
}

/// 2²³: added to a whole number from 0 on, it stands in the lowest bits of the float.
const WHOLE: f32 = 8_388_608.0;

/// What eight codes mean that stand in the lowest four bits of numbers, by (2²³ + 8 + zero, scale).
#[inline(always)]
unsafe fn meant(codes: __m256i, (zero, scale): (__m256, __m256)) -> __m256 {
    // SAFETY: AVX2, says the caller.
    unsafe {
        // From -8 to 7 becomes from 0 to 15, and a float.
        let eight = _mm256_set1_epi32(WHOLE.to_bits() as i32 | 8);
        let floats = _mm256_castsi256_ps(_mm256_xor_si256(codes, eight));
        _mm256_mul_ps(_mm256_sub_ps(floats, zero), scale)
    }
}

/// Bytes widened.
#[inline(always)]
unsafe fn numbers(bytes: __m128i) -> [__m256i; 2] {
    // SAFETY: AVX2, says the caller.
    unsafe { [_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))] }
}

impl Lanes for Avx2 {
    type Bytes = __m128i;
    /// 2²³ + 8 + zero, and the scale.
    type Nibbles = (__m256, __m256);

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
    unsafe fn look_up(from: *const f32, _: usize, numbers: *const i32) -> Self {
        // SAFETY: sixteen numbers of floats, says the caller.
        unsafe {
            let low = _mm256_loadu_si256(numbers.cast());
            let high = _mm256_loadu_si256(numbers.add(8).cast());
            Avx2(_mm256_i32gather_ps::<4>(from, low), _mm256_i32gather_ps::<4>(from, high))
        }
    }

    #[inline(always)]
    unsafe fn look_up_i16(from: *const i16, _: usize, numbers: *const i32) -> Self {
        let mut found = [0.0f32; LANES];
        for (i, found) in found.iter_mut().enumerate() {
            // SAFETY: sixteen numbers of what is there, says the caller.
            *found = f32::from(unsafe { *from.add(*numbers.add(i) as usize) });
        }
        // SAFETY: sixteen floats.
        unsafe { Self::load(found.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m128i {
        // SAFETY: sixteen bytes, says the caller.
        unsafe { _mm_loadu_si128(from.cast()) }
    }

    #[inline(always)]
    unsafe fn bytes_part(from: *const u8, n: usize) -> __m128i {
        // SAFETY: `n` bytes, says the caller.
        unsafe { Self::bytes(padded(from, n).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn from_i8(bytes: __m128i) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm_srli_si128::<8>(bytes));
            let high = _mm256_cvtepi8_epi32(high);
            Avx2(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn from_fp8(bytes: __m128i) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let halves = fp8_as_f16(bytes);
            let high = _mm256_extracti128_si256::<1>(halves);
            Avx2(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn nibbles(zero: f32, scale: f32) -> (__m256, __m256) {
        // SAFETY: see `splat`. The sum is exact.
        unsafe { (_mm256_set1_ps(WHOLE + 8.0 + zero), _mm256_set1_ps(scale)) }
    }

    #[inline(always)]
    unsafe fn low(bytes: __m128i, meaning: (__m256, __m256)) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let low = _mm256_set1_epi32(15);
            let [a, b] = numbers(bytes);
            let (a, b) = (_mm256_and_si256(a, low), _mm256_and_si256(b, low));
            Avx2(meant(a, meaning), meant(b, meaning))
        }
    }

    #[inline(always)]
    unsafe fn high(bytes: __m128i, meaning: (__m256, __m256)) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let [a, b] = numbers(bytes);
            let (a, b) = (_mm256_srli_epi32::<4>(a), _mm256_srli_epi32::<4>(b));
            Avx2(meant(a, meaning), meant(b, meaning))
        }
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
    unsafe fn power(self) -> Self {
        // SAFETY: see `splat`.
        unsafe {
            let exponent = _mm256_set1_ps(f32::INFINITY);
            Avx2(_mm256_and_ps(self.0, exponent), _mm256_and_ps(self.1, exponent))
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
