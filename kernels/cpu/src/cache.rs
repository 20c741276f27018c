//! Keys and values of past tokens, in pages.
//!
//! A page holds a fixed number of tokens for every key head. Keys lie turned: for each block of
//! sixteen tokens, element by element, the sixteen tokens side by side, so that sixteen scores
//! come out of one vector. Values lie token by token, padded to a multiple of sixteen. A page
//! of a token count that is not a multiple of sixteen has a last block that is not full.
//!
//! Where values are the first elements of keys there are [keys only](KvCache::keys_only), and
//! they lie as values do: what is read for a score is what is read for the sum.

use crate::{Arena, Team};

/// Tokens whose keys lie side by side.
pub(crate) const BLOCK: usize = 16;

/// Pages of keys and values of one attention.
pub struct KvCache {
    keys: Arena,
    values: Arena,
    shape: Shape,
}

/// How a cache is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) pages: usize,
    pub(crate) page_tokens: usize,
    /// `page_tokens` up to a multiple of sixteen.
    pub(crate) slots: usize,
    pub(crate) key_heads: usize,
    pub(crate) head_width: usize,
    /// `head_width` up to a multiple of sixteen.
    pub(crate) padded: usize,
    /// Whether values are the first elements of keys.
    pub(crate) keys_only: bool,
}

impl KvCache {
    /// An empty cache. Memory is touched only as tokens are written.
    ///
    /// # Panics
    /// If anything but `pages` is zero, or the sizes cannot be counted.
    pub fn new(pages: usize, page_tokens: usize, key_heads: usize, head_width: usize) -> KvCache {
        KvCache::of(pages, page_tokens, key_heads, head_width, false)
    }

    /// An empty cache of keys, whose first elements are the values.
    ///
    /// # Panics
    /// As [`KvCache::new`].
    pub fn keys_only(
        pages: usize,
        page_tokens: usize,
        key_heads: usize,
        head_width: usize,
    ) -> KvCache {
        KvCache::of(pages, page_tokens, key_heads, head_width, true)
    }

    fn of(
        pages: usize,
        page_tokens: usize,
        key_heads: usize,
        head_width: usize,
        keys_only: bool,
    ) -> KvCache {
        assert!(page_tokens > 0, "a page of no tokens");
        assert!(key_heads > 0 && head_width > 0, "{key_heads} key heads of {head_width}");
        let slots = page_tokens.next_multiple_of(BLOCK);
        let padded = head_width.next_multiple_of(BLOCK);
        let widths = if keys_only { [padded, 0] } else { [head_width, padded] };
        let [keys, values] = widths.map(|width| {
            let tokens = pages.checked_mul(slots).expect("a countable cache");
            let heads = tokens.checked_mul(key_heads).expect("a countable cache");
            Arena::new(heads.checked_mul(width).expect("a countable cache"))
        });
        let shape = Shape { pages, page_tokens, slots, key_heads, head_width, padded, keys_only };
        KvCache { keys, values, shape }
    }

    /// Pages whose tokens are a multiple of it have no gaps.
    pub const BLOCK: usize = BLOCK;

    /// Bytes that one token takes in pages without gaps; saturates.
    pub fn token_bytes(key_heads: u32, head_width: u32, keys_only: bool) -> u64 {
        let width = u64::from(head_width);
        let padded = width.next_multiple_of(BLOCK as u64);
        let floats = if keys_only { padded } else { width + padded };
        u64::from(key_heads).saturating_mul(floats).saturating_mul(size_of::<f32>() as u64)
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.shape.pages
    }

    /// Tokens of a page.
    pub fn page_tokens(&self) -> usize {
        self.shape.page_tokens
    }

    /// Key and value heads.
    pub fn key_heads(&self) -> usize {
        self.shape.key_heads
    }

    /// Elements of a head.
    pub fn head_width(&self) -> usize {
        self.shape.head_width
    }

    /// Whether values are the first elements of keys.
    pub fn has_keys_only(&self) -> bool {
        self.shape.keys_only
    }

    /// How it is laid out.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The cache as all threads see it.
    pub(crate) fn view(&mut self) -> CacheView {
        CacheView {
            keys: self.keys.as_mut_ptr(),
            values: self.values.as_mut_ptr(),
            shape: self.shape,
        }
    }
}

/// Consecutive tokens of one request among the rows of a batch. Spans follow each other and
/// cover the batch. Several may read a page, but only one may write into it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span<'a> {
    /// The batch's row of the first token.
    pub first_row: usize,
    /// How many tokens.
    pub rows: usize,
    /// The position of the first token in its request; the others follow.
    pub position: usize,
    /// Pages of the request in order: position `p` is in page `pages[p / page_tokens]`.
    pub pages: &'a [u32],
    /// Tokens that the request may ever come to, which says which angles it turns by where a
    /// [table](crate::RopeTable::with_long) has two sorts. The same for all spans of a request.
    pub reach: usize,
}

/// A thread's share of the rows of some spans: which span, which row, which position.
pub(crate) struct RowWalk<'a> {
    spans: &'a [Span<'a>],
    span: usize,
    /// Rows of the span that are behind us.
    within: usize,
    left: usize,
}

impl<'a> RowWalk<'a> {
    #[inline(always)]
    pub(crate) fn new(spans: &'a [Span<'a>], team: &Team<'_>) -> RowWalk<'a> {
        let part = team.part(spans.iter().map(|span| span.rows).sum(), 1);
        let (mut span, mut within) = (0, part.start);
        while span < spans.len() && within >= spans[span].rows {
            within -= spans[span].rows;
            span += 1;
        }
        RowWalk { spans, span, within, left: part.len() }
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<(&'a Span<'a>, usize, usize)> {
        if self.left == 0 {
            return None;
        }
        while self.within >= self.spans[self.span].rows {
            self.within -= self.spans[self.span].rows;
            self.span += 1;
        }
        let span = &self.spans[self.span];
        let within = self.within;
        (self.within, self.left) = (within + 1, self.left - 1);
        Some((span, span.first_row + within, span.position + within))
    }
}

/// A cache as all threads see it while a program runs.
#[derive(Clone, Copy)]
pub(crate) struct CacheView {
    pub(crate) keys: *mut f32,
    pub(crate) values: *mut f32,
    pub(crate) shape: Shape,
}

impl CacheView {
    /// Where a key begins in a cache of keys only. Those behind it in its page follow.
    #[inline(always)]
    pub(crate) fn key(&self, pages: &[u32], head: usize, position: usize) -> usize {
        let Shape { page_tokens, slots, key_heads, padded, .. } = self.shape;
        let page = pages[position / page_tokens] as usize;
        ((page * key_heads + head) * slots + position % page_tokens) * padded
    }

    /// Where one head's keys and values begin for the block of tokens that `position` is in, and
    /// the token's place in that block.
    #[inline(always)]
    pub(crate) fn block(
        &self,
        pages: &[u32],
        head: usize,
        position: usize,
    ) -> (usize, usize, usize) {
        let Shape { page_tokens, slots, key_heads, head_width, padded, .. } = self.shape;
        let page = pages[position / page_tokens] as usize;
        let within = position % page_tokens;
        let token = (page * key_heads + head) * slots + within - within % BLOCK;
        (token * head_width, token * padded, within % BLOCK)
    }
}
