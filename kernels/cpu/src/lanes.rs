//! Sixteen floats that are worked on together: the one shape that all kernels are written in.
//!
//! Each method is exact or rounds once, to nearest even, on every instruction set; sums over the
//! lanes go by one tree: `i + (i+8)`, `i + (i+4)`, `i + (i+2)`, `i + (i+1)`. So the same kernel
//! gives the same bits everywhere (which NaN is not promised).

#![allow(unsafe_code, reason = "reads and writes through pointers; the callers check them")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::{avx2::Avx2, avx512::Avx512};
pub(crate) use plain::Plain;

/// How many.
pub(crate) const LANES: usize = 16;

/// Adding it to a float of magnitude below 2²² rounds that to a whole number, which then stands
/// in the low bits.
pub(crate) const ROUNDER: f32 = 12_582_912.0;

/// An element of a weight.
pub(crate) trait Element: Copy {
    /// Reads sixteen.
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
    /// Reads the first `n`.
    unsafe fn load_part<L: Lanes>(from: *const Self, n: usize) -> L;
}

/// Says how an element is read.
macro_rules! element {
    ($type:ty, $load:ident, $load_part:ident) => {
        impl Element for $type {
            #[inline(always)]
            unsafe fn load<L: Lanes>(from: *const Self) -> L {
                // SAFETY: as promised by the caller.
                unsafe { L::$load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn load_part<L: Lanes>(from: *const Self, n: usize) -> L {
                // SAFETY: as promised by the caller.
                unsafe { L::$load_part(from.cast(), n) }
            }
        }
    };
}

element!(f32, load, load_part);
element!(half::f16, load_f16, load_f16_part);
element!(half::bf16, load_bf16, load_bf16_part);

/// Sixteen floats.
///
/// All methods are unsafe in one way: the machine must have the instructions. Those that take
/// pointers need sixteen elements there, or `n <= 16` for those that end in `_part`; of the
/// rest, `_part` reads zeros and writes nothing.
pub(crate) trait Lanes: Copy {
    /// Sixteen bytes.
    type Bytes: Copy;
    /// What codes of four bits mean.
    type Nibbles: Copy;

    /// Rows of a tile of `linear` that fit in the registers, of [`Lanes::TILE_COLUMNS`] each.
    const TILE_ROWS: usize;
    /// Columns of a tile of `linear`: 4 or 1.
    const TILE_COLUMNS: usize;
    /// Columns of a tile of one row: 8 or 4.
    const LONE_COLUMNS: usize;
    /// Whether two blocks of keys, or four vectors of values, times six queries fit in the
    /// registers; else one.
    const MANY_REGISTERS: bool;

    /// The same in all lanes.
    unsafe fn splat(value: f32) -> Self;
    /// Reads floats.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads the first `n` floats.
    unsafe fn load_part(from: *const f32, n: usize) -> Self;
    /// Reads halves.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Reads the first `n` halves.
    unsafe fn load_f16_part(from: *const u16, n: usize) -> Self;
    /// Reads upper halves of floats.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Reads the first `n` upper halves of floats.
    unsafe fn load_bf16_part(from: *const u16, n: usize) -> Self;
    /// Of `n` floats from `from` on, those that sixteen numbers say.
    unsafe fn look_up(from: *const f32, n: usize, numbers: *const i32) -> Self;
    /// The same of whole numbers.
    unsafe fn look_up_i16(from: *const i16, n: usize, numbers: *const i32) -> Self;
    /// Reads bytes.
    unsafe fn bytes(from: *const u8) -> Self::Bytes;
    /// Reads the first `n` bytes.
    unsafe fn bytes_part(from: *const u8, n: usize) -> Self::Bytes;
    /// Bytes as numbers from -128 to 127.
    unsafe fn from_i8(bytes: Self::Bytes) -> Self;
    /// Bytes as floats of eight bits, 2⁸ times smaller.
    unsafe fn from_fp8(bytes: Self::Bytes) -> Self;
    /// Codes from -8 to 7 that mean `(code - zero) · scale`, where `zero` is one of 16 bits.
    unsafe fn nibbles(zero: f32, scale: f32) -> Self::Nibbles;
    /// What the low halves of bytes mean.
    unsafe fn low(bytes: Self::Bytes, meaning: Self::Nibbles) -> Self;
    /// What the high halves of bytes mean.
    unsafe fn high(bytes: Self::Bytes, meaning: Self::Nibbles) -> Self;
    /// Writes.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n`.
    unsafe fn store_part(self, to: *mut f32, n: usize);
    /// `self + other`
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`
    unsafe fn sub(self, other: Self) -> Self;
    /// `self · other`
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`
    unsafe fn div(self, other: Self) -> Self;
    /// `self · factor + summand`, rounded once.
    unsafe fn mul_add(self, factor: Self, summand: Self) -> Self;
    /// `self > other ? self : other`, so `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`, so `other` where either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// `√self`, rounded once.
    unsafe fn sqrt(self) -> Self;
    /// `|self|`
    unsafe fn abs(self) -> Self;
    /// The greatest power of two up to `|self|`, or 0 below the smallest normal; `self` is finite.
    unsafe fn power(self) -> Self;
    /// `self >= 0 ? yes : no`, so `no` for NaN.
    unsafe fn if_not_negative(self, yes: Self, no: Self) -> Self;
    /// `self · 2^n`, where `power` is `n` + [`ROUNDER`] and `-150 <= n <= 129`; in two
    /// factors, of `n >> 1` and the rest, so that neither overflows.
    unsafe fn times_power(self, power: Self) -> Self;
    /// The sum of the lanes, by the tree.
    unsafe fn sum(self) -> f32;
    /// Sums of four, written side by side.
    unsafe fn sum_four(four: [Self; 4], to: *mut f32);
    /// The greatest lane; none is NaN.
    unsafe fn greatest(self) -> f32;
    /// Asks for the memory there to be brought near. Any address will do.
    unsafe fn prefetch(address: *const u8);

    /// The first `n`, and zeros.
    #[inline(always)]
    unsafe fn only(self, n: usize) -> Self {
        let mut all = [0.0; LANES];
        // SAFETY: there is room for sixteen.
        unsafe {
            self.store(all.as_mut_ptr());
            Self::load_part(all.as_ptr(), n)
        }
    }
}
