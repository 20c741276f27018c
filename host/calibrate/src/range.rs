//! Scales of what is quantised while the model runs.

/// The largest code of eight bits on either side.
pub const INT8: f32 = 127.0;

/// What a step stands for if `absmax` is to have the code `most`; 1 where there is nothing but
/// zeros.
pub fn scale(absmax: f32, most: f32) -> f32 {
    let scale = absmax / most;
    if scale > 0.0 { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_by_hand() {
        assert_eq!(scale(2.0, 4.0), 0.5);
        assert_eq!(scale(0.0, 127.0), 1.0);
        assert_eq!(scale(f32::MIN_POSITIVE / 64.0, 1e30), 1.0);
    }
}
