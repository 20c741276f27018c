//! What a matrix becomes.

use crate::CalibrateError;

/// What the codes of a matrix may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Bits of a code, 2 to 8. A code is a signed integer of so many bits.
    pub bits: u32,
    /// Neighbouring inputs that share a scale.
    pub group: usize,
    /// Whether a group has a code of its own that stands for zero; else that code is 0.
    pub zeros: bool,
    /// How exactly scales are stored.
    pub precision: Precision,
    /// Where codes are floats of eight bits: the bits of the one scale that all have.
    pub float: Option<u32>,
}

impl Grid {
    /// Floats of eight bits, all with this scale; a code is the byte of one.
    pub fn floats(scale: f32, columns: usize) -> Grid {
        Grid { float: Some(scale.to_bits()), ..Grid::channel(8, columns) }
    }

    /// The scale, where codes are floats.
    pub(crate) fn float_step(&self) -> Option<f32> {
        self.float.map(f32::from_bits)
    }

    /// The same with so many bits.
    pub fn with_bits(self, bits: u32) -> Grid {
        Grid { bits, ..self }
    }

    /// Four bits whose scales have a sign and 16 bits, as AWQ's form wants them.
    pub fn symmetric(group: usize) -> Grid {
        Grid { bits: 4, group, zeros: false, precision: Precision::F16, float: None }
    }

    /// Four bits with codes for zero, as GPTQ's form wants them.
    pub fn zero_points(group: usize) -> Grid {
        Grid { bits: 4, group, zeros: true, precision: Precision::Significant(7), float: None }
    }

    /// As many bits as there are, and a scale per output.
    pub fn channel(bits: u32, columns: usize) -> Grid {
        Grid { bits, group: columns, zeros: false, precision: Precision::F32, float: None }
    }

    /// # Errors
    /// [`CalibrateError::Setting`] for a number of bits that is not 2 to 8, or of a precision that
    /// is not 1 to 11; [`CalibrateError::Group`] where groups do not divide a row.
    pub(crate) fn check(&self, columns: usize) -> Result<(), CalibrateError> {
        let setting = |what, value: u32, range| {
            Err(CalibrateError::Setting { what, value: f64::from(value), range })
        };
        if !(2..=8).contains(&self.bits) {
            return setting("a code's bits", self.bits, "2 to 8");
        }
        match self.precision {
            Precision::Significant(bits) if !(1..=11).contains(&bits) => {
                return setting("a scale's significant bits", bits, "1 to 11");
            }
            _ => {}
        }
        if self.group == 0 || !columns.is_multiple_of(self.group) {
            return Err(CalibrateError::Group { group: self.group, columns });
        }
        Ok(())
    }

    /// The least and the largest code.
    pub fn range(&self) -> (i32, i32) {
        let half = 1 << (self.bits - 1);
        (-half, half - 1)
    }
}

/// How exactly a scale is stored. Scales are `f32` here; they are rounded to what the format and
/// the engine can hold, before codes are chosen for them, so that nothing is lost later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As it is.
    F32,
    /// As an `f16`.
    F16,
    /// As a `bf16`.
    Bf16,
    /// As an `f16` with so many significant bits, 1 to 11. With at most 7, the product with a
    /// code of four bits is exact in `f16`, which is how GPTQ's form has zeros.
    Significant(u32),
}

impl Precision {
    /// The nearest number that can be stored; of two, the one whose last bit is 0.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::F16 => half::f16::from_f32(x).to_f32(),
            Precision::Bf16 => half::bf16::from_f32(x).to_f32(),
            Precision::Significant(bits) => {
                let drop = 24 - bits;
                let bits = x.to_bits();
                let rest = (1 << (drop - 1)) - 1 + ((bits >> drop) & 1);
                let kept = f32::from_bits(bits.wrapping_add(rest) >> drop << drop);
                half::f16::from_f32(kept).to_f32()
            }
        }
    }
}

/// A matrix `[out, in]` as codes.
///
/// ```text
/// weight[o, i] ≈ (code[o, i] − zero[o, i / group]) · scale[o, i / group] · input_scale[i]
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Neighbouring inputs that share a scale; all of them where a row has one scale.
    pub group: usize,
    /// The codes, `[out, in]`, one each.
    pub codes: Vec<i8>,
    /// The scales, `[out, in / group]`. They may be negative, and are never 0.
    pub scales: Vec<f32>,
    /// Codes that stand for zero, `[out, in / group]`; 0 without.
    pub zeros: Option<Vec<i16>>,
    /// What activations are multiplied by before the product, `[in]`; 1 without.
    pub input_scales: Option<Vec<f32>>,
}

impl Codes {
    /// The matrix `[out, in]` that they stand for, for activations as they come: with the scales
    /// of inputs, if there are any, in it.
    pub fn weights(&self) -> Vec<f32> {
        let groups = self.columns / self.group;
        let mut weights = Vec::with_capacity(self.codes.len());
        for (row, codes) in self.codes.chunks_exact(self.columns).enumerate() {
            for (g, codes) in codes.chunks_exact(self.group).enumerate() {
                let at = row * groups + g;
                let scale = self.scales[at];
                let zero = self.zeros.as_ref().map_or(0, |zeros| zeros[at]);
                weights.extend(codes.iter().map(|&c| f32::from(i16::from(c) - zero) * scale));
            }
        }
        if let Some(factors) = &self.input_scales {
            for row in weights.chunks_exact_mut(self.columns) {
                row.iter_mut().zip(factors).for_each(|(w, f)| *w *= f);
            }
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_weights() {
        let mut codes = Codes {
            rows: 1,
            columns: 4,
            group: 2,
            codes: vec![-8, 7, 1, 2],
            scales: vec![0.5, -2.0],
            zeros: None,
            input_scales: None,
        };
        assert_eq!(codes.weights(), [-4.0, 3.5, -2.0, -4.0]);
        codes.zeros = Some(vec![-1, 2]);
        assert_eq!(codes.weights(), [-3.5, 4.0, 2.0, 0.0]);
        codes.input_scales = Some(vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(codes.weights(), [-3.5, 8.0, 6.0, 0.0]);
    }

    #[test]
    fn scales_are_rounded_as_they_are_stored() {
        assert_eq!(Precision::F32.round(0.1), 0.1);
        assert_eq!(Precision::F16.round(1.0 + 1.0 / 2048.0), 1.0);
        assert_eq!(Precision::Bf16.round(1.0 + 3.0 / 256.0), 1.0 + 2.0 / 128.0);
        let round = |x| Precision::Significant(7).round(x);
        assert_eq!([round(127.0), round(-129.0), round(129.5)], [127.0, -128.0, 130.0]);
        // A tie goes to the even one of 128 and 130, and of 130 and 132.
        assert_eq!([round(129.0), round(131.0)], [128.0, 132.0]);
    }

    #[test]
    fn products_of_scales_and_zeros_are_exact_in_half_precision() {
        for scale in [0.1f32, 0.013, 1.7, 0.000_9] {
            let scale = Precision::Significant(7).round(scale);
            for zero in -8..8i16 {
                let product = f32::from(zero) * scale;
                assert_eq!(half::f16::from_f32(product).to_f32(), product);
            }
        }
    }
}
