//! Bounds for what a chat template does.
//!
//! The template engine counts instructions, but neither the memory that one takes nor how deeply
//! its own code recurses. So it works on a thread with a deep stack, and is given up when it has
//! taken too long, or made the process grow too much.

use crate::error::RuntimeError;
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The stack: some kilobytes for each level that the bounds of templates allow. The system gives
/// only the pages that are used.
const STACK: usize = 512 << 20;
/// The longest that it may take.
const TIME: Duration = Duration::from_secs(5);
/// The most that the process may grow in the meantime, in bytes.
const MEMORY: u64 = 1 << 30;
/// How often it is looked at.
const PACE: Duration = Duration::from_millis(5);

/// What `work` answers.
///
/// # Errors
/// Its own, or that it took too much.
pub(super) fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    let failed = |reason: &str| RuntimeError::ChatTemplate { reason: reason.into() };
    let (send, receive) = mpsc::channel();
    let started = Instant::now();
    let before = resident();
    thread::Builder::new()
        .name("chat template".into())
        .stack_size(STACK)
        .spawn(move || drop(send.send(work())))
        .map_err(|e| RuntimeError::NoThreads { threads: 1, reason: e.to_string() })?;
    loop {
        match receive.recv_timeout(PACE) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return Err(failed("it ended the engine of it")),
            Err(RecvTimeoutError::Timeout) if started.elapsed() > TIME => {
                return Err(failed("it takes too long"));
            }
            Err(RecvTimeoutError::Timeout) if resident().saturating_sub(before) > MEMORY => {
                return Err(failed("it takes too much memory"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Bytes of memory that this process has for itself, without mapped files; 0 where the system
/// does not say.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes << 10)
}
