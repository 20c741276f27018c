//! What the numbers of a rotary embedding and of an attention must satisfy.
//!
//! Apart from [`infer`](crate::infer()), because whoever takes such numbers from outside wants
//! to refuse them where they are given, before any operation uses them.

use crate::op::{AttentionData, RotaryData, Scaling};

/// An error unless the number is finite and greater than zero.
pub(crate) fn positive(name: &str, number: f64) -> Result<(), String> {
    if number.is_finite() && number > 0.0 {
        return Ok(());
    }
    Err(format!("{name} is {number:?}: it must be finite and greater than 0"))
}

/// An error unless the number is finite, and still is as an f32: devices compute with those.
pub(crate) fn finite(name: &str, number: f64) -> Result<(), String> {
    if (number as f32).is_finite() {
        return Ok(());
    }
    Err(format!("{name} is {number:?}: it must be finite as f32"))
}

/// An error unless the number is finite and greater than zero, and still is as an f32.
pub(crate) fn bound(name: &str, number: f64) -> Result<(), String> {
    let narrow = number as f32;
    if narrow.is_finite() && narrow > 0.0 {
        return Ok(());
    }
    Err(format!("{name} is {number:?}: it must be finite and greater than 0 as f32"))
}

/// An error unless the number is at least 1.
pub(crate) fn not_zero(name: &str, number: u32) -> Result<(), String> {
    if number > 0 { Ok(()) } else { Err(format!("{name} is 0: it must be at least 1")) }
}

impl RotaryData {
    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let RotaryData { head_width, rotated, base, scaling, interleaved: _ } = *self;
        not_zero("head_width", head_width)?;
        not_zero("rotated", rotated)?;
        if rotated % 2 != 0 || rotated > head_width {
            return Err(format!(
                "rotated is {rotated}: it must be even and at most head_width, {head_width}"
            ));
        }
        positive("base", base)?;
        match scaling {
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
            Scaling::Yarn { factor, fast, slow, attention, context } => {
                positive("factor", factor)?;
                positive("fast", fast)?;
                positive("slow", slow)?;
                not_zero("context", context)?;
                if slow >= fast {
                    return Err(format!("slow is {slow:?}: it must be less than fast, {fast:?}"));
                }
                attention.map_or(Ok(()), |attention| positive("attention", attention))
            }
        }
    }
}

impl AttentionData {
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
        };
        assert_eq!(RotaryData { scaling: yarn(32.0, 1.0, Some(1.1)), ..PLAIN }.check(), Ok(()));
        refused(yarn(1.0, 32.0, None), "slow");
        refused(yarn(32.0, 1.0, Some(f64::NAN)), "attention");
    }

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
}
