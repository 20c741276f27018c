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

fn not_zero(name: &str, number: u32) -> Result<(), String> {
    if number > 0 { Ok(()) } else { Err(format!("{name} is 0: it must be at least 1")) }
}

impl RotaryData {
    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let RotaryData { head_width, rotated, base, scaling } = *self;
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
        let AttentionData { query_heads, key_heads, head_width, scale } = *self;
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RotaryData =
        RotaryData { head_width: 64, rotated: 64, base: 10000.0, scaling: Scaling::None };

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
        let plain = AttentionData { query_heads: 9, key_heads: 3, head_width: 64, scale: 0.125 };
        assert_eq!(plain.check(), Ok(()));
        assert!(AttentionData { key_heads: 2, ..plain }.check().is_err());
        assert!(AttentionData { key_heads: 0, ..plain }.check().is_err());
        assert!(AttentionData { scale: f64::NAN, ..plain }.check().is_err());
    }
}
