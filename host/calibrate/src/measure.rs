//! How far a quantised weight is from what it was.

/// How far one vector is from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// How much larger what was is than its error, in decibels of power; infinite without error.
    pub sqnr: f64,
    /// The largest error.
    pub max: f32,
    /// The cosine of the angle between them; 1 where both are 0, and 0 where only one is.
    pub cosine: f64,
}

impl Distance {
    /// The distance from `was` to `is`, which have one length.
    pub fn between(was: &[f32], is: &[f32]) -> Distance {
        let (mut power, mut noise, mut other, mut along) = (0.0, 0.0, 0.0, 0.0);
        let mut max = 0.0f32;
        for (&a, &b) in was.iter().zip(is) {
            max = max.max((a - b).abs());
            let (a, b) = (f64::from(a), f64::from(b));
            power += a * a;
            other += b * b;
            along += a * b;
            noise += (a - b) * (a - b);
        }
        let sqnr = if noise == 0.0 { f64::INFINITY } else { 10.0 * (power / noise).log10() };
        let cosine = match (power == 0.0, other == 0.0) {
            (true, true) => 1.0,
            (false, false) => along / (power * other).sqrt(),
            _ => 0.0,
        };
        Distance { sqnr, max, cosine }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_by_hand() {
        let distance = Distance::between(&[3.0, 4.0], &[3.0, 3.5]);
        assert_eq!(distance.sqnr, 20.0);
        assert_eq!(distance.max, 0.5);
        assert!((distance.cosine - 23.0 / (25.0f64 * 21.25).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn nothing_has_distances_too() {
        let same = Distance::between(&[0.0], &[0.0]);
        assert_eq!(same, Distance { sqnr: f64::INFINITY, max: 0.0, cosine: 1.0 });
        assert_eq!(Distance::between(&[1.0], &[0.0]).cosine, 0.0);
        assert_eq!(Distance::between(&[1.0], &[0.0]).sqnr, 0.0);
    }
}
