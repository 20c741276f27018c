//! How fast this machine reads memory: what decoding is measured against.

#![allow(unsafe_code, reason = "reads a buffer by sixteen")]

use crate::lanes::{LANES, Lanes};
use crate::{Isa, Pool, isa::Kernel};
use std::hint::black_box;
use std::time::Instant;

/// Bytes a second that all threads of a pool read together from a buffer of `bytes` bytes, each
/// its own part, in the best of `rounds` rounds.
///
/// # Panics
/// If this machine has not got `isa`.
pub fn read(pool: &Pool, isa: Isa, bytes: usize, rounds: usize) -> f64 {
    assert!(isa.is_available(), "this machine has no {isa}");
    let floats = (bytes / size_of::<f32>()).next_multiple_of(4 * LANES);
    let buffer = vec![1.0f32; floats];
    let mut best: f64 = 0.0;
    for _ in 0..rounds {
        let begin = Instant::now();
        pool.run(|team| {
            let part = &buffer[team.part(floats, 4 * LANES)];
            // SAFETY: the machine has the instructions.
            black_box(unsafe { isa.run(Sum { part }) });
        });
        best = best.max((floats * size_of::<f32>()) as f64 / begin.elapsed().as_secs_f64());
    }
    best
}

/// Adds up whole fours of lanes.
struct Sum<'a> {
    part: &'a [f32],
}

impl Kernel for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) -> f32 {
        // SAFETY: chunks have four times sixteen floats.
        unsafe {
            let mut sums = [L::splat(0.0); 4];
            for chunk in self.part.chunks_exact(4 * LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.add(L::load(chunk.as_ptr().add(i * LANES)));
                }
            }
            let [a, b, c, d] = sums;
            a.add(b).add(c.add(d)).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_reads_everything_and_finds_a_speed() {
        let pool = Pool::new(2).unwrap();
        for isa in Isa::available() {
            let part = vec![0.5; 6 * 64];
            // SAFETY: the instruction set is available.
            assert_eq!(unsafe { isa.run(Sum { part: &part }) }, 192.0);
            assert!(read(&pool, isa, 1 << 20, 2) > 1e6);
        }
    }
}
