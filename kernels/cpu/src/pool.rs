//! A pool of threads for short, regular work.
//!
//! A run hands the same closure to every thread, the caller's among them, and ends when all are
//! done. A run is meant to be a whole forward pass, with a barrier between its steps
//! ([`Team::wait`]); between runs workers spin for a moment and then sleep.

#![allow(unsafe_code, reason = "a run's closure is lent to threads that outlive it")]

use crate::barrier::{Barrier, wait_until};
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// How often a worker looks for a new run before it sleeps: some hundred microseconds.
const SPINS: usize = 2000;

/// Threads that wait for runs.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a run: there is one at a time.
    running: Mutex<()>,
}

/// One thread's view of a run.
#[derive(Debug)]
pub struct Team<'a> {
    thread: usize,
    barrier: &'a Barrier,
    threads: usize,
}

#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    /// Counts runs; workers wait for it to change.
    run: AtomicUsize,
    /// Workers that have not finished the run yet.
    busy: AtomicUsize,
    /// The run's closure.
    job: Mutex<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
    asleep: Vec<AtomicBool>,
    threads: usize,
}

/// A borrowed closure whose lifetime `Pool::run` vouches for.
#[derive(Clone, Copy, Debug)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), &Team<'_>),
}

// SAFETY: the closure is `Sync`, as `Pool::run` demands.
unsafe impl Send for Job {}

/// What a thread that waited for a panicked one unwinds with; never seen outside.
struct Deserted;

impl Team<'_> {
    /// Which thread this is, from zero; zero is the caller.
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// How many there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Returns once all threads of the run have called it; what each wrote before, all see
    /// after. Unwinds if one of them has panicked.
    pub fn wait(&self) {
        if self.barrier.wait().is_err() {
            resume_unwind(Box::new(Deserted));
        }
    }

    /// This thread's part of `0..n`, see [`split_range`].
    pub fn part(&self, n: usize, grain: usize) -> Range<usize> {
        split_range(n, grain, self.thread, self.threads)
    }
}

/// The part of `0..n` that is `thread`'s of `threads`: whole grains, but for the last, as even as
/// they come. The parts are in order and cover everything.
pub fn split_range(n: usize, grain: usize, thread: usize, threads: usize) -> Range<usize> {
    let grains = n.div_ceil(grain);
    let bound = |thread: usize| {
        let (whole, rest) = (grains / threads, grains % threads);
        ((whole * thread + rest * thread / threads) * grain).min(n)
    };
    bound(thread)..bound(thread + 1)
}

impl Pool {
    /// A pool of `threads` threads, of which the caller of [`Pool::run`] is one.
    ///
    /// # Panics
    /// If `threads` is zero.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        assert!(threads > 0, "a pool of no threads");
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads),
            run: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            job: Mutex::new(None),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
            asleep: (0..threads).map(|_| AtomicBool::new(false)).collect(),
            threads,
        });
        // Dropping the pool ends those that have started if another cannot.
        let mut pool = Pool { shared, workers: Vec::new(), running: Mutex::new(()) };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("kernel-{thread}"));
            pool.workers.push(builder.spawn(move || shared.work(thread))?);
        }
        Ok(pool)
    }

    /// How many threads.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Calls `f` once on every thread, the caller's among them, and returns when all are done.
    /// Must not be called from inside a run.
    ///
    /// # Panics
    /// With what a thread panicked with, once all have stopped.
    pub fn run<F: Fn(&Team<'_>) + Sync>(&self, f: F) {
        unsafe fn call<F: Fn(&Team<'_>)>(closure: *const (), team: &Team<'_>) {
            // SAFETY: `Pool::run` made the pointer from an `F` that lives until all are done.
            unsafe { (*closure.cast::<F>())(team) }
        }
        let shared = &*self.shared;
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job { closure: (&raw const f).cast(), call: call::<F> };
        *lock(&shared.job) = Some(job);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.run.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep[1..]) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.call(job, 0);
        wait_until(SPINS, || shared.busy.load(Ordering::Acquire) == 0);
        *lock(&shared.job) = None;
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            shared.barrier.reset();
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.run.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            Thread::unpark(worker.thread());
            // A worker catches every panic of a run, so there is nothing to hear from it.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        loop {
            let changed = || self.run.load(Ordering::SeqCst) != seen;
            let mut spins = 0;
            while !changed() && spins < SPINS {
                std::hint::spin_loop();
                spins += 1;
            }
            self.asleep[thread].store(true, Ordering::SeqCst);
            while !changed() {
                thread::park();
            }
            self.asleep[thread].store(false, Ordering::SeqCst);
            seen = self.run.load(Ordering::SeqCst);
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            let job = *lock(&self.job);
            if let Some(job) = job {
                self.call(job, thread);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Calls the closure as one of the threads; a panic is kept and frees those that wait.
    fn call(&self, job: Job, thread: usize) {
        let team = Team { thread, barrier: &self.barrier, threads: self.threads };
        // SAFETY: `Pool::run` does not return before all calls have.
        let call = AssertUnwindSafe(|| unsafe { (job.call)(job.closure, &team) });
        if let Err(panic) = catch_unwind(call) {
            let mut first = lock(&self.panic);
            if first.as_ref().is_none_or(|first| first.is::<Deserted>()) {
                *first = Some(panic);
            }
            self.barrier.break_up();
        }
    }
}

/// Locks; what a panicked holder left is whole, for nothing panics while holding.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn parts_are_in_order_even_and_cover_everything() {
        for (n, grain, threads) in [(0, 4, 3), (1, 16, 2), (100, 16, 3), (7, 1, 9), (64, 8, 2)] {
            let mut next = 0;
            for thread in 0..threads {
                let part = split_range(n, grain, thread, threads);
                assert_eq!(part.start, next);
                assert!(part.end == n || part.end.is_multiple_of(grain));
                assert!(part.len() <= n.div_ceil(grain).div_ceil(threads) * grain);
                next = part.end;
            }
            assert_eq!(next, n);
        }
    }

    #[test]
    fn every_thread_runs_once_a_run_over_many_runs() {
        for threads in [1, 2, 7] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
            for _ in 0..500 {
                pool.run(|team| {
                    counts[team.thread()].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 500));
        }
    }

    #[test]
    fn runs_reach_workers_that_have_gone_to_sleep() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicU64::new(0);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            pool.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 15);
    }

    #[test]
    fn what_is_written_before_a_barrier_is_seen_after_it() {
        struct Cells(Vec<UnsafeCell<usize>>);
        // SAFETY: each thread writes its own cell, and reads others' only behind a barrier.
        unsafe impl Sync for Cells {}
        for threads in [2, 5] {
            let pool = Pool::new(threads).unwrap();
            let cells = Cells((0..threads).map(|_| UnsafeCell::new(0)).collect());
            let cells = &cells;
            pool.run(move |team| {
                for round in 0..2000 {
                    // SAFETY: see `Cells`.
                    unsafe { *cells.0[team.thread()].get() = round };
                    team.wait();
                    for cell in &cells.0 {
                        // SAFETY: see `Cells`.
                        assert_eq!(unsafe { *cell.get() }, round);
                    }
                    team.wait();
                }
            });
        }
    }

    #[test]
    fn a_panic_anywhere_frees_the_others_and_reaches_the_caller() {
        let pool = Pool::new(4).unwrap();
        for culprit in 0..4 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(|team| {
                    team.wait();
                    if team.thread() == culprit {
                        resume_unwind(Box::new(culprit));
                    }
                    team.wait();
                    team.wait();
                });
            }));
            assert_eq!(caught.unwrap_err().downcast_ref::<usize>(), Some(&culprit));
            pool.run(|team| team.wait());
        }
    }
}
