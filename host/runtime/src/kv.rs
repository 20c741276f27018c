//! The cache's pages: who has which block; and who has which slot.
//!
//! A request gets all blocks of its worst case when it is admitted, so a running request is
//! never stopped for want of cache; one that does not fit waits. Blocks that were used last are
//! given out first: memory that was never needed is never touched.

use std::sync::Arc;

/// All blocks of a cache: which are free.
#[derive(Debug)]
pub struct Pages {
    tokens_per_block: usize,
    blocks: usize,
    /// Blocks from here on were never given out.
    fresh: usize,
    recycled: Vec<u32>,
}

/// The blocks of one request. Give them back with [`Pages::free`].
#[derive(Debug)]
#[must_use = "blocks that are not given back are lost"]
pub struct Blocks(Arc<[u32]>);

impl Blocks {
    /// The block table.
    pub fn table(&self) -> &Arc<[u32]> {
        &self.0
    }
}

impl Pages {
    /// A cache of `blocks` free blocks of `tokens_per_block` (at least one) tokens.
    pub fn new(blocks: usize, tokens_per_block: usize) -> Pages {
        let tokens_per_block = tokens_per_block.max(1);
        Pages { tokens_per_block, blocks, fresh: 0, recycled: Vec::new() }
    }

    /// Tokens that fit in the whole cache.
    pub fn capacity(&self) -> usize {
        self.blocks.saturating_mul(self.tokens_per_block)
    }

    /// Blocks that nobody has.
    pub fn available(&self) -> usize {
        self.blocks - self.fresh + self.recycled.len()
    }

    /// Blocks that hold this many tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens_per_block)
    }

    /// Blocks for `tokens` tokens, or `None` where too few are free.
    pub fn allocate(&mut self, tokens: usize) -> Option<Blocks> {
        let count = self.blocks_for(tokens);
        if count > self.available() {
            return None;
        }
        let kept = self.recycled.len().saturating_sub(count);
        let mut table: Vec<u32> = self.recycled.drain(kept..).rev().collect();
        while table.len() < count {
            table.push(self.fresh as u32);
            self.fresh += 1;
        }
        Some(Blocks(table.into()))
    }

    /// Takes a request's blocks back.
    pub fn free(&mut self, blocks: Blocks) {
        self.recycled.extend(blocks.0.iter().rev());
    }
}

/// Places for what is kept of a request whatever its length: one for each that runs.
#[derive(Debug)]
pub struct Slots(Vec<u32>);

impl Slots {
    /// So many free ones.
    pub fn new(count: usize) -> Slots {
        Slots((0..count).rev().map(|slot| slot as u32).collect())
    }

    /// How many nobody has.
    pub fn available(&self) -> usize {
        self.0.len()
    }

    /// One that nobody has, or `None`.
    pub fn take(&mut self) -> Option<u32> {
        self.0.pop()
    }

    /// Takes one back.
    pub fn free(&mut self, slot: u32) {
        self.0.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_block_is_given_twice_and_all_come_back() {
        let mut pages = Pages::new(10, 4);
        assert_eq!((pages.capacity(), pages.available()), (40, 10));
        let a = pages.allocate(9).expect("3 blocks");
        let b = pages.allocate(28).expect("7 blocks");
        let all: BTreeSet<u32> = a.table().iter().chain(b.table().iter()).copied().collect();
        assert_eq!(all, (0..10).collect());
        assert_eq!(pages.available(), 0);
        assert!(pages.allocate(1).is_none());
        pages.free(a);
        assert_eq!(pages.available(), 3);
        assert!(pages.allocate(13).is_none(), "a refusal takes nothing");
        assert_eq!(pages.available(), 3);
        pages.free(b);
        assert_eq!(pages.available(), 10);
    }

    #[test]
    fn used_blocks_are_used_again_before_fresh_ones() {
        let mut pages = Pages::new(100, 1);
        let a = pages.allocate(3).expect("fits");
        let table = a.table().clone();
        pages.free(a);
        let b = pages.allocate(4).expect("fits");
        assert_eq!(b.table()[..3], table[..]);
        assert_eq!(b.table()[3], 3);
        pages.free(b);
    }

    #[test]
    fn nothing_needs_no_block() {
        let mut pages = Pages::new(0, 16);
        assert_eq!(pages.allocate(0).expect("nothing").table().len(), 0);
        assert!(pages.allocate(1).is_none());
    }

    #[test]
    fn no_slot_is_given_twice() {
        let mut slots = Slots::new(2);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(0), Some(1), None));
        slots.free(0);
        assert_eq!((slots.take(), slots.take()), (Some(0), None));
    }
}
