//! What numbers among an operation's options must satisfy.
//!
//! Options check themselves, apart from [`infer`](crate::infer()), because whoever takes such
//! numbers from outside wants to refuse them where they are given, before any operation uses
//! them.

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
