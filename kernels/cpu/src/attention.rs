//! Causal attention over a paged cache.
//!
//! A query's result depends on its own past alone. Scores: for each element of a head in order,
//! one multiply-add; then the greatest, the exponentials and their sum in sixteen lanes over
//! the positions it sees; then the values position by position, one multiply-add each; then one
//! division. What lies outside of a window is not read by it, though others of its tile may.
//! Queries that share a key head are taken together, and so are neighbouring rows of a span:
//! they share what is read, and each keeps this order.

#![allow(unsafe_code, reason = "threads write disjoint heads of one arena")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use crate::cache::{BLOCK, CacheView, RowWalk};
use crate::lanes::{LANES, Lanes};
use crate::{Isa, RopeTable, Span, Team, exp, isa::Kernel, rows::View};
use std::ops::Range;

/// Queries that are taken together.
const QUERIES: usize = 6;

/// What happens to scores besides scaling, in this order, before the softmax.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Scores become `bound · tanh(score / bound)`; more than zero, and finite.
    pub softcap: Option<f32>,
    /// A slope for each query head: `slope · (key's position - query's position)` is added.
    pub alibi: Option<&'a [f32]>,
    /// How many tokens a token sees, itself and those right before it; more than zero.
    pub window: Option<usize>,
}

/// Each lane's number.
const UP: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Query heads and what happens to their scores.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) query_heads: usize,
    pub(crate) scale: f32,
    pub(crate) rotary: Option<&'a RopeTable>,
    pub(crate) options: AttentionOptions<'a>,
}

/// Floats of scratch that a thread needs: turned queries, and scores of `length` positions.
pub(crate) fn scratch(padded_head: usize, length: usize) -> Option<usize> {
    QUERIES.checked_mul(padded_head.checked_add(score_stride(length)?)?)
}

/// Scores of a query: a block may be written behind the last position, and lanes of nothing.
fn score_stride(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(LANES)?.checked_add(2 * BLOCK)
}

/// Keys and values join the cache, keys turned first; threads share the rows.
///
/// # Safety
/// Shapes, pages and positions as checked; the scratch holds a head.
#[expect(clippy::too_many_arguments, reason = "operands of one kernel")]
pub(crate) unsafe fn write(
    isa: Isa,
    key: View,
    value: View,
    cache: &CacheView,
    spans: &[Span<'_>],
    rotary: Option<&RopeTable>,
    scratch: &mut [f32],
    team: &Team<'_>,
) {
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Write { key, value, cache, spans, rotary, scratch, team }) }
}

struct Write<'a> {
    key: View,
    value: View,
    cache: &'a CacheView,
    spans: &'a [Span<'a>],
    rotary: Option<&'a RopeTable>,
    scratch: &'a mut [f32],
    team: &'a Team<'a>,
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let shape = self.cache.shape;
        let width = shape.head_width;
        let mut rows = RowWalk::new(self.spans, self.team);
        while let Some((span, row, position)) = rows.next() {
            for head in 0..shape.key_heads {
                let (keys, values, token) = self.cache.block(span.pages, head, position);
                // SAFETY: the page is in the cache, the slot is this row's alone.
                unsafe {
                    let mut key = self.key.row(row).add(head * width).cast_const();
                    if let Some(table) = self.rotary {
                        let turned = self.scratch.as_mut_ptr();
                        table.turn::<L>(position, key, turned);
                        key = turned;
                    }
                    let keys = self.cache.keys.add(keys + token);
                    for element in 0..width {
                        *keys.add(element * BLOCK) = *key.add(element);
                    }
                    let value = self.value.row(row).add(head * width);
                    let values = self.cache.values.add(values + token * shape.padded);
                    std::ptr::copy_nonoverlapping(value, values, width);
                }
            }
        }
    }
}

/// Queries against the cache; threads share rows and heads by how much they have to read.
///
/// # Safety
/// Shapes, pages and positions as checked; the output is apart from the queries; the scratch
/// is as [`scratch`] says for the longest span.
#[expect(clippy::too_many_arguments, reason = "operands of one kernel")]
pub(crate) unsafe fn attend(
    isa: Isa,
    query: View,
    cache: &CacheView,
    spans: &[Span<'_>],
    heads: Heads<'_>,
    output: View,
    scratch: &mut [f32],
    team: &Team<'_>,
) {
    let group = heads.query_heads / cache.shape.key_heads;
    let window = heads.options.window.unwrap_or(usize::MAX);
    let (lowest, highest) = share(spans, heads.query_heads, window, team);
    let mut tile = Tile { queries: [Query::default(); QUERIES], count: 0, pages: &[], key_head: 0 };
    let mut cost = 0u64;
    for key_head in 0..cache.shape.key_heads {
        for span in spans {
            for row in 0..span.rows {
                let length = span.position + row + 1;
                let first = length.saturating_sub(window);
                for head in key_head * group..(key_head + 1) * group {
                    if (lowest..highest).contains(&cost) {
                        let latest = tile.queries[tile.count.saturating_sub(1)];
                        let fits = tile.count < QUERIES
                            && latest.length <= length
                            && tile.key_head == key_head
                            && std::ptr::eq(tile.pages, span.pages);
                        if !fits {
                            let full = tile;
                            // SAFETY: as promised by the caller.
                            unsafe {
                                isa.run(Attend { query, cache, heads, output, scratch, tile: full })
                            };
                            tile = Tile { count: 0, pages: span.pages, key_head, ..full };
                        }
                        let row = span.first_row + row;
                        tile.queries[tile.count] = Query { row, head, first, length };
                        tile.count += 1;
                    }
                    cost += (length - first) as u64;
                }
            }
        }
    }
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Attend { query, cache, heads, output, scratch, tile }) };
}

/// The queries of a thread: those whose reading begins in this range of all the reading.
fn share(spans: &[Span<'_>], query_heads: usize, window: usize, team: &Team<'_>) -> (u64, u64) {
    let mut total = 0u64;
    for span in spans {
        // Rows that see all of their past, and those that see no more than the window.
        let rows = window.saturating_sub(span.position).min(span.rows);
        let bounded = (span.rows - rows) as u64;
        let (rows, before) = (rows as u64, span.position as u64);
        total += rows * before + rows * (rows + 1) / 2 + bounded * window as u64;
    }
    let total = u128::from(total) * query_heads as u128;
    let bound = |thread: usize| (total * thread as u128 / team.threads() as u128) as u64;
    (bound(team.thread()), bound(team.thread() + 1))
}

/// One head of one row.
#[derive(Clone, Copy, Default)]
struct Query {
    row: usize,
    head: usize,
    /// The first position it sees.
    first: usize,
    /// The position behind its own, which is the last it sees.
    length: usize,
}

/// Queries of one span and one key head; neither first positions nor lengths fall.
#[derive(Clone, Copy)]
struct Tile<'a> {
    queries: [Query; QUERIES],
    count: usize,
    pages: &'a [u32],
    key_head: usize,
}

struct Attend<'a> {
    query: View,
    cache: &'a CacheView,
    heads: Heads<'a>,
    output: View,
    scratch: &'a mut [f32],
    tile: Tile<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: as promised to `attend`.
        unsafe {
            match self.tile.count {
                0 => {}
                1 => self.queries::<L, 1>(),
                2 => self.queries::<L, 2>(),
                3 => self.queries::<L, 3>(),
                4 => self.queries::<L, 4>(),
                5 => self.queries::<L, 5>(),
                _ => self.queries::<L, QUERIES>(),
            }
        }
    }
}

impl Attend<'_> {
    /// The whole way of `Q` queries.
    #[inline(always)]
    unsafe fn queries<L: Lanes, const Q: usize>(self) {
        let padded = self.cache.shape.padded;
        // Of the longest, which is the last; no longer than `scratch` counted with.
        let length = self.tile.queries[Q - 1].length;
        let stride = length.next_multiple_of(LANES) + 2 * BLOCK;
        debug_assert!(self.scratch.len() >= Q * (padded + stride));
        let turned = self.scratch.as_mut_ptr();
        // SAFETY: the scratch holds `Q` padded heads and their scores.
        unsafe {
            let scores = turned.add(Q * padded);
            for q in 0..Q {
                self.turn::<L>(self.tile.queries[q], turned.add(q * padded));
            }
            if L::MANY_REGISTERS {
                self.scores::<L, Q, 2>(turned, scores, stride);
            } else {
                self.scores::<L, Q, 1>(turned, scores, stride);
            }
            let mut sums = [0.0; Q];
            for q in 0..Q {
                sums[q] = self.softmax::<L>(self.tile.queries[q], scores.add(q * stride));
            }
            let mut first = 0;
            while L::MANY_REGISTERS && first + 4 * LANES <= padded {
                self.values::<L, Q, 4>(scores, stride, sums, first);
                first += 4 * LANES;
            }
            while first < padded {
                self.values::<L, Q, 1>(scores, stride, sums, first);
                first += LANES;
            }
        }
    }

    /// Fetches a query, turned if need be.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(&self, query: Query, to: *mut f32) {
        let width = self.cache.shape.head_width;
        // SAFETY: the row has the head, and the position is in the table.
        unsafe {
            let from = self.query.row(query.row).add(query.head * width);
            match self.heads.rotary {
                Some(table) => table.turn::<L>(query.length - 1, from, to),
                None => std::ptr::copy_nonoverlapping(from, to, width),
            }
        }
    }

    /// Scores of `Q` queries at all positions that one of them sees, `B` blocks of keys at a time.
    #[inline(always)]
    unsafe fn scores<L: Lanes, const Q: usize, const B: usize>(
        &self,
        turned: *const f32,
        scores: *mut f32,
        stride: usize,
    ) {
        let shape = self.cache.shape;
        let length = self.tile.queries[Q - 1].length;
        let mut position = self.tile.queries[0].first;
        while position < length {
            // A block that is not there is the last one again, written where it already is.
            let mut blocks = [(self.cache.keys.cast_const(), position); B];
            for block in &mut blocks {
                let next = position.min(length - 1);
                let (keys, _, token) = self.cache.block(self.tile.pages, self.tile.key_head, next);
                let begin = next - token;
                // SAFETY: the page is in the cache.
                *block = (unsafe { self.cache.keys.add(keys) }, begin);
                let left = shape.page_tokens - begin % shape.page_tokens;
                position = begin + left.min(BLOCK);
            }
            // SAFETY: blocks hold sixteen tokens of each element; scores have room for a block
            // behind the last position.
            unsafe {
                let mut sums = [[L::splat(0.0); B]; Q];
                for element in 0..shape.head_width {
                    let mut keys = [L::splat(0.0); B];
                    for b in 0..B {
                        keys[b] = L::load(blocks[b].0.add(element * BLOCK));
                    }
                    for q in 0..Q {
                        let query = L::splat(*turned.add(q * shape.padded + element));
                        for b in 0..B {
                            sums[q][b] = keys[b].mul_add(query, sums[q][b]);
                        }
                    }
                }
                for q in 0..Q {
                    for b in 0..B {
                        sums[q][b].store(scores.add(q * stride + blocks[b].1));
                    }
                }
            }
        }
    }

    /// `C` vectors of the result, from element `first` on.
    #[inline(always)]
    unsafe fn values<L: Lanes, const Q: usize, const C: usize>(
        &self,
        scores: *const f32,
        stride: usize,
        sums: [f32; Q],
        first: usize,
    ) {
        let shape = self.cache.shape;
        let queries = &self.tile.queries;
        // What all see together, if anything, is from `begin` to `end`.
        let end = queries[0].length;
        let begin = queries[Q - 1].first.min(end);
        // SAFETY: all positions are in pages of the cache; the heads are in the output.
        unsafe {
            let mut results = [[L::splat(0.0); C]; Q];
            for q in 0..Q - 1 {
                let scores = scores.add(q * stride);
                self.value_by_value(scores, queries[q].first..begin, first, &mut results[q]);
            }
            let mut position = begin;
            while position < end {
                let values = self.value(position).add(first);
                let run = shape.page_tokens - position % shape.page_tokens;
                let run = run.min(end - position);
                for token in 0..run {
                    let value = values.add(token * shape.padded);
                    let mut vectors = [L::splat(0.0); C];
                    for c in 0..C {
                        vectors[c] = L::load(value.add(c * LANES));
                    }
                    for q in 0..Q {
                        let weight = L::splat(*scores.add(q * stride + position + token));
                        for c in 0..C {
                            results[q][c] = vectors[c].mul_add(weight, results[q][c]);
                        }
                    }
                }
                position += run;
            }
            for q in 1..Q {
                let (scores, from) = (scores.add(q * stride), queries[q].first.max(end));
                self.value_by_value(scores, from..queries[q].length, first, &mut results[q]);
            }
            for q in 0..Q {
                let query = self.tile.queries[q];
                let output = self.output.row(query.row).add(query.head * shape.head_width);
                for c in 0..C {
                    let from = first + c * LANES;
                    let n = (shape.head_width - from).min(LANES);
                    results[q][c].div(L::splat(sums[q])).store_part(output.add(from), n);
                }
            }
        }
    }

    /// Adds what one query sees at some positions, of which there may be none.
    #[inline(always)]
    unsafe fn value_by_value<L: Lanes, const C: usize>(
        &self,
        scores: *const f32,
        positions: Range<usize>,
        first: usize,
        result: &mut [L; C],
    ) {
        for position in positions {
            // SAFETY: the position is in a page of the cache.
            unsafe {
                let value = self.value(position).add(first);
                let weight = L::splat(*scores.add(position));
                for c in 0..C {
                    result[c] = L::load(value.add(c * LANES)).mul_add(weight, result[c]);
                }
            }
        }
    }

    /// Scores become weights; returns their sum.
    #[inline(always)]
    unsafe fn softmax<L: Lanes>(&self, query: Query, scores: *mut f32) -> f32 {
        let AttentionOptions { softcap, alibi, .. } = self.heads.options;
        let count = query.length - query.first;
        // SAFETY: there are scores up to `length` and room for sixteen more; a slope a head.
        unsafe {
            let scores = scores.add(query.first);
            if softcap.is_none() && alibi.is_none() {
                return softmax::<L>(scores, count, self.heads.scale);
            }
            let slope = alibi.map(|slopes| slopes[query.head]);
            let scale = L::splat(self.heads.scale);
            for i in (0..count).step_by(LANES) {
                let mut score = L::load(scores.add(i)).mul(scale);
                if let Some(bound) = softcap {
                    score = exp::softcap(score, bound);
                }
                if let Some(slope) = slope {
                    // Whole numbers, exact.
                    let ahead = L::splat(i as f32 - (count - 1) as f32).add(L::load(UP.as_ptr()));
                    score = ahead.mul_add(L::splat(slope), score);
                }
                score.store(scores.add(i));
            }
            softmax::<L>(scores, count, 1.0)
        }
    }

    /// The value at a position.
    #[inline(always)]
    unsafe fn value(&self, position: usize) -> *const f32 {
        let (_, values, token) = self.cache.block(self.tile.pages, self.tile.key_head, position);
        // SAFETY: the page is in the cache.
        unsafe { self.cache.values.add(values + token * self.cache.shape.padded) }
    }
}

/// Scores become `e^(scale·(score - greatest))`; returns their sum.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: *mut f32, length: usize, scale: f32) -> f32 {
    // SAFETY: there are `length` scores and room for sixteen more.
    unsafe {
        L::splat(f32::NEG_INFINITY).store(scores.add(length));
        let scale = L::splat(scale);
        let mut greatest = L::splat(f32::NEG_INFINITY);
        for i in (0..length).step_by(LANES) {
            let scaled = L::load(scores.add(i)).mul(scale);
            scaled.store(scores.add(i));
            greatest = greatest.max(scaled);
        }
        let greatest = L::splat(greatest.greatest());
        let mut sum = L::splat(0.0);
        for i in (0..length).step_by(LANES) {
            let weight = exp::exp(L::load(scores.add(i)).sub(greatest));
            weight.store(scores.add(i));
            sum = sum.add(weight);
        }
        sum.sum()
    }
}

#[cfg(test)]
mod tests;
