//! Weights as they lie in an engine: row-major, made `f32` as they are read.

use crate::Coded;
use std::ops::Range;

/// What one element of a weight is that is a float by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WeightKind {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
}

impl WeightKind {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            WeightKind::F32 => 4,
            WeightKind::F16 | WeightKind::BF16 => 2,
        }
    }
}

/// The elements of a weight.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// IEEE 754 single precision.
    F32(&'a [f32]),
    /// Bits of IEEE 754 half precision.
    F16(&'a [u16]),
    /// Upper halves of single-precision numbers.
    BF16(&'a [u16]),
    /// Codes of few bits.
    Coded(Coded<'a>),
}

impl<'a> Weights<'a> {
    /// Little-endian bytes as weights, without a copy. `None` if they are not aligned to their
    /// elements or are not a whole number of them.
    pub fn from_bytes(kind: WeightKind, bytes: &'a [u8]) -> Option<Weights<'a>> {
        // An empty slice may lie anywhere.
        let bytes = if bytes.is_empty() { bytemuck::cast_slice::<f32, u8>(&[]) } else { bytes };
        Some(match kind {
            WeightKind::F32 => Weights::F32(bytemuck::try_cast_slice(bytes).ok()?),
            WeightKind::F16 => Weights::F16(bytemuck::try_cast_slice(bytes).ok()?),
            WeightKind::BF16 => Weights::BF16(bytemuck::try_cast_slice(bytes).ok()?),
        })
    }

    /// How many elements.
    pub fn len(self) -> usize {
        match self {
            Weights::F32(elements) => elements.len(),
            Weights::F16(elements) | Weights::BF16(elements) => elements.len(),
            Weights::Coded(coded) => coded.rows() * coded.columns(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Some of the elements; of codes, whole rows.
    ///
    /// # Panics
    /// If there are not so many, or codes are cut within a row.
    pub fn part(self, range: Range<usize>) -> Weights<'a> {
        match self {
            Weights::F32(elements) => Weights::F32(&elements[range]),
            Weights::F16(elements) => Weights::F16(&elements[range]),
            Weights::BF16(elements) => Weights::BF16(&elements[range]),
            Weights::Coded(coded) => {
                let k = coded.columns();
                let rows = range.start.is_multiple_of(k) && range.end.is_multiple_of(k);
                assert!(rows, "elements {range:?} of rows of {k}");
                Weights::Coded(coded.part(range.start / k..range.end / k))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_weights_only_where_they_are_whole_and_aligned() {
        let floats = [1.0f32, 2.0, 3.0];
        let bytes: &[u8] = bytemuck::cast_slice(&floats);
        assert_eq!(Weights::from_bytes(WeightKind::F32, bytes).map(Weights::len), Some(3));
        assert_eq!(Weights::from_bytes(WeightKind::BF16, bytes).map(Weights::len), Some(6));
        assert!(Weights::from_bytes(WeightKind::F32, &bytes[..7]).is_none());
        assert!(Weights::from_bytes(WeightKind::F16, &bytes[1..3]).is_none());
        assert!(Weights::from_bytes(WeightKind::F16, &[]).is_some_and(Weights::is_empty));
    }
}
