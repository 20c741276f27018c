//! Lanes as an array: the reference, and what machines without our vectors run.

use super::{LANES, Lanes, ROUNDER};
use crate::fp8;
use half::{bf16, f16};
use std::array::from_fn;

/// An array of floats.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Plain, f: impl Fn(f32, f32) -> f32) -> Plain {
        Plain(from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Plain {
    type Bytes = [u8; LANES];
    /// Zero and scale.
    type Nibbles = (f32, f32);

    const TILE_ROWS: usize = 4;
    const TILE_COLUMNS: usize = 1;
    const LONE_COLUMNS: usize = 4;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Plain([value; LANES])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: sixteen floats, says the caller.
        unsafe { Plain(from.cast::<[f32; LANES]>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self {
        // SAFETY: `n` floats, says the caller.
        Plain(from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe { Self::load_f16_part(from, LANES) }
    }

    #[inline(always)]
    unsafe fn load_f16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller.
        let bits = |i| if i < n { unsafe { *from.add(i) } } else { 0 };
        Plain(from_fn(|i| f16::from_bits(bits(i)).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: sixteen halves, says the caller.
        unsafe { Self::load_bf16_part(from, LANES) }
    }

    #[inline(always)]
    unsafe fn load_bf16_part(from: *const u16, n: usize) -> Self {
        // SAFETY: `n` halves, says the caller.
        let bits = |i| if i < n { unsafe { *from.add(i) } } else { 0 };
        Plain(from_fn(|i| bf16::from_bits(bits(i)).to_f32()))
    }

    #[inline(always)]
    unsafe fn look_up(from: *const f32, _: usize, numbers: *const i32) -> Self {
        // SAFETY: sixteen numbers of floats, says the caller.
        Plain(from_fn(|i| unsafe { *from.add(*numbers.add(i) as usize) }))
    }

    #[inline(always)]
    unsafe fn look_up_i16(from: *const i16, _: usize, numbers: *const i32) -> Self {
        // SAFETY: sixteen numbers of what is there, says the caller.
        Plain(from_fn(|i| f32::from(unsafe { *from.add(*numbers.add(i) as usize) })))
    }

    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> [u8; LANES] {
        // SAFETY: sixteen bytes, says the caller.
        unsafe { from.cast::<[u8; LANES]>().read() }
    }

    #[inline(always)]
    unsafe fn bytes_part(from: *const u8, n: usize) -> [u8; LANES] {
        // SAFETY: `n` bytes, says the caller.
        from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0 })
    }

    #[inline(always)]
    unsafe fn from_i8(bytes: [u8; LANES]) -> Self {
        Plain(bytes.map(|byte| f32::from(byte as i8)))
    }

    #[inline(always)]
    unsafe fn from_fp8(bytes: [u8; LANES]) -> Self {
        Plain(bytes.map(|byte| fp8::decode(byte) / 256.0))
    }

    #[inline(always)]
    unsafe fn nibbles(zero: f32, scale: f32) -> (f32, f32) {
        (zero, scale)
    }

    #[inline(always)]
    unsafe fn low(bytes: [u8; LANES], meaning: (f32, f32)) -> Self {
        // SAFETY: nothing is needed.
        unsafe { Self::high(bytes.map(|byte| byte << 4), meaning) }
    }

    #[inline(always)]
    unsafe fn high(bytes: [u8; LANES], (zero, scale): (f32, f32)) -> Self {
        Plain(bytes.map(|byte| (f32::from(byte as i8 >> 4) - zero) * scale))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: sixteen floats, says the caller.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, n: usize) {
        for (i, &value) in self.0.iter().enumerate().take(n) {
            // SAFETY: `n` floats, says the caller.
            unsafe { *to.add(i) = value }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self {
        Plain(from_fn(|i| self.0[i].mul_add(factor.0[i], summand.0[i])))
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Plain(self.0.map(f32::sqrt))
    }

    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Plain(self.0.map(f32::abs))
    }

    #[inline(always)]
    unsafe fn power(self) -> Self {
        Plain(self.0.map(|value| f32::from_bits(value.to_bits() & f32::INFINITY.to_bits())))
    }

    #[inline(always)]
    unsafe fn if_not_negative(self, yes: Self, no: Self) -> Self {
        Plain(from_fn(|i| if self.0[i] >= 0.0 { yes.0[i] } else { no.0[i] }))
    }

    #[inline(always)]
    unsafe fn times_power(self, power: Self) -> Self {
        Plain(from_fn(|i| {
            let n = power.0[i].to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
            let (a, b) = (n >> 1, n.wrapping_sub(n >> 1));
            let factor = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
            self.0[i] * factor(a) * factor(b)
        }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    unsafe fn sum_four(four: [Self; 4], to: *mut f32) {
        for (i, lanes) in four.into_iter().enumerate() {
            // SAFETY: four floats, says the caller.
            unsafe { *to.add(i) = lanes.sum() }
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
}
