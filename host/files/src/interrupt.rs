//! A person's wish to stop, seen by every long loop between two chunks of work.
//!
//! A signal handler may only set a flag; the loops come and look. So nothing is torn down in the
//! middle of a write, and what was half done is cleaned up by the destructors on the way out.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::FileError;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks every loop of this process to stop. Safe to call from a signal handler.
pub fn request() {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Whether someone asked to stop.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// [`FileError::Interrupted`] once someone asked to stop; call it once a chunk.
pub fn check() -> Result<(), FileError> {
    if requested() { Err(FileError::Interrupted) } else { Ok(()) }
}
