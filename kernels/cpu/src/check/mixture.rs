//! What must hold of mixtures, convolutions and recurrences.

use super::{Checked, apart, elements, inside, same_or_apart, same_shape, shape, spans_cover};
use crate::{Experts, Gating, Routing, Rows, Span, mixture, recurrent};

/// A mixture; returns the floats of scratch that a thread needs.
pub(super) fn mixture(
    arena: usize,
    [input, scores, work, output]: [Rows; 4],
    routing: Routing<'_>,
    experts: Experts<'_>,
) -> Checked<usize> {
    inside(arena, &[input, scores, work, output])?;
    shape("rows", scores.rows, input.rows)?;
    shape("rows", output.rows, input.rows)?;
    apart(output, &[input, scores])?;
    apart(work, &[input, scores, output])?;
    let (count, inner) = (scores.width, experts.inner);
    chosen(routing, count)?;
    shape("preferences", routing.prefer.map_or(count, <[f32]>::len), count)?;
    let here = experts.here(count);
    ensure!(here.end <= count, "experts {here:?} of {count}");
    let rows = |each: usize| {
        let rows = here.len().checked_mul(each).filter(|_| inner > 0);
        rows.ok_or_else(|| format!("{} experts of {inner}", here.len()))
    };
    let (up, down) = (rows(inner.saturating_mul(2))?, rows(output.width)?);
    elements(experts.up, up, input.width)?;
    elements(experts.down, down, inner)?;
    shape("biases", experts.up_bias.map_or(up, <[f32]>::len), up)?;
    shape("biases", experts.down_bias.map_or(down, <[f32]>::len), down)?;
    if let Gating::BoundedSwish { bound, .. } = experts.gating {
        let bounds = bound >= 0.0;
        ensure!(bounds, "experts bounded at {bound}");
    }
    let uncountable = || format!("{} rows for {} experts each", input.rows, routing.chosen);
    let needed = mixture::workspace(input.rows, routing.chosen, inner).ok_or_else(uncountable)?;
    let fits = work.rows == 1 && work.width >= needed;
    ensure!(fits, "a workspace of {work:?} where {needed} are needed");
    let sizes = [input.width, inner];
    mixture::scratch(input.rows, count, routing.chosen, sizes).ok_or_else(uncountable)
}

/// There are enough experts to choose from.
fn chosen(routing: Routing<'_>, experts: usize) -> Checked {
    let chosen = routing.chosen;
    let fits = 0 < chosen && chosen <= experts && u32::try_from(experts).is_ok();
    ensure!(fits, "{chosen} of {experts} experts");
    let Some(groups) = routing.groups else { return Ok(()) };
    let divided = groups.count > 0 && experts.is_multiple_of(groups.count);
    ensure!(divided, "{} groups of {experts} experts", groups.count);
    let size = experts / groups.count;
    let open = groups.chosen <= groups.count && chosen <= groups.chosen * size;
    ensure!(open && groups.best <= size, "{chosen} experts of {groups:?} of {size}");
    Ok(())
}

/// Rows of requests with a state each, of which none is used twice.
fn requests(
    rows: usize,
    states: Rows,
    floats: Option<usize>,
    spans: &[Span<'_>],
    slots: &[u32],
) -> Checked {
    spans_cover(spans, rows)?;
    let last = spans.iter().find(|span| span.position.checked_add(span.rows).is_none());
    ensure!(last.is_none(), "position {}", last.map_or(0, |span| span.position));
    shape("floats of a state", states.width, floats.unwrap_or(usize::MAX))?;
    shape("states", slots.len(), spans.len())?;
    super::indices("state", slots, states.rows)?;
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("state {} is used twice", pair[0]));
    }
    Ok(())
}

/// A convolution.
pub(super) fn convolve(
    arena: usize,
    [input, states, output]: [Rows; 3],
    weights: &[f32],
    bias: Option<&[f32]>,
    spans: &[Span<'_>],
    slots: &[u32],
) -> Checked {
    inside(arena, &[input, states, output])?;
    same_shape(&[input, output])?;
    apart(output, &[input])?;
    apart(states, &[input, output])?;
    let taps = weights.len() / input.width;
    ensure!(taps > 0, "a convolution of no taps");
    shape("weights", weights.len(), taps * input.width)?;
    shape("biases", bias.map_or(input.width, <[f32]>::len), input.width)?;
    let floats = recurrent::convolution_state(input.width, taps);
    requests(input.rows, states, floats, spans, slots)
}

/// A recurrence: the input, both gates, the states and the output.
pub(super) fn recur(
    arena: usize,
    [input, input_gate, recurrent_gate, states, output]: [Rows; 5],
    rates: &[f32],
    spans: &[Span<'_>],
    slots: &[u32],
) -> Checked {
    let operands = [input, input_gate, recurrent_gate];
    inside(arena, &operands)?;
    inside(arena, &[states, output])?;
    for operand in operands {
        same_shape(&[operand, output])?;
    }
    same_or_apart(output, &operands)?;
    apart(states, &operands)?;
    apart(states, &[output])?;
    shape("rates", rates.len(), input.width)?;
    requests(input.rows, states, Some(input.width), spans, slots)
}

#[cfg(test)]
mod tests;
