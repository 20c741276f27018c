//! Which experts of a mixture a row goes to, and how much each counts.
//!
//! A row is routed by itself, by one thread: scores over the sixteen lanes, then comparisons one
//! by one in the order of experts. So a row's choice depends on its logits alone.

#![allow(unsafe_code, reason = "lanes")]

use crate::isa::Kernel;
use crate::lanes::{LANES, Lanes};
use crate::{Isa, exp};

/// Keeps the sum of weights away from zero; below what any other sum can tell.
const LEAST: f32 = 1e-20;

/// How experts are chosen and weighed.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'a> {
    /// How many each row goes to.
    pub chosen: usize,
    /// Whether scores are sigmoids of the logits; if not, their softmax over all experts.
    pub sigmoid: bool,
    /// `[experts]`: what is added to scores where experts are chosen, and only there.
    pub prefer: Option<&'a [f32]>,
    /// Which experts may be chosen; all if not said.
    pub groups: Option<RoutingGroups>,
    /// Whether weights are divided by their sum.
    pub renormalize: bool,
    /// What weights are multiplied by in the end.
    pub scale: f32,
}

/// Experts in equal stretches, of which each row takes the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingGroups {
    /// How many; divides the number of experts.
    pub count: usize,
    /// How many a row takes.
    pub chosen: usize,
    /// A group counts by the sum of so many of its best scores.
    pub best: usize,
}

/// Floats of scratch for so many experts: scores, what they are chosen by, and marks; the sums
/// of groups, and their marks.
pub(crate) fn scratch(experts: usize) -> Option<usize> {
    experts.checked_mul(5)
}

/// Routes one row: `experts` and `weights`, as many as are chosen, in the order of experts.
///
/// # Safety
/// As many logits as experts, and the machine has the instruction set.
pub(crate) unsafe fn route(
    isa: Isa,
    routing: &Routing<'_>,
    logits: &[f32],
    scratch: &mut [f32],
    experts: &mut [u32],
    weights: &mut [f32],
) {
    let n = logits.len();
    let (scores, rest) = scratch.split_at_mut(n);
    let (ranks, rest) = rest.split_at_mut(n);
    let (marks, rest) = rest.split_at_mut(n);
    // SAFETY: as promised by the caller.
    unsafe { isa.run(Scores { logits, scores, sigmoid: routing.sigmoid }) };
    ranks.copy_from_slice(scores);
    if let Some(prefer) = routing.prefer {
        ranks.iter_mut().zip(prefer).for_each(|(rank, prefer)| *rank += prefer);
    }
    marks.fill(FREE);
    if let Some(groups) = routing.groups {
        let (sums, open) = rest[..2 * groups.count].split_at_mut(groups.count);
        close(groups, ranks, marks, sums, open);
    }
    for _ in 0..routing.chosen {
        if let Some(best) = best(ranks, marks) {
            marks[best] = TAKEN;
        }
    }
    let taken = (0..n).filter(|&expert| marks[expert] == TAKEN);
    let mut sum = 0.0;
    for ((expert, to), weight) in taken.zip(experts).zip(weights.iter_mut()) {
        (*to, *weight) = (expert as u32, scores[expert]);
        sum += scores[expert];
    }
    let divisor = if routing.renormalize { sum + LEAST } else { 1.0 };
    weights.iter_mut().for_each(|weight| *weight = *weight / divisor * routing.scale);
}

/// Marks: an expert that may be chosen, one that is, and one that may not be.
const FREE: f32 = 0.0;
const TAKEN: f32 = 1.0;
const CLOSED: f32 = 2.0;

/// The free one with the highest rank, the first of equals. NaN is higher than all: a row that
/// has one does not hide it.
fn best(ranks: &[f32], marks: &[f32]) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (i, (&rank, &mark)) in ranks.iter().zip(marks).enumerate() {
        let higher = |best: usize| rank > ranks[best] || (rank.is_nan() && !ranks[best].is_nan());
        if mark == FREE && best.is_none_or(higher) {
            best = Some(i);
        }
    }
    best
}

/// Closes all groups but the best. `sums` and `open` have a place for each group.
fn close(
    groups: RoutingGroups,
    ranks: &[f32],
    marks: &mut [f32],
    sums: &mut [f32],
    open: &mut [f32],
) {
    let size = ranks.len() / groups.count;
    for ((ranks, marks), sum) in
        ranks.chunks_exact(size).zip(marks.chunks_exact_mut(size)).zip(&mut *sums)
    {
        *sum = 0.0;
        for _ in 0..groups.best {
            if let Some(best) = best(ranks, marks) {
                marks[best] = TAKEN;
                *sum += ranks[best];
            }
        }
        marks.fill(CLOSED);
    }
    open.fill(FREE);
    for _ in 0..groups.chosen {
        if let Some(group) = best(sums, open) {
            open[group] = TAKEN;
            marks[group * size..(group + 1) * size].fill(FREE);
        }
    }
}

/// The scores of one row's logits.
struct Scores<'a> {
    logits: &'a [f32],
    scores: &'a mut [f32],
    sigmoid: bool,
}

impl Kernel for Scores<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Scores { logits, scores, sigmoid } = self;
        let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // SAFETY: stretches are read and written as long as they are; behind the last there are
        // zeros, which are no part of a sum.
        unsafe {
            let mut sums = L::splat(0.0);
            for (from, to) in logits.chunks(LANES).zip(scores.chunks_mut(LANES)) {
                let n = from.len();
                let logits = L::load_part(from.as_ptr(), n);
                if sigmoid {
                    exp::sigmoid(logits).store_part(to.as_mut_ptr(), n);
                } else {
                    let power = exp::exp(logits.sub(L::splat(greatest)));
                    power.store_part(to.as_mut_ptr(), n);
                    sums = sums.add(L::load_part(to.as_ptr(), n));
                }
            }
            if sigmoid {
                return;
            }
            let sum = L::splat(sums.sum());
            for to in scores.chunks_mut(LANES) {
                let n = to.len();
                L::load_part(to.as_ptr(), n).div(sum).store_part(to.as_mut_ptr(), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, noise};

    const ANY: Routing<'_> = Routing {
        chosen: 2,
        sigmoid: false,
        prefer: None,
        groups: None,
        renormalize: false,
        scale: 1.0,
    };

    fn choose(routing: Routing<'_>, logits: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let on = |isa| {
            let mut scratch = vec![9.0; scratch(logits.len()).unwrap()];
            let (mut experts, mut weights) = (vec![0; routing.chosen], vec![0.0; routing.chosen]);
            // SAFETY: the machine has it.
            unsafe { route(isa, &routing, logits, &mut scratch, &mut experts, &mut weights) };
            (experts, weights)
        };
        let plain = on(Isa::Plain);
        for isa in Isa::available() {
            let (experts, weights) = on(isa);
            assert_eq!((&experts, bits(&weights)), (&plain.0, bits(&plain.1)), "{isa}");
        }
        plain
    }

    fn near(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (&a, b) in found.iter().zip(expected) {
            assert!((f64::from(a) - b).abs() < 1e-6, "{found:?} are not {expected:?}");
        }
    }

    #[test]
    fn weights_are_the_softmax_over_all_or_over_the_chosen_or_sigmoids() {
        let logits: Vec<f32> = noise(37, 1).iter().map(|x| 4.0 * x).collect();
        let mut order: Vec<usize> = (0..37).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let mut best = order[..5].to_vec();
        best.sort_unstable();
        let powers = |which: &[usize]| -> Vec<f64> {
            which.iter().map(|&i| f64::from(logits[i]).exp()).collect()
        };
        let (all, some) = (powers(&order).iter().sum::<f64>(), powers(&best).iter().sum::<f64>());
        let routing = Routing { chosen: 5, ..ANY };
        let (experts, weights) = choose(routing, &logits);
        assert_eq!(experts, best.iter().map(|&i| i as u32).collect::<Vec<_>>());
        near(&weights, &powers(&best).iter().map(|p| p / all).collect::<Vec<_>>());
        let routing = Routing { renormalize: true, scale: 2.5, ..routing };
        near(
            &choose(routing, &logits).1,
            &powers(&best).iter().map(|p| 2.5 * p / some).collect::<Vec<_>>(),
        );
        let routing = Routing { sigmoid: true, chosen: 5, ..ANY };
        let sigmoids: Vec<f64> =
            best.iter().map(|&i| 1.0 / (1.0 + (-f64::from(logits[i])).exp())).collect();
        near(&choose(routing, &logits).1, &sigmoids);
    }

    #[test]
    fn of_equal_experts_the_first_are_chosen() {
        assert_eq!(choose(ANY, &[1.0, 3.0, 2.0, 3.0, 3.0]).0, [1, 3]);
        assert_eq!(choose(ANY, &[0.0; 20]).0, [0, 1]);
    }

    #[test]
    fn a_preference_chooses_and_does_not_weigh() {
        let prefer = [0.0, 0.0, 5.0, 0.0];
        let routing = Routing { prefer: Some(&prefer), sigmoid: true, ..ANY };
        let (experts, weights) = choose(routing, &[1.0, 2.0, -3.0, 0.0]);
        assert_eq!(experts, [1, 2]);
        near(&weights, &[1.0 / (1.0 + (-2.0f64).exp()), 1.0 / (1.0 + 3.0f64.exp())]);
    }

    #[test]
    fn only_experts_of_the_best_groups_are_chosen() {
        // Two groups by their best: the first and the third. By their two best: the last two.
        let logits = [5.0, 0.1, 0.0, 3.0, 2.9, 0.3, 4.0, 0.0, 0.0, 3.1, 3.2, 0.0];
        let with = |chosen, best| {
            let groups = Some(RoutingGroups { count: 4, chosen, best });
            choose(Routing { groups, chosen: 3, sigmoid: true, ..ANY }, &logits).0
        };
        assert_eq!(with(2, 1), [0, 1, 6]);
        assert_eq!(with(2, 2), [3, 9, 10]);
        assert_eq!(with(1, 1), [0, 1, 2]);
        assert_eq!(with(4, 3), [0, 6, 10]);
    }

    #[test]
    fn what_is_no_number_shows() {
        let mut logits = [0.5; 20];
        logits[17] = f32::NAN;
        assert!(choose(ANY, &logits).1.iter().all(|weight| weight.is_nan()));
        let (experts, weights) = choose(Routing { sigmoid: true, ..ANY }, &logits);
        assert!(experts[1] == 17 && weights[1].is_nan());
        assert_eq!(choose(ANY, &[f32::NAN; 4]).0, [0, 1]);
    }

    #[test]
    fn scores_of_zero_weigh_nothing() {
        let routing = Routing { sigmoid: true, renormalize: true, ..ANY };
        assert_eq!(choose(routing, &[-1e30; 3]), (vec![0, 1], vec![0.0, 0.0]));
    }
}
