//! Which part of a parameter a rank keeps.
//!
//! ```text
//! qkv [8 query_heads + 4 key_heads + 4 key_heads, 6], rank 1 of tp 2:
//!     axis 0: keep 4..8, keep 10..12, keep 14..16      axis 1: keep 0..6
//! lm_head [5 vocabulary, 6], rank 1 of tp 2:
//!     axis 0: keep 3..5, zeros 1                       axis 1: keep 0..6
//! ```
//! What a rank keeps lies in the order of the whole, so a parameter that streams past once can be
//! dealt out to all ranks at the same time.

use std::fmt;
use std::ops::Range;

/// A stretch of one axis of a rank's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These indices of the whole; not empty.
    Keep(Range<u64>),
    /// So many indices that the whole does not have, filled with zeros; at least 1.
    Zeros(u64),
}

impl Piece {
    /// How many indices it is.
    pub fn size(&self) -> u64 {
        match self {
            Piece::Keep(range) => range.end - range.start,
            Piece::Zeros(count) => *count,
        }
    }
}

/// A rank's part of a parameter: what it keeps of each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Of each axis of the whole, outermost first; the ranges of one ascend and do not overlap.
    pub axes: Vec<Vec<Piece>>,
}

impl Cut {
    /// All of a parameter of this shape.
    pub fn whole(shape: &[u64]) -> Cut {
        Cut { axes: shape.iter().map(|&n| vec![Piece::Keep(0..n)]).collect() }
    }

    /// Whether it is all of a parameter of this shape, and nothing else.
    pub fn is_whole(&self, shape: &[u64]) -> bool {
        *self == Cut::whole(shape)
    }

    /// The lengths of the part, outermost axis first.
    pub fn shape(&self) -> Vec<u64> {
        self.axes.iter().map(|pieces| pieces.iter().map(Piece::size).sum()).collect()
    }
}

/// A tensor of a rank and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its name in the rank's file; blocks are counted from the first of the rank's stage.
    pub name: String,
    /// The name of the whole, as a [`crate::Provider`] has it.
    pub source: String,
    /// What of it the rank keeps.
    pub cut: Cut,
}

/// `[4..8 + 10..12, 0..6]`, zeros as `0×1`
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|pieces| {
                let pieces: Vec<String> = pieces
                    .iter()
                    .map(|piece| match piece {
                        Piece::Keep(range) => format!("{}..{}", range.start, range.end),
                        Piece::Zeros(count) => format!("0×{count}"),
                    })
                    .collect();
                pieces.join(" + ")
            })
            .collect();
        write!(f, "[{}]", axes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_as_long_as_its_pieces() {
        let cut = Cut {
            axes: vec![
                vec![Piece::Keep(3..5), Piece::Keep(7..8), Piece::Zeros(1)],
                vec![Piece::Keep(0..6)],
            ],
        };
        assert_eq!(cut.shape(), [4, 6]);
        assert_eq!(cut.to_string(), "[3..5 + 7..8 + 0×1, 0..6]");
        assert!(!cut.is_whole(&[4, 6]));
        assert!(Cut::whole(&[4, 6]).is_whole(&[4, 6]));
    }
}
