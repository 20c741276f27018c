//! The heap of a plugin: blocks of powers of two, and a list of free ones for each power.
//!
//! A plugin lives for milliseconds, and compiling it is what costs. This is a tenth of the code of
//! the standard library's heap, and quicker. What it promises: a block that was given back is
//! given out again, so memory grows with what is held at once and not with the calls that a model
//! takes.

#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::null_mut;

/// Bytes of a page of WebAssembly.
const PAGE: usize = 1 << 16;
/// Pages that the memory grows by, at least.
const GROWTH: usize = 4;
/// The smallest block, and what every block is aligned to, as a power of two.
const SMALLEST: u32 = 4;

struct Heap {
    /// The first free block of each power of two; it begins with the address of the next.
    free: [Cell<*mut u8>; 32],
    /// What was never given out: from here …
    top: Cell<usize>,
    /// … to here.
    end: Cell<usize>,
}

// SAFETY: a plugin has one thread; the contract has no other.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap =
    Heap { free: [const { Cell::new(null_mut()) }; 32], top: Cell::new(0), end: Cell::new(0) };

/// The power of two that a block has, at least as large as what is asked for. Alignments are
/// powers of two, and none that a program here asks for is above the smallest block.
fn power(layout: Layout) -> u32 {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST);
    usize::BITS - (bytes - 1).leading_zeros()
}

impl Heap {
    /// A block that was never given out. Null where there is no memory left.
    #[inline(never)]
    fn fresh(&self, power: u32, align: usize) -> *mut u8 {
        if power >= 31 {
            return null_mut();
        }
        let size = 1 << power;
        // Neither can overflow: memory ends below 2³² and blocks below 2³¹ start in it, or the
        // check fails.
        let mut start = self.top.get().next_multiple_of(align.max(1 << SMALLEST));
        if start > self.end.get() || self.end.get() - start < size {
            let pages = (size + align).div_ceil(PAGE).max(GROWTH);
            let before = core::arch::wasm32::memory_grow::<0>(pages);
            if before == usize::MAX {
                return null_mut();
            }
            let base = before * PAGE;
            if base != self.end.get() {
                start = base;
            }
            self.end.set(base + pages * PAGE);
        }
        self.top.set(start + size);
        start as *mut u8
    }
}

// SAFETY: a block is at least as large and as aligned as its layout asks, lies in memory that grew
// for it, and is in no list while it is given out.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let power = power(layout);
        if layout.align() <= 1 << SMALLEST
            && let Some(free) = self.free.get(power as usize)
            && !free.get().is_null()
        {
            let block = free.get();
            // SAFETY: what is in a list was given back, and holds the address of the next.
            free.set(unsafe { block.cast::<*mut u8>().read() });
            return block;
        }
        self.fresh(power, layout.align())
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(free) = self.free.get(power(layout) as usize) {
            // SAFETY: nobody else holds the block any more, and it has 16 bytes or more.
            unsafe { block.cast::<*mut u8>().write(free.replace(block)) };
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that it fits.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if power(wanted) == power(layout) {
            return block;
        }
        // SAFETY: both blocks have as many bytes as are copied, and they are two.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
