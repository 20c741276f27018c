//! Memory and tables of a store, bounded with errors that say what was asked for.

use crate::Limits;
use crate::error::{Exhausted, Rejection};
use wasmtime::ResourceLimiter;

/// Bounds of one store, and the most memory it has had.
pub(super) struct Limiter {
    limits: Limits,
    peak: usize,
}

impl Limiter {
    pub(super) fn new(limits: &Limits) -> Limiter {
        Limiter { limits: limits.clone(), peak: 0 }
    }

    /// The most bytes of linear memory so far.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        asked: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.limits.memory;
        if asked > limit {
            return Err(Rejection::Exhausted(Exhausted::Memory { asked, limit }).into());
        }
        self.peak = self.peak.max(asked);
        Ok(true)
    }

    // A failure to grow traps: what a guest does must not depend on the machine.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        asked: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.limits.table_elements;
        if asked > limit {
            return Err(Rejection::Exhausted(Exhausted::Table { asked, limit }).into());
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }
}
