//! Rotary position embeddings and how they are stretched.

use crate::options::{bound, not_zero, positive};

/// How rotary frequencies are changed to reach further than was trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// How many times further.
        factor: f64,
    },
    /// Llama 3.1's: long waves stretched, short ones kept, a ramp between.
    Llama3 {
        /// How many times further.
        factor: f64,
        /// Waves longer than `context / low` are stretched by the whole factor.
        low: f64,
        /// Waves shorter than `context / high` are kept.
        high: f64,
        /// The context it was trained on.
        context: u32,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// How many times further.
        factor: f64,
        /// Dimensions that turn more often than this over the context are kept.
        fast: f64,
        /// Dimensions that turn less often are stretched by the whole factor.
        slow: f64,
        /// What cosine and sine are multiplied by; `0.1 ln(factor) + 1` if not said.
        attention: Option<f64>,
        /// The context it was trained on.
        context: u32,
        /// Whether the ramp's ends are as computed. If not, they are rounded outwards to whole
        /// dimensions.
        untruncated: bool,
    },
    /// Phi-3's: a factor of its own for each pair, by which its frequency is divided. A request
    /// that may grow past `context` takes the long ones for all of its positions, any other the
    /// short ones.
    Long {
        /// One for each pair, `rotated / 2`.
        short: Vec<f64>,
        /// As many.
        long: Vec<f64>,
        /// What cosine and sine are multiplied by.
        attention: f64,
        /// The context it was trained on.
        context: u32,
    },
}

/// A rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryData {
    /// Elements of one head.
    pub head_width: u32,
    /// How many leading elements of a head turn; even.
    pub rotated: u32,
    /// θ: pair `i` turns by `base^(-2i/rotated)` a token.
    pub base: f64,
    /// For longer contexts.
    pub scaling: Scaling,
    /// Whether pairs are neighbours, elements `2i` and `2i + 1`. If not, they are halves of the
    /// turned part: `i` and `i + rotated/2`.
    pub interleaved: bool,
}

impl RotaryData {
    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let RotaryData { head_width, rotated, base, ref scaling, interleaved: _ } = *self;
        not_zero("head_width", head_width)?;
        not_zero("rotated", rotated)?;
        if rotated % 2 != 0 || rotated > head_width {
            return Err(format!(
                "rotated is {rotated}: it must be even and at most head_width, {head_width}"
            ));
        }
        positive("base", base)?;
        match *scaling {
            Scaling::None => Ok(()),
            Scaling::Linear { factor } => positive("factor", factor),
            Scaling::Llama3 { factor, low, high, context } => {
                positive("factor", factor)?;
                positive("low", low)?;
                positive("high", high)?;
                not_zero("context", context)?;
                if low >= high {
                    return Err(format!("low is {low:?}: it must be less than high, {high:?}"));
                }
                Ok(())
            }
            Scaling::Yarn { factor, fast, slow, attention, context, untruncated: _ } => {
                positive("factor", factor)?;
                positive("fast", fast)?;
                positive("slow", slow)?;
                not_zero("context", context)?;
                if slow >= fast {
                    return Err(format!("slow is {slow:?}: it must be less than fast, {fast:?}"));
                }
                attention.map_or(Ok(()), |attention| positive("attention", attention))
            }
            Scaling::Long { ref short, ref long, attention, context } => {
                for (name, factors) in [("short", short), ("long", long)] {
                    if factors.len() as u64 != u64::from(rotated / 2) {
                        return Err(format!(
                            "{name} has {} factors: they must be as many as pairs, {}",
                            factors.len(),
                            rotated / 2
                        ));
                    }
                    let what = format!("a factor of {name}");
                    factors.iter().try_for_each(|&factor| bound(&what, factor))?;
                }
                positive("attention", attention)?;
                not_zero("context", context)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RotaryData = RotaryData {
        head_width: 64,
        rotated: 64,
        base: 10000.0,
        scaling: Scaling::None,
        interleaved: false,
    };

    fn refused(scaling: Scaling, word: &str) {
        let error = RotaryData { scaling, ..PLAIN }.check().unwrap_err();
        assert!(error.starts_with(word), "{error}");
    }

    #[test]
    fn a_rotary_turns_pairs_within_a_head() {
        assert_eq!(PLAIN.check(), Ok(()));
        assert_eq!(RotaryData { rotated: 32, ..PLAIN }.check(), Ok(()));
        for rotated in [0, 31, 66] {
            assert!(RotaryData { rotated, ..PLAIN }.check().is_err(), "{rotated}");
        }
        for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(RotaryData { base, ..PLAIN }.check().is_err(), "{base}");
        }
    }

    #[test]
    fn scalings_need_numbers_in_order() {
        refused(Scaling::Linear { factor: 0.0 }, "factor");
        let llama3 = |low, high, context| Scaling::Llama3 { factor: 8.0, low, high, context };
        assert_eq!(RotaryData { scaling: llama3(1.0, 4.0, 8192), ..PLAIN }.check(), Ok(()));
        refused(llama3(4.0, 4.0, 8192), "low");
        refused(llama3(1.0, f64::INFINITY, 8192), "high");
        refused(llama3(1.0, 4.0, 0), "context");
        let yarn = |fast, slow, attention| Scaling::Yarn {
            factor: 4.0,
            fast,
            slow,
            attention,
            context: 1,
            untruncated: false,
        };
        assert_eq!(RotaryData { scaling: yarn(32.0, 1.0, Some(1.1)), ..PLAIN }.check(), Ok(()));
        refused(yarn(1.0, 32.0, None), "slow");
        refused(yarn(32.0, 1.0, Some(f64::NAN)), "attention");
    }

    #[test]
    fn long_scalings_have_a_factor_for_each_pair() {
        let long = |short: &[f64], long: &[f64], attention, context| RotaryData {
            rotated: 4,
            scaling: Scaling::Long {
                short: short.to_vec(),
                long: long.to_vec(),
                attention,
                context,
            },
            ..PLAIN
        };
        let (two, one) = (&[1.0, 2.0], &[1.0]);
        assert_eq!(long(two, two, 1.19, 4096).check(), Ok(()));
        for (bad, word) in [
            (long(one, two, 1.0, 1), "short has 1 factors: they must be as many as pairs, 2"),
            (long(two, one, 1.0, 1), "long has 1 factors"),
            (long(two, &[1.0, 0.0], 1.0, 1), "a factor of long is 0.0"),
            (long(&[1.0, 1e-60], two, 1.0, 1), "a factor of short is 1e-60"),
            (long(two, two, f64::NAN, 1), "attention is NaN"),
            (long(two, two, 1.0, 0), "context is 0"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.starts_with(word), "{error}");
        }
    }
}
