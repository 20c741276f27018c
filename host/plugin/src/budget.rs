//! What we do and keep on a guest's behalf, counted: a store's limits do not see our own memory.

use crate::Limits;
use crate::error::{Exhausted, Rejection};
use engraft_diagnostic::escape;
use engraft_weights::{Joint, Origin, Parameter, Part, Step};

/// What one graph took of the limits of the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Calls on the builder in the place that has the most.
    pub operations: u32,
    /// Calls on the builder in all places together.
    pub total_operations: u32,
    /// Bytes of the largest answer, the parameters of a place, about.
    pub call_bytes: usize,
    /// Bytes of descriptions that we kept, about.
    pub kept_bytes: usize,
}

/// Counts of one graph under construction.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    place: u32,
    largest: u32,
    total: u32,
    answer: usize,
    kept: usize,
}

impl Budget {
    /// Nothing used yet.
    pub(crate) fn new(limits: &Limits) -> Budget {
        Budget { limits: limits.clone(), place: 0, largest: 0, total: 0, answer: 0, kept: 0 }
    }

    /// The next place begins; `kept` bytes of descriptions stay with us.
    pub(crate) fn next_place(&mut self, kept: usize) -> Result<(), Exhausted> {
        self.place = 0;
        self.answer = self.answer.max(kept);
        self.keep(kept)
    }

    /// So many bytes of descriptions stay with us until the graph is written.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.kept = self.kept.saturating_add(bytes);
        within("bytes of parameters", self.kept, self.limits.kept_bytes)
    }

    /// One more call on the builder.
    pub(crate) fn operation(&mut self) -> Result<(), Rejection> {
        self.place += 1;
        self.largest = self.largest.max(self.place);
        self.total += 1;
        let counts = [
            ("calls on the builder in one place", self.place, self.limits.operations),
            ("calls on the builder", self.total, self.limits.total_operations),
        ];
        for (what, count, limit) in counts {
            within(what, count as usize, limit as usize).map_err(Rejection::Exhausted)?;
        }
        Ok(())
    }

    /// What was used of it so far.
    pub(crate) fn used(&self) -> Used {
        Used {
            operations: self.largest,
            total_operations: self.total,
            call_bytes: self.answer,
            kept_bytes: self.kept,
        }
    }

    /// Whether a label is short enough.
    pub(crate) fn label(&self, text: &str) -> Result<(), Rejection> {
        within("bytes in a label", text.len(), self.limits.label).map_err(Rejection::Exhausted)
    }

    /// Whether as many values may be handed on.
    pub(crate) fn carry(&self, count: usize) -> Result<(), Exhausted> {
        within("values handed on by one place", count, self.limits.carry)
    }
}

/// An error if there are more than allowed.
pub(crate) fn within(what: &'static str, count: usize, limit: usize) -> Result<(), Exhausted> {
    if count <= limit { Ok(()) } else { Err(Exhausted::Budget { what, limit: limit as u64 }) }
}

/// About how many bytes a place's parameters cost us to keep.
///
/// # Errors
/// A sentence that says which of them is too large, or that a name is used twice.
pub(crate) fn check_parameters(all: &[Parameter], limits: &Limits) -> Result<usize, String> {
    if all.len() > limits.parameters {
        return Err(format!("{} parameters; at most {}", all.len(), limits.parameters));
    }
    let mut names = std::collections::BTreeSet::new();
    let mut kept = 0usize;
    for parameter in all {
        let name = escape(&parameter.name);
        check_name(&parameter.name, limits)?;
        if !names.insert(&parameter.name) {
            return Err(format!("two parameters are named `{name}`"));
        }
        let (pieces, bytes) = match &parameter.origin {
            Origin::Tensor(part) => size_of(std::slice::from_ref(part), limits)?,
            Origin::Concat(joint) => size_of(&joint.parts, limits)?,
            Origin::Stack(pile) => {
                let sizes = pile.parts.iter().map(|Joint { parts, .. }| size_of(parts, limits));
                sizes.sum_pairs()?
            }
            Origin::Tied(to) => {
                check_name(to, limits)?;
                (1, to.len())
            }
        };
        if pieces > limits.pieces {
            return Err(format!("`{name}` has {pieces} parts, steps and axes"));
        }
        kept = kept.saturating_add(parameter.name.len() + bytes);
    }
    Ok(kept)
}

/// Adds pairs up, stopping at the first error.
trait SumPairs {
    fn sum_pairs(self) -> Result<(usize, usize), String>;
}

impl<I: Iterator<Item = Result<(usize, usize), String>>> SumPairs for I {
    fn sum_pairs(mut self) -> Result<(usize, usize), String> {
        self.try_fold((0, 0), |(a, b), next| next.map(|(c, d)| (a + c, b + d)))
    }
}

/// Parts, steps and axes, and the bytes of all of them.
fn size_of(parts: &[Part], limits: &Limits) -> Result<(usize, usize), String> {
    const PIECE: usize = 32;
    parts
        .iter()
        .map(|part| {
            let mut pieces = 1 + part.axes.len();
            let mut names = part.tensor.len();
            check_name(&part.tensor, limits)?;
            for step in &part.steps {
                pieces += match step {
                    Step::Reshape(shape) => 1 + shape.len(),
                    Step::Permute(order) => 1 + order.len(),
                    Step::Times(name) | Step::TimesTransposed(name) => {
                        check_name(name, limits)?;
                        names += name.len();
                        1
                    }
                    Step::Slice { .. } | Step::Add(_) | Step::Scale(_) | Step::UnitRows => 1,
                };
            }
            Ok((pieces, names + pieces * PIECE))
        })
        .sum_pairs()
}

/// Whether a name is one: not empty, not too long, and printable.
pub(crate) fn check_name(name: &str, limits: &Limits) -> Result<(), String> {
    if name.is_empty() || name.len() > limits.name {
        return Err(format!("a name has {} bytes; it must have 1 to {}", name.len(), limits.name));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("the name `{}` has control characters", escape(name)));
    }
    Ok(())
}
