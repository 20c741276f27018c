//! Texts, made without the standard library's formatting where a model takes many of them or where
//! it brings much code: that of floats alone is a tenth of a plugin, and compiling plugins is what
//! they cost.

use crate::SettingValue;

/// Texts one after another.
#[inline(never)]
pub fn join(parts: &[&str]) -> String {
    let mut all = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        all.push_str(part);
    }
    all
}

/// Two names with a dot between them: a layer and `weight`, as a rule.
pub fn dotted(left: &str, right: &str) -> String {
    join(&[left, ".", right])
}

/// A value as a config spells it, for refusals.
pub fn show(value: impl Into<SettingValue>) -> String {
    shown(&value.into())
}

/// The same of a value that stays where it is.
pub(crate) fn shown(value: &SettingValue) -> String {
    fn list<T>(all: &[T], show: fn(&T) -> String) -> String {
        join(&["[", &all.iter().map(show).collect::<Vec<_>>().join(", "), "]"])
    }
    fn quoted(text: &str) -> String {
        join(&["\"", text, "\""])
    }
    match value {
        SettingValue::Flag(v) => String::from(if *v { "true" } else { "false" }),
        SettingValue::Integer(v) => v.to_string(),
        SettingValue::Number(v) => number(v),
        SettingValue::Text(v) => quoted(v),
        SettingValue::Integers(v) => list(v, i64::to_string),
        SettingValue::Numbers(v) => list(v, number),
        SettingValue::Texts(v) => list(v, |text| quoted(text)),
    }
}

/// With as many digits as tell it from its neighbours, where those are at most fifteen.
fn number(x: &f64) -> String {
    // Whole numbers from here on are not all floats.
    const WHOLE: f64 = 9e15;
    if !x.is_finite() {
        return String::from(if x.is_nan() { "NaN" } else { "infinity" });
    }
    let (mut size, mut exponent) = (x.abs(), 0i64);
    while size >= WHOLE || exponent > 0 && size >= 10.0 {
        (size, exponent) = (size / 10.0, exponent + 1);
    }
    while size != 0.0 && (size < 1e-4 || exponent < 0 && size < 1.0) {
        (size, exponent) = (size * 10.0, exponent - 1);
    }
    // Where both stay below 2⁵³ they are exact, and their quotient is the nearest float.
    // Of a power of ten fewer digits are exact.
    let most = if exponent == 0 { WHOLE / 10.0 } else { 1e12 };
    let mut scale = 1u64;
    while (size * scale as f64).round() / scale as f64 != size && size * (scale as f64) < most {
        scale *= 10;
    }
    let digits = (size * scale as f64).round() as u64;
    let fraction = (digits % scale + scale).to_string();
    let fraction = fraction.strip_prefix('1').unwrap_or_default().trim_end_matches('0');
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    let sign = if x.is_sign_negative() { "-" } else { "" };
    let power = if exponent == 0 { String::new() } else { join(&["e", &exponent.to_string()]) };
    join(&[sign, &(digits / scale).to_string(), ".", fraction, &power])
}
