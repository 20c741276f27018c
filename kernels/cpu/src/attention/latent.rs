//! Keys whose first elements are the values, as [`crate::KvCache::keys_only`] lays them out.
//!
//! This is how latent attention runs once its projections are absorbed into queries and outputs:
//! one wide key for all query heads. So a tile takes many queries, and each page, while it is
//! near, goes through all of them before the next is read: once for the scores, and once for the
//! values.

#![allow(unsafe_code, reason = "threads write disjoint heads of one arena")]
#![allow(clippy::needless_range_loop, reason = "several arrays by one index, all unrolled")]

use super::{Heads, Query, Tile, score_stride};
use crate::cache::CacheView;
use crate::lanes::{LANES, Lanes};
use crate::{isa::Kernel, linear, rows::View};
use std::ops::Range;

/// Queries that are taken together.
pub(super) const QUERIES: usize = 16;

/// The most queries whose sums are in the registers at a time.
const MOST: usize = 6;

/// A tile's whole way.
pub(super) struct Attend<'a> {
    pub(super) query: View,
    pub(super) cache: &'a CacheView,
    pub(super) heads: Heads<'a>,
    pub(super) output: View,
    pub(super) scratch: &'a mut [f32],
    pub(super) tile: &'a Tile<'a, QUERIES>,
}

/// Where in the scratch what is.
#[derive(Clone, Copy)]
struct Scratch {
    /// Queries, turned and filled up with zeros.
    turned: *mut f32,
    /// Sums of weighted values so far, filled up likewise.
    results: *mut f32,
    /// A row of scores, then weights, for each query, by position.
    scores: *mut f32,
    /// Floats from one row of scores to the next.
    stride: usize,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Tile { queries, count, .. } = self.tile;
        let queries = &queries[..*count];
        let (Some(earliest), Some(latest)) = (queries.first(), queries.last()) else { return };
        let (first, length) = (earliest.first, latest.length);
        let shape = self.cache.shape;
        let padded = shape.padded;
        let stride = score_stride(length).unwrap_or_default();
        debug_assert!(self.scratch.len() >= queries.len() * (2 * padded + stride));
        let turned = self.scratch.as_mut_ptr();
        // SAFETY: the scratch holds padded queries, as many results and their scores; the heads
        // are in the rows, all positions in pages of the cache.
        unsafe {
            let results = turned.add(queries.len() * padded);
            let scores = results.add(queries.len() * padded);
            let scratch = Scratch { turned, results, scores, stride };
            std::ptr::write_bytes(turned, 0, 2 * queries.len() * padded);
            for (q, &query) in queries.iter().enumerate() {
                let from = self.query.row(query.row).add(query.head * shape.head_width);
                let to = turned.add(q * padded);
                self.heads.turn::<L>(self.tile.reach, query, from, to, shape.head_width);
            }
            let mut left = first..length;
            while let Some((keys, positions)) = self.next_page(&mut left) {
                self.scores::<L>(queries.len(), scratch, keys, positions);
            }
            let mut sums = [0.0; QUERIES];
            for (q, &query) in queries.iter().enumerate() {
                sums[q] = self.heads.weigh::<L>(query, scores.add(q * stride));
            }
            let mut left = first..length;
            while let Some((keys, positions)) = self.next_page(&mut left) {
                self.values::<L>(queries, scratch, keys, positions);
            }
            let width = self.output.width / self.heads.query_heads;
            for (q, query) in queries.iter().enumerate() {
                let result = results.add(q * padded);
                let output = self.output.row(query.row).add(query.head * width);
                for i in (0..width).step_by(LANES) {
                    let value = L::load(result.add(i)).div(L::splat(sums[q]));
                    value.store_part(output.add(i), (width - i).min(LANES));
                }
            }
        }
    }
}

impl Attend<'_> {
    /// Takes positions of one page: the first key, and which they are.
    #[inline(always)]
    unsafe fn next_page(&self, left: &mut Range<usize>) -> Option<(*const f32, Range<usize>)> {
        let position = left.start;
        if position >= left.end {
            return None;
        }
        let page = self.cache.shape.page_tokens;
        left.start = (position - position % page + page).min(left.end);
        let key = self.cache.key(self.tile.pages, self.tile.key_head, position);
        // SAFETY: the page is in the cache.
        Some((unsafe { self.cache.keys.add(key) }, position..left.start))
    }

    /// Scores of all queries at positions of one page: products with its keys.
    #[inline(always)]
    unsafe fn scores<L: Lanes>(
        &self,
        queries: usize,
        scratch: Scratch,
        keys: *const f32,
        positions: Range<usize>,
    ) {
        let padded = self.cache.shape.padded;
        let Scratch { turned, scores, stride, .. } = scratch;
        // SAFETY: the queries are there, keys of a page follow each other, and there are scores
        // for all positions.
        unsafe {
            let queries = View { data: turned, rows: queries, width: padded, stride: padded };
            let data = scores.add(positions.start);
            let scores = View { data, rows: queries.rows, width: positions.len(), stride };
            linear::products::<L>(queries, keys, scores);
        }
    }

    /// Adds weighted values of positions of one page to all results.
    #[inline(always)]
    unsafe fn values<L: Lanes>(
        &self,
        queries: &[Query],
        scratch: Scratch,
        keys: *const f32,
        positions: Range<usize>,
    ) {
        let width = (self.output.width / self.heads.query_heads).next_multiple_of(LANES);
        let most = if L::MANY_REGISTERS { MOST } else { MOST / 2 };
        // SAFETY: the queries' results and weights are there, and keys up to a whole vector.
        unsafe {
            let mut first = 0;
            while first < width {
                let wide = L::MANY_REGISTERS && first + 4 * LANES <= width;
                let mut q = 0;
                while q < queries.len() {
                    let count = (queries.len() - q).min(most);
                    let part = Part { queries: &queries[q..q + count], q, first };
                    match wide {
                        true => self.part::<L, 4>(part, scratch, keys, positions.clone()),
                        false => self.part::<L, 1>(part, scratch, keys, positions.clone()),
                    }
                    q += count;
                }
                first += if wide { 4 * LANES } else { LANES };
            }
        }
    }

    /// Some vectors of some results.
    #[inline(always)]
    unsafe fn part<L: Lanes, const C: usize>(
        &self,
        part: Part<'_>,
        scratch: Scratch,
        keys: *const f32,
        positions: Range<usize>,
    ) {
        // SAFETY: as promised to `values`. There are no more than `MOST` queries.
        unsafe {
            match part.queries.len() {
                1 => self.weighted::<L, 1, C>(part, scratch, keys, positions),
                2 => self.weighted::<L, 2, C>(part, scratch, keys, positions),
                3 => self.weighted::<L, 3, C>(part, scratch, keys, positions),
                4 => self.weighted::<L, 4, C>(part, scratch, keys, positions),
                5 => self.weighted::<L, 5, C>(part, scratch, keys, positions),
                6 => self.weighted::<L, 6, C>(part, scratch, keys, positions),
                queries => unreachable!("a part of {queries} queries"),
            }
        }
    }

    /// `C` vectors of `Q` results.
    #[inline(always)]
    unsafe fn weighted<L: Lanes, const Q: usize, const C: usize>(
        &self,
        part: Part<'_>,
        scratch: Scratch,
        keys: *const f32,
        positions: Range<usize>,
    ) {
        let padded = self.cache.shape.padded;
        let Part { queries, q: first_query, first } = part;
        let within = |position: usize| position.clamp(positions.start, positions.end);
        // What all see together, if anything, is from `begin` to `end`.
        let end = within(queries[0].length);
        let begin = within(queries[Q - 1].first).min(end);
        // SAFETY: as promised to `values`.
        unsafe {
            let keys = keys.add(first);
            let results = scratch.results.add(first_query * padded + first);
            let weights = scratch.scores.add(first_query * scratch.stride);
            let mut sums = [[L::splat(0.0); C]; Q];
            for q in 0..Q {
                for c in 0..C {
                    sums[q][c] = L::load(results.add(q * padded + c * LANES));
                }
                for position in within(queries[q].first)..begin {
                    let key = keys.add((position - positions.start) * padded);
                    let weight = *weights.add(q * scratch.stride + position);
                    add::<L, C>(key, weight, &mut sums[q]);
                }
            }
            for position in begin..end {
                let key = keys.add((position - positions.start) * padded);
                let mut vectors = [L::splat(0.0); C];
                for c in 0..C {
                    vectors[c] = L::load(key.add(c * LANES));
                }
                for q in 0..Q {
                    let weight = L::splat(*weights.add(q * scratch.stride + position));
                    for c in 0..C {
                        sums[q][c] = vectors[c].mul_add(weight, sums[q][c]);
                    }
                }
            }
            for q in 0..Q {
                for position in within(queries[q].first.max(end))..within(queries[q].length) {
                    let key = keys.add((position - positions.start) * padded);
                    let weight = *weights.add(q * scratch.stride + position);
                    add::<L, C>(key, weight, &mut sums[q]);
                }
                for c in 0..C {
                    sums[q][c].store(results.add(q * padded + c * LANES));
                }
            }
        }
    }
}

/// Some of a tile's queries, and the first element of the vectors that are made.
struct Part<'a> {
    queries: &'a [Query],
    /// The first one's number in the tile.
    q: usize,
    first: usize,
}

/// Adds one weighted value.
#[inline(always)]
unsafe fn add<L: Lanes, const C: usize>(value: *const f32, weight: f32, sums: &mut [L; C]) {
    for c in 0..C {
        // SAFETY: `C` vectors are there.
        unsafe {
            sums[c] = L::load(value.add(c * LANES)).mul_add(L::splat(weight), sums[c]);
        }
    }
}
