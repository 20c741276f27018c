//! How much memory streams may hold at a time.
//!
//! Every parameter says beforehand what its stream holds ([`crate::Provider::held`]); workers
//! begin one only where that still fits. A parameter that fits in no case is found before
//! anything is written.

use crate::WeightError;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Without a bound by a person, streams may hold twice the largest output tensor and this.
const BESIDE: u64 = 64 << 20;

/// What streams may hold, in bytes, where `needs` are what each of them holds and `largest` is
/// the largest output tensor. `max_ram` bounds the whole process, so what it takes by now is
/// not theirs.
pub(crate) fn of(
    max_ram: Option<u64>,
    needs: &[(&str, u64)],
    largest: u64,
) -> Result<u64, WeightError> {
    let most = needs.iter().copied().max_by_key(|(_, need)| *need).unwrap_or(("", 0));
    let Some(max_ram) = max_ram else {
        return Ok(largest.saturating_mul(2).saturating_add(BESIDE).max(most.1));
    };
    let taken = resident();
    if max_ram.saturating_sub(taken) < most.1 {
        let (parameter, need) = (most.0.to_owned(), most.1);
        return Err(WeightError::Memory { parameter, need, taken, max_ram });
    }
    Ok(max_ram - taken)
}

/// Bytes of memory that this process takes now; 0 where the system does not say.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map_or(0, |count: u64| count.saturating_mul(1024))
}

/// Jobs in their order, begun as memory allows.
pub(crate) struct Queue<'a> {
    needs: &'a [(&'a str, u64)],
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    /// The job that is next.
    next: usize,
    /// Bytes that nobody holds.
    free: u64,
    /// Whether jobs are still begun.
    open: bool,
}

/// A job that was begun; dropped, it gives its memory back.
pub(crate) struct Begun<'a> {
    queue: &'a Queue<'a>,
    /// Which job.
    pub(crate) job: usize,
}

impl<'a> Queue<'a> {
    /// A queue of jobs with these needs, none of which is more than `budget`.
    pub(crate) fn new(needs: &'a [(&'a str, u64)], budget: u64) -> Queue<'a> {
        let state = Mutex::new(State { next: 0, free: budget, open: true });
        Queue { needs, state, freed: Condvar::new() }
    }

    /// Waits until the next job fits, and begins it; none when all were begun.
    pub(crate) fn begin(&'a self) -> Option<Begun<'a>> {
        let mut state = self.lock();
        loop {
            let need = self.needs.get(state.next).filter(|_| state.open)?.1;
            if let Some(free) = state.free.checked_sub(need) {
                let job = state.next;
                (state.free, state.next) = (free, job + 1);
                return Some(Begun { queue: self, job });
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Begins no job any more.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.queue.lock().free += self.queue.needs[self.job].1;
        self.queue.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_diagnostic::Diagnostic;

    #[test]
    fn a_need_that_never_fits_is_named_before_work() {
        let needs = [("small", 10), ("large", 1 << 40), ("other", 5)];
        let error = of(Some(1 << 30), &needs, 1).unwrap_err();
        assert!(error.to_string().contains("`large`"), "{error}");
        assert!(error.help().unwrap().contains("--max_ram"), "{error:?}");
        assert!(of(Some(1 << 41), &needs, 1).is_ok());
        // Nobody set a bound, so what must be may be.
        assert_eq!(of(None, &needs, 1).unwrap(), 1 << 40);
        assert_eq!(of(None, &[], 100 << 20).unwrap(), 264 << 20);
    }

    #[test]
    fn no_more_is_held_at_a_time_than_the_budget() {
        let needs: Vec<(&str, u64)> = (0..200).map(|i| ("", 1 + i * 7 % 10)).collect();
        let queue = Queue::new(&needs, 10);
        let held = Mutex::new((0, 0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let Some(begun) = queue.begin() {
                        let need = needs[begun.job].1;
                        let now = {
                            let mut held = held.lock().unwrap();
                            *held = (held.0 + need, held.1 + 1);
                            held.0
                        };
                        assert!(now <= 10, "{now}");
                        std::thread::yield_now();
                        held.lock().unwrap().0 -= need;
                    }
                });
            }
        });
        assert_eq!(held.into_inner().unwrap(), (0, 200));
    }

    #[test]
    fn a_closed_queue_begins_nothing() {
        let needs = [("", 1), ("", 1)];
        let queue = Queue::new(&needs, 1);
        let first = queue.begin().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.begin().is_none());
            queue.close();
            assert!(waiting.join().unwrap());
        });
        drop(first);
    }
}
