//! Floats that begin on a cache line.

use std::ops::{Deref, DerefMut};

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that begin on a cache line, zero at first; memory is touched only as it is used.
///
/// Programs run over any floats. They run faster where the arena is one of these and rows begin
/// at multiples of sixteen, for then no vector lies across two cache lines.
#[derive(Debug)]
pub struct Arena {
    floats: Vec<f32>,
    first: usize,
    len: usize,
}

impl Arena {
    /// `len` zeros.
    ///
    /// # Panics
    /// If so many cannot be counted.
    pub fn new(len: usize) -> Arena {
        let floats = vec![0.0; len.checked_add(LINE).expect("a countable arena")];
        // Where the alignment cannot be told, any will do.
        let first = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Arena { floats, first, len }
    }
}

impl Deref for Arena {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats[self.first..self.first + self.len]
    }
}

impl DerefMut for Arena {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[self.first..self.first + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_are_zero_and_begin_on_a_cache_line() {
        for len in [0, 1, 16, 1000, 1 << 20] {
            let mut arena = Arena::new(len);
            assert_eq!((arena.len(), arena.as_ptr().addr() % 64), (len, 0));
            assert!(arena.iter().all(|&float| float == 0.0));
            arena.fill(1.0);
        }
    }
}
