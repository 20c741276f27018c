//! Steps against a real shape: what each makes of it, and the recipe that they come to.
//!
//! ```text
//! reshape [9, 32, 64], slice axis 0 2..4       →  elements 4096..8192, read as they lie
//! reshape [9, 2, 32, 576], permute [0, 2, 1, 3], reshape [576, 576]
//!                                              →  all elements, through one view
//! scale 0.5, permute [1, 0]                    →  rows scaled in f32, then through a view
//! ```
//! Leading reshapes and slices of the outermost axis become a range, so that only what is needed
//! is read; a run of moves becomes one view; a trailing reshape costs nothing.

use crate::moves::View;
use crate::origin::Step;
use std::ops::Range;

/// What is done to the elements of one source tensor, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    /// The source tensor.
    pub(crate) tensor: String,
    /// Its elements that are read at all.
    pub(crate) range: Range<u64>,
    /// What is done to them.
    pub(crate) stages: Vec<Stage>,
    /// The shape in the end.
    pub(crate) shape: Vec<u64>,
}

/// One thing that is done to a stream of elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Hold all of them and give them out in another order.
    Arrange(View),
    /// Compute with each row, in `f32`.
    Compute(Computation),
}

impl Stage {
    /// How many elements come out of it.
    pub(crate) fn elements(&self) -> u64 {
        match self {
            Stage::Arrange(view) => view.elements(),
            Stage::Compute(computation) => computation.shape.iter().product(),
        }
    }
}

/// An arithmetic step on rows of a known width.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Computation {
    /// The step.
    pub(crate) step: Step,
    /// Elements of a row before the step.
    pub(crate) width: u64,
    /// The shape after it.
    pub(crate) shape: Vec<u64>,
}

/// Why a step cannot be applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BadStep {
    /// Which, from zero.
    pub(crate) step: usize,
    /// The shape before it.
    pub(crate) shape: Vec<u64>,
    /// Why not.
    pub(crate) reason: String,
}

/// Applies `steps` to a tensor of `shape`, which has elements; `lookup` gives the shapes of a
/// product's factors, which have some too.
pub(crate) fn cook(
    tensor: &str,
    shape: &[u64],
    steps: &[Step],
    lookup: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> Result<Recipe, BadStep> {
    let elements = shape.iter().product();
    let mut recipe = Recipe {
        tensor: tensor.to_owned(),
        range: 0..elements,
        stages: Vec::new(),
        shape: shape.to_vec(),
    };
    for (i, step) in steps.iter().enumerate() {
        let bad = |reason| BadStep { step: i, shape: recipe.shape.clone(), reason };
        let after = apply(&recipe.shape, step, lookup).map_err(bad)?;
        match step {
            Step::Reshape(_) => {}
            Step::Permute(order) => {
                if !order.iter().copied().eq(0..order.len() as u32) {
                    recipe.arrange(|view| view.permute(order));
                }
            }
            Step::Slice { .. } if after == recipe.shape => {}
            Step::Slice { axis: 0, start, end } if recipe.stages.is_empty() => {
                let row: u64 = recipe.shape[1..].iter().product();
                let first = recipe.range.start;
                recipe.range = first + start * row..first + end * row;
            }
            Step::Slice { axis, start, end } => {
                recipe.arrange(|view| view.slice(*axis as usize, *start, *end));
            }
            _ => {
                let width = match step {
                    Step::Add(_) | Step::Scale(_) => 1,
                    _ => recipe.shape.last().copied().unwrap_or(1),
                };
                let computation = Computation { step: step.clone(), width, shape: after.clone() };
                recipe.stages.push(Stage::Compute(computation));
            }
        }
        recipe.shape = after;
    }
    Ok(recipe)
}

impl Recipe {
    /// The source tensors that it reads: its own and those of its products.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &str> {
        let factors = self.stages.iter().filter_map(|stage| match stage {
            Stage::Compute(Computation {
                step: Step::Times(name) | Step::TimesTransposed(name),
                ..
            }) => Some(name.as_str()),
            _ => None,
        });
        std::iter::once(self.tensor.as_str()).chain(factors)
    }

    /// Changes the view of the last stage, under the shape of now; a new stage where there is
    /// none, or where strides cannot say the shape of now.
    fn arrange(&mut self, change: impl FnOnce(&mut View)) {
        let seen = match self.stages.last() {
            Some(Stage::Arrange(view)) => view.reshape(&self.shape),
            _ => None,
        };
        if seen.is_some() {
            self.stages.pop();
        }
        let mut view = seen.unwrap_or_else(|| View::contiguous(&self.shape));
        change(&mut view);
        self.stages.push(Stage::Arrange(view));
    }
}

/// The shape after a step.
pub(crate) fn apply(
    shape: &[u64],
    step: &Step,
    lookup: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> Result<Vec<u64>, String> {
    match step {
        Step::Reshape(new) => {
            let old: u64 = shape.iter().product();
            let count = new.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            match count {
                Some(count) if count == old => Ok(new.clone()),
                Some(count) => Err(format!("the new shape has {count} elements, not {old}")),
                None => Err("the new shape has too many elements".to_owned()),
            }
        }
        Step::Permute(order) => {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            if sorted.into_iter().eq(0..shape.len() as u32) {
                Ok(order.iter().map(|&i| shape[i as usize]).collect())
            } else {
                Err(format!("the order does not name each of {} axes once", shape.len()))
            }
        }
        Step::Slice { axis, start, end } => {
            let mut after = shape.to_vec();
            let Some(size) = after.get_mut(*axis as usize) else {
                return Err(format!("there are only {} axes", shape.len()));
            };
            if start >= end || *end > *size {
                return Err(format!("that is no range of {size} elements"));
            }
            *size = end - start;
            Ok(after)
        }
        Step::Add(_) | Step::Scale(_) => Ok(shape.to_vec()),
        Step::UnitRows => match shape.is_empty() {
            true => Err("a single number has no rows".to_owned()),
            false => Ok(shape.to_vec()),
        },
        Step::Times(name) | Step::TimesTransposed(name) => {
            let factor = lookup(name).unwrap_or_default();
            let (inner, outer) = match (step, factor.as_slice()) {
                (Step::Times(_), &[inner, outer]) => (inner, outer),
                (_, &[outer, inner]) => (inner, outer),
                _ => return Err(format!("`{name}` is {factor:?}, which is no matrix")),
            };
            let mut after = shape.to_vec();
            match after.last_mut() {
                Some(width) if *width == inner => *width = outer,
                _ => {
                    return Err(format!(
                        "`{name}` is {factor:?}, which does not fit the last axis"
                    ));
                }
            }
            match after.iter().try_fold(1u64, |n, &d| n.checked_mul(d)) {
                Some(_) => Ok(after),
                None => Err("the product has too many elements".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(shape: &[u64], steps: &[Step]) -> Result<Recipe, BadStep> {
        cook("t", shape, steps, &|name| (name == "m").then(|| vec![6, 10]))
    }

    fn slice(axis: u32, start: u64, end: u64) -> Step {
        Step::Slice { axis, start, end }
    }

    #[test]
    fn leading_cuts_of_the_outermost_axis_read_only_what_they_keep() {
        let steps =
            [Step::Reshape(vec![2, 2, 6]), slice(0, 1, 2), Step::Reshape(vec![12]), slice(0, 3, 7)];
        let recipe = recipe(&[4, 6], &steps).unwrap();
        assert_eq!(recipe.range, 15..19);
        assert!(recipe.stages.is_empty());
        assert_eq!(recipe.shape, [4]);
    }

    #[test]
    fn steps_that_change_nothing_hold_nothing() {
        let steps = [slice(1, 0, 6), Step::Permute(vec![0, 1]), slice(0, 0, 4)];
        assert!(recipe(&[4, 6], &steps).unwrap().stages.is_empty());
    }

    #[test]
    fn a_run_of_moves_is_one_view() {
        let steps = [
            Step::Reshape(vec![2, 2, 6]),
            Step::Permute(vec![1, 0, 2]),
            Step::Reshape(vec![2, 2, 2, 3]),
            slice(2, 1, 2),
            Step::Permute(vec![3, 0, 1, 2]),
            Step::Reshape(vec![3, 4]),
        ];
        let recipe = recipe(&[4, 6], &steps).unwrap();
        assert_eq!(recipe.stages.len(), 1);
        assert_eq!(recipe.shape, [3, 4]);
    }

    #[test]
    fn a_reshape_across_turned_axes_takes_a_second_view() {
        let steps =
            [Step::Permute(vec![1, 0]), Step::Reshape(vec![3, 8]), Step::Permute(vec![1, 0])];
        assert_eq!(recipe(&[4, 6], &steps).unwrap().stages.len(), 2);
    }

    #[test]
    fn a_product_has_the_factors_width() {
        let steps = [Step::Times("m".to_owned())];
        assert_eq!(recipe(&[4, 6], &steps).unwrap().shape, [4, 10]);
        let steps = [Step::TimesTransposed("m".to_owned())];
        assert_eq!(recipe(&[4, 10], &steps).unwrap().shape, [4, 6]);
    }

    #[test]
    fn a_step_that_does_not_fit_says_which_and_why() {
        let cases = [
            (Step::Reshape(vec![5, 5]), "25 elements, not 24"),
            (Step::Reshape(vec![u64::MAX, 2]), "too many"),
            (Step::Permute(vec![0, 0]), "each of 2 axes"),
            (Step::Permute(vec![0]), "each of 2 axes"),
            (Step::Permute(vec![0, 7]), "each of 2 axes"),
            (slice(2, 0, 1), "only 2 axes"),
            (slice(0, 2, 5), "no range of 4 elements"),
            (slice(0, 2, 2), "no range of 4 elements"),
            (Step::TimesTransposed("m".to_owned()), "does not fit the last axis"),
            (Step::Times("absent".to_owned()), "no matrix"),
        ];
        for (step, reason) in cases {
            let error = recipe(&[4, 6], &[Step::Add(1.0), step.clone()]).unwrap_err();
            assert_eq!((error.step, error.shape.as_slice()), (1, [4, 6].as_slice()));
            assert!(error.reason.contains(reason), "{step}: {}", error.reason);
        }
        assert!(recipe(&[], &[Step::UnitRows]).unwrap_err().reason.contains("no rows"));
    }
}
