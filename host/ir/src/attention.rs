//! What an attention is told besides its operands.

use crate::entities::Weight;
use crate::options::{bound, finite, not_zero};
use crate::state::StateData;

/// Heads of a causal self-attention, and what happens to their scores: they are multiplied by
/// `scale`, bent by `softcap`, tilted by `alibi`; then those outside of the `window` are dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionData {
    /// Query heads.
    pub query_heads: u32,
    /// Key and value heads; divides `query_heads`.
    pub key_heads: u32,
    /// Elements of one head.
    pub head_width: u32,
    /// What scores are multiplied by.
    pub scale: f64,
    /// How many tokens each token sees, itself among them; all before it if not said.
    pub window: Option<u32>,
    /// A score becomes `softcap · tanh(score / softcap)`.
    pub softcap: Option<f64>,
    /// A slope for each query head: `slope · (key position - query position)` is added.
    pub alibi: Option<Vec<f64>>,
    /// A logit for each query head, `[query_heads]`: it counts as one more score, of no key and
    /// no value, after all that is done to scores.
    pub sinks: Option<Weight>,
    /// Values are the first so many elements of keys, and the state keeps keys alone.
    pub latent: Option<u32>,
}

impl AttentionData {
    /// Without what may be missing.
    pub fn new(query_heads: u32, key_heads: u32, head_width: u32, scale: f64) -> AttentionData {
        AttentionData {
            query_heads,
            key_heads,
            head_width,
            scale,
            window: None,
            softcap: None,
            alibi: None,
            sinks: None,
            latent: None,
        }
    }

    /// Elements of one head of the result.
    pub fn value_width(&self) -> u32 {
        self.latent.unwrap_or(self.head_width)
    }

    /// What it keeps of each token.
    pub fn state(&self) -> StateData {
        let AttentionData { key_heads, head_width, latent, .. } = *self;
        StateData::Cache { key_heads, head_width, keys_only: latent.is_some() }
    }

    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let AttentionData { query_heads, key_heads, head_width, scale, .. } = *self;
        not_zero("query_heads", query_heads)?;
        not_zero("key_heads", key_heads)?;
        not_zero("head_width", head_width)?;
        if query_heads % key_heads != 0 {
            return Err(format!(
                "key_heads is {key_heads}: it must divide query_heads, {query_heads}"
            ));
        }
        if !scale.is_finite() {
            return Err(format!("scale is {scale:?}: it must be finite"));
        }
        self.window.map_or(Ok(()), |window| not_zero("window", window))?;
        self.softcap.map_or(Ok(()), |softcap| bound("softcap", softcap))?;
        if self.latent.is_some_and(|width| width == 0 || width > head_width) {
            return Err(format!(
                "latent is {}: it must be at least 1 and at most head_width, {head_width}",
                self.value_width()
            ));
        }
        let Some(slopes) = &self.alibi else { return Ok(()) };
        if slopes.len() as u64 != u64::from(query_heads) {
            return Err(format!(
                "alibi has {} slopes: they must be as many as query_heads, {query_heads}",
                slopes.len()
            ));
        }
        slopes.iter().try_for_each(|&slope| finite("a slope of alibi", slope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_heads_divide_query_heads() {
        assert_eq!(AttentionData::new(9, 3, 64, 0.125).check(), Ok(()));
        assert!(AttentionData::new(9, 2, 64, 0.125).check().is_err());
        assert!(AttentionData::new(9, 0, 64, 0.125).check().is_err());
        assert!(AttentionData::new(9, 3, 64, f64::NAN).check().is_err());
    }

    #[test]
    fn options_of_scores_are_finite_and_slopes_as_many_as_query_heads() {
        let plain = || AttentionData::new(2, 1, 64, 0.125);
        let with = |window, softcap, alibi: Option<&[f64]>| {
            let alibi = alibi.map(<[f64]>::to_vec);
            AttentionData { window, softcap, alibi, ..plain() }.check()
        };
        assert_eq!(with(Some(1), Some(50.0), Some(&[0.5, -0.25])), Ok(()));
        assert!(with(Some(0), None, None).is_err());
        for softcap in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
            assert!(with(None, Some(softcap), None).is_err(), "{softcap}");
        }
        for slopes in [&[][..], &[0.5], &[0.5, 0.5, 0.5], &[0.5, f64::NAN], &[0.5, 1e60]] {
            assert!(with(None, None, Some(slopes)).is_err(), "{slopes:?}");
        }
    }

    #[test]
    fn latent_values_are_a_part_of_keys() {
        let with = |latent| AttentionData { latent, ..AttentionData::new(4, 1, 40, 0.125) };
        assert_eq!(with(Some(40)).check(), Ok(()));
        assert_eq!(with(Some(32)).value_width(), 32);
        assert_eq!(with(None).value_width(), 40);
        for width in [0, 41] {
            assert!(with(Some(width)).check().is_err(), "{width}");
        }
    }
}
