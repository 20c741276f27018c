//! How a row is spread over the ranks of a stage.

use engraft_ir::{Axis, Segment};
use engraft_weights::Piece;
use std::ops::Range;

/// Which share of a stretch each rank has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Equal parts, in the order of the ranks.
    Even,
    /// So many groups, fewer than ranks: each rank has one, and several ranks the same.
    Groups(u64),
    /// Equal parts of what is filled up with zeros until it divides.
    Padded,
}

/// A stretch of a row, or of a weight's axis, of which each rank has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Of the whole stretch.
    pub(super) size: u64,
    pub(super) way: Way,
}

impl Run {
    /// What rank `rank` of `ranks` keeps, and how many zeros follow it.
    pub(super) fn share(&self, rank: u64, ranks: u64) -> (Range<u64>, u64) {
        let Run { size, way } = *self;
        let part = |number: u64, parts: u64| number * (size / parts)..(number + 1) * (size / parts);
        match way {
            Way::Even => (part(rank, ranks), 0),
            Way::Groups(groups) => (part(rank * groups / ranks, groups), 0),
            Way::Padded => {
                let each = size.div_ceil(ranks);
                let kept = size.min(rank * each)..size.min((rank + 1) * each);
                let zeros = each - (kept.end - kept.start);
                (kept, zeros)
            }
        }
    }

    /// How many elements each rank has.
    pub(super) fn each(&self, ranks: u64) -> u64 {
        let (kept, zeros) = self.share(0, ranks);
        kept.end - kept.start + zeros
    }
}

/// What this rank has of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// All of it, as every rank of the stage.
    Whole,
    /// A summand: the value is the sum over the ranks of the stage.
    Partial,
    /// A share of each of these stretches.
    Cut(Vec<Run>),
}

/// The pieces of an axis that consists of these stretches.
pub(super) fn pieces(runs: &[Run], rank: u64, ranks: u64) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut first = 0;
    for run in runs {
        let (kept, zeros) = run.share(rank, ranks);
        if !kept.is_empty() {
            pieces.push(Piece::Keep(first + kept.start..first + kept.end));
        }
        if zeros > 0 {
            pieces.push(Piece::Zeros(zeros));
        }
        first += run.size;
    }
    pieces
}

/// An axis after a cut: each segment as long as what is kept of it, zeros with the one before
/// them.
pub(super) fn cut_axis(axis: &Axis, pieces: &[Piece]) -> Axis {
    let mut segments: Vec<Segment> = Vec::new();
    let mut bounds = Vec::new();
    let mut end = 0;
    for segment in &axis.segments {
        end += segment.size;
        bounds.push((end - segment.size..end, segment.meaning));
    }
    for piece in pieces {
        match piece {
            Piece::Keep(range) => {
                for (bound, meaning) in &bounds {
                    let (start, end) = (range.start.max(bound.start), range.end.min(bound.end));
                    if start < end {
                        segments.push(Segment { size: end - start, meaning: *meaning });
                    }
                }
            }
            Piece::Zeros(count) => match segments.last_mut() {
                Some(segment) => segment.size += count,
                None => segments.extend(
                    bounds.last().map(|(_, meaning)| Segment { size: *count, meaning: *meaning }),
                ),
            },
        }
    }
    Axis { segments }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_ir::Meaning;

    fn shares(run: Run, ranks: u64) -> Vec<(Range<u64>, u64)> {
        (0..ranks).map(|rank| run.share(rank, ranks)).collect()
    }

    #[test]
    fn shares_are_equal_whatever_the_way() {
        let even = Run { size: 12, way: Way::Even };
        assert_eq!(shares(even, 3), [(0..4, 0), (4..8, 0), (8..12, 0)]);
        let groups = Run { size: 8, way: Way::Groups(2) };
        assert_eq!(shares(groups, 4), [(0..4, 0), (0..4, 0), (4..8, 0), (4..8, 0)]);
        let padded = Run { size: 5, way: Way::Padded };
        assert_eq!(shares(padded, 4), [(0..2, 0), (2..4, 0), (4..5, 1), (5..5, 2)]);
        assert_eq!(padded.each(4), 2);
    }

    #[test]
    fn a_cut_axis_keeps_its_meanings() {
        let axis = Axis {
            segments: vec![
                Segment { size: 8, meaning: Meaning::QueryHeads },
                Segment { size: 4, meaning: Meaning::KeyHeads },
            ],
        };
        let runs = [Run { size: 8, way: Way::Even }, Run { size: 4, way: Way::Even }];
        let pieces = pieces(&runs, 1, 2);
        assert_eq!(pieces, [Piece::Keep(4..8), Piece::Keep(10..12)]);
        assert_eq!(cut_axis(&axis, &pieces).to_string(), "4 query_heads + 2 key_heads");
        let vocabulary = Axis::new(5, Meaning::Vocabulary);
        let pieces = [Piece::Zeros(2)];
        assert_eq!(cut_axis(&vocabulary, &pieces).to_string(), "2 vocabulary");
    }
}
