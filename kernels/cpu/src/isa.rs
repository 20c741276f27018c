//! Instruction sets, and how a kernel written once over [`Lanes`] reaches each of them.

#![allow(unsafe_code, reason = "calls into code compiled for an instruction set found at run time")]

use crate::lanes::{self, Lanes};
use std::{fmt, str::FromStr};

/// An instruction set. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What the compiler makes of plain Rust; runs anywhere.
    Plain,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ, and all of [`Isa::Avx2`].
    Avx512,
}

/// Every instruction set and its name.
const NAMES: [(Isa, &str); 3] =
    [(Isa::Plain, "plain"), (Isa::Avx2, "avx2"), (Isa::Avx512, "avx512")];

/// A name that is not an instruction set's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownIsa(pub String);

impl fmt::Display for UnknownIsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no instruction set is called {:?}: plain, avx2 and avx512 are", self.0)
    }
}

impl std::error::Error for UnknownIsa {}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES[*self as usize].1)
    }
}

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Isa, UnknownIsa> {
        let found = NAMES.iter().find(|known| known.1 == name);
        found.map(|known| known.0).ok_or_else(|| UnknownIsa(name.to_owned()))
    }
}

impl Isa {
    /// The fastest that this machine has.
    pub fn detect() -> Isa {
        Isa::available().max().unwrap_or(Isa::Plain)
    }

    /// All that this machine has, slowest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        NAMES.into_iter().map(|known| known.0).filter(|isa| isa.is_available())
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = || has!("avx2") && has!("fma") && has!("f16c");
        match self {
            Isa::Plain => true,
            Isa::Avx2 => avx2(),
            Isa::Avx512 => {
                let avx512 = has!("avx512f") && has!("avx512bw");
                avx512 && has!("avx512vl") && has!("avx512dq") && avx2()
            }
        }
    }

    /// Whether this machine has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        self == Isa::Plain
    }

    /// Runs a kernel on this instruction set.
    ///
    /// # Safety
    /// The kernel's own conditions hold, and this machine has the instruction set.
    pub(crate) unsafe fn run<K: Kernel>(self, kernel: K) -> K::Output {
        debug_assert!(self.is_available());
        // SAFETY: as promised by the caller.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::avx2(kernel),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::avx512(kernel),
                _ => kernel.run::<lanes::Plain>(),
            }
        }
    }
}

/// Work written once over sixteen lanes. `run` and everything it calls must be
/// `#[inline(always)]`, or it is not compiled for the instruction set.
pub(crate) trait Kernel {
    /// What comes of it.
    type Output;

    /// Does it.
    ///
    /// # Safety
    /// The kernel's own conditions, and the machine has the instructions of `L`.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Kernel;
    use crate::lanes;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: as promised by the caller.
        unsafe { kernel.run::<lanes::Avx2>() }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: as promised by the caller.
        unsafe { kernel.run::<lanes::Avx512>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_others_are_refused() {
        for (isa, name) in NAMES {
            assert_eq!(name.parse(), Ok(isa));
            assert_eq!(isa.to_string(), name);
        }
        assert_eq!("sse".parse::<Isa>(), Err(UnknownIsa("sse".into())));
    }

    #[test]
    fn plain_is_always_there_and_the_fastest_is_last() {
        assert_eq!(Isa::available().next(), Some(Isa::Plain));
        assert_eq!(Isa::available().last(), Some(Isa::detect()));
    }
}
