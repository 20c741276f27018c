//! A barrier for threads that are all running, or soon will be.
//!
//! Waiting spins for a short while, for the others are usually done within a microsecond, and
//! then yields, for on a busy machine the one waited for may need this very core.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// How often a waiting thread looks before it begins to yield: some ten microseconds.
const SPINS: usize = 300;

/// Where a fixed number of threads meet, again and again.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Barrier {
    arrived: AtomicUsize,
    /// Counts meetings.
    round: Round,
    broken: AtomicBool,
    threads: usize,
}

/// On a cache line of its own: waiting threads read it while others arrive.
#[derive(Debug)]
#[repr(align(128))]
struct Round(AtomicUsize);

/// One of the threads will not come any more.
#[derive(Debug)]
pub(crate) struct Broken;

impl Barrier {
    pub(crate) fn new(threads: usize) -> Barrier {
        Barrier {
            arrived: AtomicUsize::new(0),
            round: Round(AtomicUsize::new(0)),
            broken: AtomicBool::new(false),
            threads,
        }
    }

    /// Returns once all threads have called it; what each wrote before, all see after.
    pub(crate) fn wait(&self) -> Result<(), Broken> {
        if self.threads == 1 {
            return Ok(());
        }
        let round = self.round.0.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.0.store(round.wrapping_add(1), Ordering::Release);
        } else {
            wait_until(SPINS, || {
                self.round.0.load(Ordering::Acquire) != round || self.broken.load(Ordering::Relaxed)
            });
        }
        if self.broken.load(Ordering::Relaxed) { Err(Broken) } else { Ok(()) }
    }

    /// Lets all who wait, and who ever will, go with [`Broken`].
    pub(crate) fn break_up(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Whole again, with nobody waiting.
    pub(crate) fn reset(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Release);
    }
}

/// Spins `spins` times, then yields, until something has come true.
pub(crate) fn wait_until(spins: usize, mut done: impl FnMut() -> bool) {
    for _ in 0..spins {
        if done() {
            return;
        }
        spin_loop();
    }
    while !done() {
        thread::yield_now();
    }
}
