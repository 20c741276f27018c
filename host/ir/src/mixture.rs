//! What a mixture of experts is told besides its operands.

use crate::activation::Activation;
use crate::entities::Weight;
use crate::options::{bound, finite, not_zero};

/// How a row's experts are chosen and weighed, and what one of them does.
///
/// 1. A score for each expert: the softmax of the router's logits, or, if `sigmoid`, the sigmoid
///    of each.
/// 2. For choosing alone, `prefer` is added; `groups` says which experts are left.
/// 3. The `chosen` best are taken; of equal ones, those that come first.
/// 4. The weights of the chosen are their scores, without `prefer`; if `renormalize`, divided by
///    their sum; then multiplied by `scale`.
/// 5. An expert gives `down · (activation(gate) · up)`, or what `bounded` says; the results,
///    times their weights, are summed in the order of the experts.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureData {
    /// Experts that a row takes.
    pub chosen: u32,
    /// What the gate goes through.
    pub activation: Activation,
    /// Whether scores are sigmoids, each by itself.
    pub sigmoid: bool,
    /// Whether weights are divided by their sum.
    pub renormalize: bool,
    /// What weights are multiplied by in the end; 1 if not said.
    pub scale: Option<f64>,
    /// `[experts]`: added to scores where experts are chosen.
    pub prefer: Option<Weight>,
    /// Which experts may be chosen; all if not said.
    pub groups: Option<Groups>,
    /// Of the two matrices: `[experts, 2·inner]` and `[experts, hidden]`.
    pub biases: Option<[Weight; 2]>,
    /// What an expert does instead.
    pub bounded: Option<Bounded>,
    /// Made by passes: the number of the first expert whose matrices these are, where other ranks
    /// have the others; all are chosen among, and those that are not here add nothing.
    pub first: Option<u32>,
}

/// Experts in equal stretches, of which a row takes the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// How many; divides the number of experts.
    pub groups: u32,
    /// How many a row takes; of equal ones, those that come first.
    pub chosen: u32,
    /// A group counts by the sum of so many of its best scores, `prefer` included.
    pub best: u32,
}

/// GPT-OSS's experts: with `gate` cut off above `bound`, and `up` above it and below `-bound`,
/// `(up + 1) · gate · sigmoid(slope · gate)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounded {
    /// Where both are cut off.
    pub bound: f64,
    /// How steep the sigmoid is.
    pub slope: f64,
}

impl MixtureData {
    /// Without what may be missing.
    pub fn new(chosen: u32, activation: Activation) -> MixtureData {
        MixtureData {
            chosen,
            activation,
            sigmoid: false,
            renormalize: false,
            scale: None,
            prefer: None,
            groups: None,
            biases: None,
            bounded: None,
            first: None,
        }
    }

    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        not_zero("chosen", self.chosen)?;
        self.scale.map_or(Ok(()), |scale| finite("scale", scale))?;
        if let Some(Groups { groups, chosen, best }) = self.groups {
            not_zero("groups", groups)?;
            not_zero("chosen_groups", chosen)?;
            not_zero("best", best)?;
            if chosen > groups {
                return Err(format!(
                    "chosen_groups is {chosen}: it must be at most groups, {groups}"
                ));
            }
        }
        if let Some(Bounded { bound: most, slope }) = self.bounded {
            bound("bound", most)?;
            finite("slope", slope)?;
            if self.activation != Activation::Silu {
                return Err(format!(
                    "activation is {}: where experts are bounded, it must be silu",
                    self.activation
                ));
            }
        }
        Ok(())
    }

    /// Whether so many experts are enough to choose from.
    ///
    /// # Errors
    /// As [`MixtureData::check`].
    pub fn check_experts(&self, experts: u64) -> Result<(), String> {
        let chosen = u64::from(self.chosen);
        if chosen > experts {
            return Err(format!("chosen is {chosen}: there are {experts} experts"));
        }
        let Some(Groups { groups, chosen: taken, best }) = self.groups else { return Ok(()) };
        if !experts.is_multiple_of(u64::from(groups)) || groups == 0 {
            return Err(format!(
                "groups is {groups}: it must divide the number of experts, {experts}"
            ));
        }
        let size = experts / u64::from(groups);
        if u64::from(best) > size {
            return Err(format!("best is {best}: a group has {size} experts"));
        }
        let left = size.saturating_mul(u64::from(taken));
        if chosen > left {
            return Err(format!(
                "chosen is {chosen}: {taken} groups of {size} experts have {left}"
            ));
        }
        Ok(())
    }

    /// Calls `f` on each weight among the options, in their order in the text form.
    pub(crate) fn map_weights(&mut self, mut f: impl FnMut(&mut Weight)) {
        self.prefer.iter_mut().for_each(&mut f);
        self.biases.iter_mut().flatten().for_each(f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture() -> MixtureData {
        MixtureData::new(2, Activation::Silu)
    }

    #[test]
    fn a_row_takes_some_of_the_experts() {
        assert_eq!(mixture().check(), Ok(()));
        assert_eq!(mixture().check_experts(2), Ok(()));
        let error = mixture().check_experts(1).unwrap_err();
        assert_eq!(error, "chosen is 2: there are 1 experts");
        assert!(MixtureData { chosen: 0, ..mixture() }.check().is_err());
        for scale in [f64::NAN, f64::INFINITY, 1e60] {
            assert!(MixtureData { scale: Some(scale), ..mixture() }.check().is_err(), "{scale}");
        }
    }

    #[test]
    fn groups_are_equal_and_leave_enough() {
        let with = |groups, chosen, best| {
            let groups = Some(Groups { groups, chosen, best });
            let data = MixtureData { groups, ..mixture() };
            data.check().and_then(|()| data.check_experts(8))
        };
        assert_eq!(with(4, 1, 2), Ok(()));
        for (groups, chosen, best, word) in [
            (0, 1, 1, "groups is 0"),
            (4, 0, 1, "chosen_groups is 0"),
            (4, 5, 1, "chosen_groups is 5: it must be at most groups, 4"),
            (4, 1, 0, "best is 0"),
            (4, 1, 3, "best is 3: a group has 2 experts"),
            (3, 1, 1, "groups is 3: it must divide the number of experts, 8"),
            (8, 1, 1, "chosen is 2: 1 groups of 1 experts have 1"),
        ] {
            let error = with(groups, chosen, best).unwrap_err();
            assert!(error.starts_with(word), "{error}");
        }
    }

    #[test]
    fn bounds_are_finite_and_go_with_silu() {
        let with = |bound, slope, activation| {
            let bounded = Some(Bounded { bound, slope });
            MixtureData { activation, bounded, ..mixture() }.check()
        };
        assert_eq!(with(7.0, 1.702, Activation::Silu), Ok(()));
        assert!(with(0.0, 1.702, Activation::Silu).is_err());
        assert!(with(7.0, f64::NAN, Activation::Silu).is_err());
        let error = with(7.0, 1.702, Activation::Gelu).unwrap_err();
        assert_eq!(error, "activation is gelu: where experts are bounded, it must be silu");
    }
}
