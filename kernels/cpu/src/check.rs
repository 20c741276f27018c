//! What must hold of a program before any of it runs. The kernels lean on all of this.
//!
//! - Every matrix lies in the arena, its rows do not overlap, and shapes agree.
//! - What is written is apart from what is read, or (where the step says so) the same place.
//! - Weights, gains and biases have as many elements as the shapes say.
//! - Token ids, gathered rows, caches, pages and rotary positions exist.
//! - Spans cover rows of the batch, no row twice, and no page is written by two of them.

use crate::{AttentionOptions, Grid, KvCache, Rows, Span, Step, Weights, attention, linear};

/// Checks all steps; returns the floats of scratch that each thread needs.
///
/// # Panics
/// If a step does not fit.
pub(crate) fn program(arena: usize, caches: &[KvCache], steps: &[Step<'_>]) -> usize {
    let mut scratch = 0;
    for (i, step) in steps.iter().enumerate() {
        match step_needs(arena, caches, step) {
            Ok(needed) => scratch = scratch.max(needed),
            Err(wrong) => panic!("step {i}: {wrong}"),
        }
    }
    scratch
}

type Checked<T = ()> = Result<T, String>;

/// An error with a message unless something holds.
macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}

mod mixture;

fn step_needs(arena: usize, caches: &[KvCache], step: &Step<'_>) -> Checked<usize> {
    match *step {
        Step::Embedding { tokens, table, first, output } => {
            inside(arena, &[output])?;
            shape("tokens", tokens.len(), output.rows)?;
            let rows = table_rows(table, output.width)?;
            match first {
                None => indices("token", tokens, rows)?,
                Some(first) => stretch(first, rows)?,
            }
        }
        Step::Gather { input, rows, output } => {
            inside(arena, &[input, output])?;
            shape("width", input.width, output.width)?;
            shape("rows", rows.len(), output.rows)?;
            indices("row", rows, input.rows)?;
            apart(output, &[input])?;
        }
        Step::Linear { input, weights, bias, output } => {
            inside(arena, &[input, output])?;
            shape("rows", input.rows, output.rows)?;
            elements(weights, output.width, input.width)?;
            shape("biases", bias.map_or(output.width, <[f32]>::len), output.width)?;
            apart(output, &[input])?;
            return Ok(linear::scratch(input.rows, input.width));
        }
        Step::LinearHeads { input, weights, bias, heads, output } => {
            inside(arena, &[input, output])?;
            shape("rows", input.rows, output.rows)?;
            let (k, n) = (head_of(input, heads)?, head_of(output, heads)?);
            elements(weights, output.width, k)?;
            shape("biases", bias.map_or(output.width, <[f32]>::len), heads * n)?;
            apart(output, &[input])?;
            return Ok(linear::scratch(input.rows, k));
        }
        Step::PlaceHeads { input, heads, first, output } => {
            inside(arena, &[input, output])?;
            shape("rows", input.rows, output.rows)?;
            let (from, to) = (head_of(input, heads)?, head_of(output, heads)?);
            let fits = first.checked_add(from).is_some_and(|end| end <= to);
            ensure!(fits, "{from} elements from {first} on of a head of {to}");
            apart(output, &[input])?;
        }
        Step::RmsNorm { input, gain, output, .. } => {
            inside(arena, &[input, output])?;
            same_shape(&[input, output])?;
            shape("gains", gain.len(), input.width)?;
            same_or_apart(output, &[input])?;
        }
        Step::AddRmsNorm { left, right, gain, sum, output, .. } => {
            inside(arena, &[left, right, sum, output])?;
            same_shape(&[left, right, sum, output])?;
            shape("gains", gain.len(), left.width)?;
            same_or_apart(sum, &[left, right])?;
            same_or_apart(output, &[left, right])?;
            apart(output, &[sum])?;
        }
        Step::LayerNorm { input, gain, bias, output, .. } => {
            elementwise(arena, &[input], output)?;
            shape("gains", gain.map_or(input.width, <[f32]>::len), input.width)?;
            shape("biases", bias.map_or(input.width, <[f32]>::len), input.width)?;
        }
        Step::HeadNorm { input, gain, head_width, output, .. } => {
            elementwise(arena, &[input], output)?;
            heads(input, head_width)?;
            let expected = if gain.len() == head_width { head_width } else { input.width };
            shape("gains", gain.len(), expected)?;
        }
        Step::Positions { table, first, spans, output } => {
            inside(arena, &[output])?;
            spans_cover(spans, output.rows)?;
            let rows = table_rows(table, output.width)?;
            match first {
                None => positions(spans, rows)?,
                Some(first) => {
                    stretch(first, rows)?;
                    positions(spans, usize::MAX)?;
                }
            }
        }
        Step::Rotate { input, table, spans, output } => {
            inside(arena, &[input, output])?;
            same_shape(&[input, output])?;
            same_or_apart(output, &[input])?;
            heads(input, table.head_width())?;
            spans_cover(spans, input.rows)?;
            positions(spans, table.positions())?;
        }
        Step::Attend {
            query,
            key,
            value,
            cache,
            spans,
            query_heads,
            rotary,
            options,
            output,
            ..
        } => {
            let missing = || format!("cache {cache} of {}", caches.len());
            let cache = caches.get(cache).ok_or_else(missing)?;
            let (heads, width) = (cache.key_heads(), cache.head_width());
            let keys_only = cache.has_keys_only();
            ensure!(!keys_only || value.is_none(), "values are given, and the cache has keys only");
            ensure!(keys_only || value.is_some(), "values are missing");
            let value = value.unwrap_or(key);
            inside(arena, &[query, key, value, output])?;
            same_shape(&[key, value])?;
            shape("rows", key.rows, query.rows)?;
            shape("rows", output.rows, query.rows)?;
            apart(output, &[query, key, value])?;
            shape("width of keys", key.width, heads * width)?;
            let grouped = query_heads > 0 && query_heads.is_multiple_of(heads);
            ensure!(grouped, "{query_heads} query heads over {heads} key heads");
            shape("width of queries", query.width, query_heads * width)?;
            let made = head_of(output, query_heads)?;
            let fits = if keys_only { made <= width } else { made == width };
            ensure!(fits, "results of {made} from heads of {width}");
            attention_options(options, query_heads)?;
            spans_cover(spans, query.rows)?;
            let longest = pages(cache, spans)?;
            if let Some(table) = rotary {
                shape("head of the rotary table", table.head_width(), width)?;
                positions(spans, table.positions())?;
            }
            let scratch = attention::scratch(cache.shape(), longest);
            return scratch.ok_or_else(|| format!("a context of {longest}"));
        }
        Step::Activate { input, output, .. } => elementwise(arena, &[input], output)?,
        Step::Gate { gate, up, output, .. } => elementwise(arena, &[gate, up], output)?,
        Step::Multiply { left, right, output } if right.width == 1 && output.width > 1 => {
            elementwise(arena, &[left], output)?;
            inside(arena, &[right])?;
            shape("rows", right.rows, output.rows)?;
            apart(output, &[right])?;
        }
        Step::Add { left, right, output } | Step::Multiply { left, right, output } => {
            elementwise(arena, &[left, right], output)?;
        }
        Step::Mix { input, scores, routing, experts, work, output } => {
            return mixture::mixture(arena, [input, scores, work, output], routing, experts);
        }
        Step::Convolve { input, weights, bias, states, spans, slots, output } => {
            mixture::convolve(arena, [input, states, output], weights, bias, spans, slots)?;
        }
        Step::Recur { input, input_gate, recurrent_gate, rates, states, spans, slots, output } => {
            let matrices = [input, input_gate, recurrent_gate, states, output];
            mixture::recur(arena, matrices, rates, spans, slots)?;
        }
        Step::RoundInputs { input, scales, grid, output } => {
            elementwise(arena, &[input], output)?;
            shape("scales", scales.map_or(input.width, <[f32]>::len), input.width)?;
            let scale = grid.and_then(Grid::scale);
            ensure!(scale.is_none_or(bounds), "a grid with a scale of {scale:?}");
        }
        Step::Scale { input, output, .. } => elementwise(arena, &[input], output)?,
        Step::Softcap { input, bound, output } => {
            elementwise(arena, &[input], output)?;
            ensure!(bounds(bound), "a softcap at {bound}");
        }
        Step::Clamp { input, low, high, output } => {
            elementwise(arena, &[input], output)?;
            let ordered = low <= high;
            ensure!(ordered, "a clamp between {low} and {high}");
        }
    }
    Ok(0)
}

fn elementwise(arena: usize, operands: &[Rows], output: Rows) -> Checked {
    inside(arena, operands)?;
    inside(arena, &[output])?;
    for &operand in operands {
        same_shape(&[operand, output])?;
    }
    same_or_apart(output, operands)
}

fn inside(arena: usize, matrices: &[Rows]) -> Checked {
    for rows in matrices {
        let fits = rows.end().is_some_and(|end| end <= arena);
        ensure!(fits, "{rows:?} is outside of an arena of {arena}");
        ensure!(rows.width > 0 && rows.stride >= rows.width, "{rows:?} has rows over each other");
    }
    Ok(())
}

fn shape(what: &str, is: usize, expected: usize) -> Checked {
    ensure!(is == expected, "{what}: {is} where {expected} are expected");
    Ok(())
}

fn same_shape(matrices: &[Rows]) -> Checked {
    for pair in matrices.windows(2) {
        shape("rows", pair[1].rows, pair[0].rows)?;
        shape("width", pair[1].width, pair[0].width)?;
    }
    Ok(())
}

fn apart(output: Rows, others: &[Rows]) -> Checked {
    for &other in others {
        ensure!(output.apart(other), "{output:?} is written over {other:?}");
    }
    Ok(())
}

fn same_or_apart(output: Rows, others: &[Rows]) -> Checked {
    for &other in others {
        ensure!(output == other || output.apart(other), "{output:?} is written over {other:?}");
    }
    Ok(())
}

fn elements(weights: Weights<'_>, n: usize, k: usize) -> Checked {
    let fits = n.checked_mul(k) == Some(weights.len());
    ensure!(fits, "{} weights where {n} times {k} are expected", weights.len());
    rows_of(weights, k)
}

/// Codes have rows of their own.
fn rows_of(weights: Weights<'_>, k: usize) -> Checked {
    match weights {
        Weights::Coded(coded) => shape("inputs of a row of codes", coded.columns(), k),
        _ => Ok(()),
    }
}

fn indices(what: &str, indices: &[u32], count: usize) -> Checked {
    for &index in indices {
        ensure!((index as usize) < count, "{what} {index} of {count}");
    }
    Ok(())
}

/// Rows of spans are rows of the batch, in order, each once.
fn spans_cover(spans: &[Span<'_>], rows: usize) -> Checked {
    let mut next = 0;
    for span in spans {
        ensure!(
            span.first_row == next && span.rows > 0 && span.rows <= rows - next,
            "a span of {} rows from {} where row {next} of {rows} is next",
            span.rows,
            span.first_row
        );
        next += span.rows;
    }
    shape("rows of spans", next, rows)
}

fn positions(spans: &[Span<'_>], count: usize) -> Checked {
    for span in spans {
        let end = span.position.checked_add(span.rows);
        ensure!(end.is_some_and(|end| end <= count), "position {} of {count}", span.position);
    }
    Ok(())
}

fn table_rows(table: Weights<'_>, width: usize) -> Checked<usize> {
    let rows = table.len() / width;
    shape("table elements", table.len(), rows * width)?;
    rows_of(table, width)?;
    Ok(rows)
}

/// A stretch of a table that ends where numbers do at most.
fn stretch(first: usize, rows: usize) -> Checked {
    ensure!(first.checked_add(rows).is_some(), "{rows} rows from {first} on");
    Ok(())
}

fn heads(input: Rows, width: usize) -> Checked {
    let whole = width > 0 && input.width.is_multiple_of(width);
    ensure!(whole, "rows of {} are no heads of {width}", input.width);
    Ok(())
}

/// Elements of one of so many heads.
fn head_of(matrix: Rows, heads: usize) -> Checked<usize> {
    let whole = heads > 0 && matrix.width.is_multiple_of(heads);
    ensure!(whole, "rows of {} are not {heads} heads", matrix.width);
    Ok(matrix.width / heads)
}

/// Whether a softcap's bound or a grid's scale is one.
fn bounds(bound: f32) -> bool {
    bound > 0.0 && bound.is_finite()
}

fn attention_options(options: AttentionOptions<'_>, query_heads: usize) -> Checked {
    let AttentionOptions { softcap, alibi, window, sinks } = options;
    ensure!(softcap.is_none_or(bounds), "scores with a softcap at {softcap:?}");
    shape("slopes", alibi.map_or(query_heads, <[f32]>::len), query_heads)?;
    shape("sinks", sinks.map_or(query_heads, <[f32]>::len), query_heads)?;
    ensure!(window != Some(0), "a window of no tokens");
    Ok(())
}

/// Pages are there, and none is written by two spans; returns the longest context.
fn pages(cache: &KvCache, spans: &[Span<'_>]) -> Checked<usize> {
    let tokens = cache.page_tokens();
    let mut longest = 0;
    let mut written: Vec<u32> = Vec::new();
    for span in spans {
        let end = span.position.checked_add(span.rows);
        let end = end.ok_or_else(|| format!("position {}", span.position))?;
        let used = span.pages.get(..end.div_ceil(tokens));
        let used = used.ok_or_else(|| {
            format!("{} pages of {tokens} tokens for a context of {end}", span.pages.len())
        })?;
        indices("page", used, cache.pages())?;
        written.extend_from_slice(&used[span.position / tokens..]);
        longest = longest.max(end);
    }
    written.sort_unstable();
    let twice = written.windows(2).find(|pair| pair[0] == pair[1]);
    if let Some(pair) = twice {
        return Err(format!("page {} is written twice", pair[0]));
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Isa, Norm, RopeTable, testing};

    /// What a program that does not fit panics with.
    fn refusal(caches: &mut [KvCache], step: Step<'_>) -> String {
        let run = std::panic::AssertUnwindSafe(|| {
            testing::run(Isa::Plain, 2, &[0.0; 1000], caches, &[step]);
        });
        let panic = std::panic::catch_unwind(run).expect_err("it should not run");
        panic.downcast_ref::<String>().cloned().expect("a message")
    }

    #[test]
    fn programs_that_do_not_fit_are_refused_with_the_reason() {
        let (a, b) = (Rows::dense(0, 4, 10), Rows::dense(40, 4, 10));
        let floats = [0.0; 100];
        let weights = Weights::F32(&floats);
        let linear = |input, output| Step::Linear { input, weights, bias: None, output };
        let head_norm = |head_width, gains| {
            let (norm, gain) = (Norm::Rms, &floats[..gains]);
            Step::HeadNorm { input: a, norm, gain, head_width, epsilon: 0.0, output: b }
        };
        let round =
            |scales, grid| Step::RoundInputs { input: a, scales, grid: Some(grid), output: b };
        let spans = [7, usize::MAX].map(|position| [Span { rows: 4, position, ..Span::default() }]);
        let positions = |spans| Step::Positions { table: weights, first: None, spans, output: b };
        for (step, reason) in [
            (linear(a, Rows::dense(990, 4, 10)), "outside of an arena of 1000"),
            (linear(a, Rows::dense(39, 4, 10)), "is written over"),
            (linear(a, Rows::dense(40, 3, 10)), "rows: 4 where 3"),
            (linear(a, Rows::dense(40, 4, 11)), "100 weights where 11 times 10"),
            (linear(a, Rows { stride: 9, ..b }), "rows over each other"),
            (
                Step::Linear { input: a, weights, bias: Some(&floats[..9]), output: b },
                "biases: 9 where 10",
            ),
            (
                Step::LinearHeads { input: a, weights, bias: None, heads: 3, output: b },
                "rows of 10 are not 3 heads",
            ),
            (
                Step::LinearHeads { input: a, weights, bias: None, heads: 2, output: b },
                "100 weights where 10 times 5",
            ),
            (
                Step::PlaceHeads { input: a, heads: 2, first: 1, output: b },
                "5 elements from 1 on of a head of 5",
            ),
            (
                Step::PlaceHeads { input: a, heads: 0, first: 0, output: b },
                "rows of 10 are not 0 heads",
            ),
            (
                Step::Embedding { tokens: &[0, 1, 10, 2], table: weights, first: None, output: b },
                "token 10 of 10",
            ),
            (
                Step::Positions {
                    table: weights,
                    first: Some(usize::MAX),
                    spans: &spans[0],
                    output: b,
                },
                "10 rows from",
            ),
            (Step::Gather { input: a, rows: &[0, 4, 1, 1], output: b }, "row 4 of 4"),
            (
                Step::RmsNorm { input: a, gain: &floats[..11], epsilon: 0.0, output: b },
                "gains: 11 where 10",
            ),
            (
                Step::AddRmsNorm {
                    left: a,
                    right: a,
                    gain: &floats[..10],
                    epsilon: 0.0,
                    sum: b,
                    output: b,
                },
                "is written over",
            ),
            (
                Step::Activate {
                    input: a,
                    activation: Activation::Relu,
                    output: Rows::dense(10, 4, 10),
                },
                "is written over",
            ),
            (
                Step::LayerNorm {
                    input: a,
                    gain: None,
                    bias: Some(&floats[..9]),
                    epsilon: 0.0,
                    output: b,
                },
                "biases: 9 where 10",
            ),
            (head_norm(3, 3), "rows of 10 are no heads of 3"),
            (head_norm(0, 0), "rows of 10 are no heads of 0"),
            (head_norm(5, 2), "gains: 2 where 10"),
            (positions(&spans[0]), "position 7 of 10"),
            (positions(&spans[1]), "position"),
            (positions(&spans[0][..0]), "rows of spans: 0 where 4"),
            (Step::Softcap { input: a, bound: 0.0, output: b }, "a softcap at 0"),
            (
                Step::Clamp { input: a, low: 1.0, high: f32::NAN, output: b },
                "a clamp between 1 and NaN",
            ),
            (round(Some(&floats[..9]), Grid::Fp8 { scale: None }), "scales: 9 where 10"),
            (round(None, Grid::Int8 { scale: Some(0.0) }), "a grid with a scale of Some(0.0)"),
            (Step::Scale { input: a, factor: 1.0, output: Rows::dense(0, 4, 9) }, "width: 9"),
            (Step::Add { left: a, right: Rows::dense(40, 5, 8), output: b }, "rows: 4 where 5"),
        ] {
            let refusal = refusal(&mut [], step);
            assert!(refusal.starts_with("step 0: ") && refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn attention_outside_of_pages_positions_and_heads_is_refused() {
        let [query, key, value, output] = [0, 40, 60, 80].map(|start| Rows::dense(start, 2, 10));
        let table = RopeTable::new(5, 4, vec![0.0; 12], vec![0.0; 12]);
        let span = |first_row, rows, position, pages| Span {
            first_row,
            rows,
            position,
            pages,
            ..Span::default()
        };
        let attend_with = |spans: &[Span<'_>], query_heads, cache, rotary, options| {
            let mut caches = [KvCache::new(3, 16, 2, 5)];
            let scale = 1.0;
            let step = Step::Attend {
                query,
                key,
                value: Some(value),
                cache,
                spans,
                query_heads,
                scale,
                rotary,
                options,
                output,
            };
            refusal(&mut caches, step)
        };
        let none = AttentionOptions::default();
        let attend = |spans: &[Span<'_>], query_heads, cache, rotary| {
            attend_with(spans, query_heads, cache, rotary, none)
        };
        let with = |options| attend_with(&[span(0, 2, 0, &[0])], 2, 0, None, options);
        for (refusal, reason) in [
            (attend(&[span(0, 2, 0, &[0])], 2, 1, None), "cache 1 of 1"),
            (attend(&[span(0, 2, 0, &[0])], 3, 0, None), "3 query heads over 2 key heads"),
            (attend(&[span(0, 2, 0, &[0])], 4, 0, None), "width of queries: 10 where 20"),
            (attend(&[span(0, 2, 15, &[0])], 2, 0, None), "1 pages of 16 tokens"),
            (attend(&[span(0, 2, 0, &[3])], 2, 0, None), "page 3 of 3"),
            (attend(&[span(0, 3, 0, &[0])], 2, 0, None), "a span of 3 rows"),
            (attend(&[span(0, 1, 0, &[0])], 2, 0, None), "rows of spans: 1 where 2"),
            (attend(&[span(0, 2, usize::MAX, &[0])], 2, 0, None), "position"),
            (
                attend(&[span(0, 1, 0, &[0]), span(1, 1, 5, &[0])], 2, 0, None),
                "page 0 is written twice",
            ),
            (attend(&[span(0, 2, 5, &[0])], 2, 0, Some(&table)), "position 5 of 6"),
            (with(AttentionOptions { window: Some(0), ..none }), "a window of no tokens"),
            (with(AttentionOptions { alibi: Some(&[0.5]), ..none }), "slopes: 1 where 2"),
            (with(AttentionOptions { sinks: Some(&[0.5]), ..none }), "sinks: 1 where 2"),
            (with(AttentionOptions { softcap: Some(-1.0), ..none }), "a softcap at"),
        ] {
            assert!(refusal.contains(reason), "{refusal}");
        }
    }

    #[test]
    fn values_are_given_where_a_cache_has_them_and_nowhere_else() {
        let [query, key] = [0, 40].map(|start| Rows::dense(start, 2, 10));
        let spans = [Span { rows: 2, pages: &[0], ..Span::default() }];
        let attend = |keys_only: bool, value, width| {
            let new = if keys_only { KvCache::keys_only } else { KvCache::new };
            let step = Step::Attend {
                query,
                key,
                value,
                cache: 0,
                spans: &spans,
                query_heads: 2,
                scale: 1.0,
                rotary: None,
                options: AttentionOptions::default(),
                output: Rows::dense(80, 2, width),
            };
            refusal(&mut [new(3, 16, 2, 5)], step)
        };
        for (refusal, reason) in [
            (attend(true, Some(key), 10), "values are given"),
            (attend(false, None, 10), "values are missing"),
            (attend(true, None, 12), "results of 6 from heads of 5"),
            (attend(true, None, 9), "rows of 9 are not 2 heads"),
            (attend(false, Some(key), 8), "results of 4 from heads of 5"),
        ] {
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
