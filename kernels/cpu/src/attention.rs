//! Causal attention over a paged cache.
//!
//! A query's result depends on its own past alone. Scores: for each element of a head in order,
//! one multiply-add; then the greatest, the exponentials and their sum in sixteen lanes over
//! the positions it sees; then the values position by position, one multiply-add each; then one
//! division. What lies outside of a window is not read by it, though others of its tile may.
//! Queries that share a key head are taken together, and so are neighbouring rows of a span:
//! they share what is read, and each keeps this order.
//!
//! Over a cache of keys only ([`latent`]) the one thing that differs is a score: the product of
//! two rows, as of [`crate::linear`]. A sink is one more score that has no value: it counts for
//! the greatest, and its exponential is added to the sum last.

#![allow(unsafe_code, reason = "threads write disjoint heads of one arena")]

mod latent;
mod pairs;

use crate::cache::{BLOCK, CacheView, RowWalk, Shape};
use crate::lanes::{LANES, Lanes};
use crate::{Isa, RopeTable, Span, Team, exp, isa::Kernel, rows::View};

/// What happens to scores besides scaling, in this order, before the softmax; and what joins it.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionOptions<'a> {
    /// Scores become `bound · tanh(score / bound)`; more than zero, and finite.
    pub softcap: Option<f32>,
    /// A slope for each query head: `slope · (key's position - query's position)` is added.
    pub alibi: Option<&'a [f32]>,
    /// How many tokens a token sees, itself and those right before it; more than zero.
    pub window: Option<usize>,
    /// A score for each query head that joins the softmax as it is, and has no value.
    pub sinks: Option<&'a [f32]>,
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

impl Heads<'_> {
    /// A query of a request of this reach, turned if need be.
    ///
    /// # Safety
    /// A head of `width` is there, and there is room for it; the position is in the table.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(
        &self,
        reach: usize,
        query: Query,
        from: *const f32,
        to: *mut f32,
        width: usize,
    ) {
        // SAFETY: as promised by the caller.
        unsafe {
            match self.rotary {
                Some(table) => table.turn::<L>(table.row(reach, query.length - 1), from, to),
                None => std::ptr::copy_nonoverlapping(from, to, width),
            }
        }
    }

    /// Scores become weights; returns their sum, and the sink's with them.
    ///
    /// # Safety
    /// There are scores up to the query's length and room for sixteen more; and an option for
    /// each head.
    #[inline(always)]
    unsafe fn weigh<L: Lanes>(&self, query: Query, scores: *mut f32) -> f32 {
        let AttentionOptions { softcap, alibi, sinks, .. } = self.options;
        let sink = sinks.map(|sinks| sinks[query.head]);
        let count = query.length - query.first;
        // SAFETY: as promised by the caller.
        unsafe {
            let scores = scores.add(query.first);
            if softcap.is_none() && alibi.is_none() {
                return softmax::<L>(scores, count, self.scale, sink);
            }
            let slope = alibi.map(|slopes| slopes[query.head]);
            let scale = L::splat(self.scale);
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
            softmax::<L>(scores, count, 1.0, sink)
        }
    }
}

/// Floats of scratch that a thread needs: turned queries, and scores of `length` positions; and
/// sums of values if need be.
pub(crate) fn scratch(shape: Shape, length: usize) -> Option<usize> {
    let scores = score_stride(length)?;
    if shape.keys_only {
        return latent::QUERIES.checked_mul((2 * shape.padded).checked_add(scores)?);
    }
    pairs::QUERIES.checked_mul(shape.padded.checked_add(scores)?)
}

/// Scores of a query: a block may be written behind the last position, and lanes of nothing.
fn score_stride(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(LANES)?.checked_add(2 * BLOCK)
}

/// Keys and values, or keys alone, join the cache, keys turned first; threads share the rows.
///
/// # Safety
/// Shapes, pages and positions as checked; the scratch holds a head.
#[expect(clippy::too_many_arguments, reason = "operands of one kernel")]
pub(crate) unsafe fn write(
    isa: Isa,
    key: View,
    value: Option<View>,
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
    value: Option<View>,
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
                // SAFETY: the page is in the cache, the slot is this row's alone.
                unsafe {
                    let mut key = self.key.row(row).add(head * width).cast_const();
                    if let Some(table) = self.rotary {
                        let turned = self.scratch.as_mut_ptr();
                        table.turn::<L>(table.row(span.reach, position), key, turned);
                        key = turned;
                    }
                    let Some(value) = self.value else {
                        let to = self.cache.keys.add(self.cache.key(span.pages, head, position));
                        std::ptr::copy_nonoverlapping(key, to, width);
                        continue;
                    };
                    let (keys, values, token) = self.cache.block(span.pages, head, position);
                    let keys = self.cache.keys.add(keys + token);
                    for element in 0..width {
                        *keys.add(element * BLOCK) = *key.add(element);
                    }
                    let value = value.row(row).add(head * width);
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
    // SAFETY: as promised by the caller.
    unsafe {
        if cache.shape.keys_only {
            tiles(cache.shape, spans, heads, team, |tile| {
                let scratch = &mut *scratch;
                isa.run(latent::Attend { query, cache, heads, output, scratch, tile });
            });
        } else {
            tiles(cache.shape, spans, heads, team, |tile| {
                let scratch = &mut *scratch;
                isa.run(pairs::Attend { query, cache, heads, output, scratch, tile });
            });
        }
    }
}

/// Gives out a thread's queries, `N` at a time if there are so many that belong together.
fn tiles<'a, const N: usize>(
    shape: Shape,
    spans: &[Span<'a>],
    heads: Heads<'_>,
    team: &Team<'_>,
    mut each: impl FnMut(&Tile<'a, N>),
) {
    let group = heads.query_heads / shape.key_heads;
    let window = heads.options.window.unwrap_or(usize::MAX);
    let (lowest, highest) = share(spans, heads.query_heads, window, team);
    let none = [Query::default(); N];
    let mut tile = Tile { queries: none, count: 0, pages: &[], reach: 0, key_head: 0 };
    let mut cost = 0u64;
    for key_head in 0..shape.key_heads {
        for span in spans {
            for row in 0..span.rows {
                let length = span.position + row + 1;
                let first = length.saturating_sub(window);
                for head in key_head * group..(key_head + 1) * group {
                    if (lowest..highest).contains(&cost) {
                        let latest = tile.queries[tile.count.saturating_sub(1)];
                        let fits = tile.count < N
                            && latest.length <= length
                            && (tile.key_head, tile.reach) == (key_head, span.reach)
                            && std::ptr::eq(tile.pages, span.pages);
                        if !fits {
                            each(&tile);
                            let Span { pages, reach, .. } = *span;
                            tile = Tile { queries: none, count: 0, pages, reach, key_head };
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
    each(&tile);
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

/// Queries of one request and one key head; neither first positions nor lengths fall.
#[derive(Clone, Copy)]
struct Tile<'a, const N: usize> {
    queries: [Query; N],
    count: usize,
    pages: &'a [u32],
    reach: usize,
    key_head: usize,
}

/// Scores become `e^(scale·score - greatest)`; returns their sum, and the sink's with them.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: *mut f32, length: usize, scale: f32, sink: Option<f32>) -> f32 {
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
        if let Some(sink) = sink {
            greatest = greatest.max(L::splat(sink));
        }
        let greatest = L::splat(greatest.greatest());
        let mut sum = L::splat(0.0);
        for i in (0..length).step_by(LANES) {
            let weight = exp::exp(L::load(scores.add(i)).sub(greatest));
            weight.store(scores.add(i));
            sum = sum.add(weight);
        }
        let mut weight = 0.0;
        if let Some(sink) = sink {
            exp::exp(L::splat(sink).sub(greatest)).store_part(&raw mut weight, 1);
        }
        sum.sum() + weight
    }
}

#[cfg(test)]
mod tests;
