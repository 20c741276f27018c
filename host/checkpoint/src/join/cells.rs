//! Which rank has which part of a parameter, and where in its file.
//!
//! The cuts of all ranks divide each axis of a parameter at certain indices; what lies between
//! two neighbouring ones on every axis is a [`Cell`]: no rank has only some of it.
//!
//! ```text
//! qkv [8 + 2 + 2 rows, 6], one kv head of two rows, two ranks:
//!     cells    0..4   4..8   8..10   10..12
//!     owners   0      1      0, 1    0, 1
//! ```
//! A [`Layout`] checks once what needs no byte (the cells cover the parameter), and then says for
//! any box of the parameter where its bytes are.

use engraft_weights::{Cut, Piece};
use std::collections::BTreeSet;
use std::ops::Range;

/// A stretch of every axis, outermost first.
pub(crate) type Region = Vec<Range<u64>>;

/// Where a rank has a cell: where it begins in the rank's part, on every axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Which of the layout's parts.
    pub(crate) part: usize,
    /// The first index of every axis.
    pub(crate) start: Vec<u64>,
}

/// A stretch of the whole that some parts have, and the others have nothing of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) place: Region,
    /// At least one.
    pub(crate) owners: Vec<Owner>,
}

/// All cells of one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) shape: Vec<u64>,
    pub(crate) cells: Vec<Cell>,
}

/// A kept stretch of an axis, and where it begins in the part.
fn kept(pieces: &[Piece]) -> Vec<(Range<u64>, u64)> {
    let mut local = 0;
    let mut found = Vec::new();
    for piece in pieces {
        if let Piece::Keep(range) = piece {
            found.push((range.clone(), local));
        }
        local += piece.size();
    }
    found
}

impl Layout {
    /// Lays the parts side by side.
    ///
    /// # Errors
    /// A cut of other axes than the shape's, or beyond it; the first stretch that no part has.
    pub(crate) fn new(shape: &[u64], cuts: &[&Cut]) -> Result<Layout, String> {
        let mut bounds: Vec<BTreeSet<u64>> =
            shape.iter().map(|&size| BTreeSet::from([0, size])).collect();
        let mut parts = Vec::new();
        for cut in cuts {
            if cut.axes.len() != shape.len() {
                return Err(format!("a part of {} axes of {shape:?}", cut.axes.len()));
            }
            let axes: Vec<_> = cut.axes.iter().map(|pieces| kept(pieces)).collect();
            for ((axis, bounds), &size) in axes.iter().zip(&mut bounds).zip(shape) {
                for (range, _) in axis {
                    if range.start >= range.end || range.end > size {
                        return Err(format!("a part of {cut} of {shape:?}"));
                    }
                    bounds.extend([range.start, range.end]);
                }
            }
            parts.push(axes);
        }
        let mut layout = Layout { shape: shape.to_vec(), cells: Vec::new() };
        let segments: Vec<Region> = bounds
            .iter()
            .map(|bounds| bounds.iter().zip(bounds.iter().skip(1)).map(|(&a, &b)| a..b).collect())
            .collect();
        for place in product(&segments) {
            let owners: Vec<Owner> = parts
                .iter()
                .enumerate()
                .filter_map(|(part, axes)| {
                    let start = axes.iter().zip(&place).map(|(axis, place)| {
                        axis.iter()
                            .find(|(range, _)| range.contains(&place.start))
                            .map(|(range, local)| local + place.start - range.start)
                    });
                    Some(Owner { part, start: start.collect::<Option<_>>()? })
                })
                .collect();
            if owners.is_empty() {
                return Err(format!("nobody has {place:?} of {shape:?}"));
            }
            layout.cells.push(Cell { place, owners });
        }
        Ok(layout)
    }

    /// The parameter in boxes, in row-major order, each of whole rows of the outermost axis of
    /// which that many fit; a box holds at most `most` elements, but for at least one.
    pub(crate) fn boxes(&self, most: u64) -> Vec<Region> {
        let shape = &self.shape;
        // Elements of one index of each axis.
        let mut strides = vec![1u64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
        }
        let Some(cut) = strides.iter().position(|&stride| stride <= most) else {
            return vec![Vec::new()];
        };
        let step = (most / strides[cut].max(1)).max(1);
        let axes: Vec<Region> = shape
            .iter()
            .enumerate()
            .map(|(axis, &size)| match axis.cmp(&cut) {
                std::cmp::Ordering::Less => (0..size).map(|i| i..i + 1).collect(),
                std::cmp::Ordering::Equal => (0..size.div_ceil(step))
                    .map(|i| i * step..(i * step).saturating_add(step).min(size))
                    .collect(),
                std::cmp::Ordering::Greater => std::iter::once(0..size).collect(),
            })
            .collect();
        product(&axes)
    }
}

/// One range of each axis, in all ways, the last axis fastest.
fn product(axes: &[Region]) -> Vec<Region> {
    axes.iter().fold(vec![Vec::new()], |boxes, axis| {
        boxes
            .iter()
            .flat_map(|prefix| {
                axis.iter().map(move |range| {
                    let mut longer = prefix.clone();
                    longer.push(range.clone());
                    longer
                })
            })
            .collect()
    })
}

/// What two boxes share, if anything.
pub(crate) fn shared(a: &[Range<u64>], b: &[Range<u64>]) -> Option<Region> {
    a.iter()
        .zip(b)
        .map(|(a, b)| {
            let both = a.start.max(b.start)..a.end.min(b.end);
            (!both.is_empty()).then_some(both)
        })
        .collect()
}

/// How many elements.
pub(crate) fn volume(place: &[Range<u64>]) -> u64 {
    place.iter().map(|range| range.end - range.start).product()
}

/// Stretches of elements that follow each other both in a box and in a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    /// Elements of each.
    pub(crate) length: u64,
    /// Where each begins: in the box, and in the part.
    pub(crate) starts: Vec<(u64, u64)>,
}

/// How `place`, which lies in `frame`, is in row-major order in it, and in a part of shape `part`
/// where it begins at `start`.
pub(crate) fn runs(
    place: &[Range<u64>],
    frame: &[Range<u64>],
    part: &[u64],
    start: &[u64],
) -> Runs {
    let size = |range: &Range<u64>| range.end - range.start;
    let axes = place.len();
    let (mut in_frame, mut in_part) = (vec![1u64; axes], vec![1u64; axes]);
    for axis in (1..axes).rev() {
        in_frame[axis - 1] = in_frame[axis] * size(&frame[axis]);
        in_part[axis - 1] = in_part[axis] * part[axis];
    }
    // The innermost axes of which all is taken on both sides join the one before them.
    let mut joined = axes.saturating_sub(1);
    while joined > 0
        && size(&place[joined]) == size(&frame[joined])
        && size(&place[joined]) == part[joined]
    {
        joined -= 1;
    }
    let length = place.iter().skip(joined).map(size).product();
    let mut starts = vec![(0, 0)];
    for axis in 0..axes {
        let (first, local) = (place[axis].start - frame[axis].start, start[axis]);
        let steps = if axis < joined { size(&place[axis]) } else { 1 };
        starts = starts
            .iter()
            .flat_map(|&(a, b)| {
                let (x, y) = (in_frame[axis], in_part[axis]);
                (0..steps).map(move |i| (a + (first + i) * x, b + (local + i) * y))
            })
            .collect();
    }
    Runs { length, starts }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one stretch is meant")]
mod tests {
    use super::*;

    fn rows(pieces: &[Piece], inner: u64) -> Cut {
        Cut { axes: vec![pieces.to_vec(), vec![Piece::Keep(0..inner)]] }
    }

    #[test]
    fn repeated_heads_have_two_owners() {
        let one = rows(&[Piece::Keep(0..4), Piece::Keep(8..10), Piece::Keep(10..12)], 6);
        let two = rows(&[Piece::Keep(4..8), Piece::Keep(8..10), Piece::Keep(10..12)], 6);
        let layout = Layout::new(&[12, 6], &[&one, &two]).unwrap();
        let owners: Vec<(u64, Vec<(usize, u64)>)> = layout
            .cells
            .iter()
            .map(|c| (c.place[0].start, c.owners.iter().map(|o| (o.part, o.start[0])).collect()))
            .collect();
        let expected = [
            (0, vec![(0, 0)]),
            (4, vec![(1, 0)]),
            (8, vec![(0, 4), (1, 4)]),
            (10, vec![(0, 6), (1, 6)]),
        ];
        assert_eq!(owners, expected);
    }

    #[test]
    fn zeros_count_in_a_part_and_belong_to_no_cell() {
        let cut = rows(&[Piece::Keep(0..1), Piece::Zeros(2), Piece::Keep(1..3)], 2);
        let layout = Layout::new(&[3, 2], &[&cut]).unwrap();
        assert_eq!(layout.cells[1].owners[0].start, [3, 0]);
    }

    #[test]
    fn what_nobody_has_is_said() {
        let error = Layout::new(&[4, 2], &[&rows(&[Piece::Keep(0..2)], 2)]).unwrap_err();
        assert_eq!(error, "nobody has [2..4, 0..2] of [4, 2]");
        assert!(Layout::new(&[4], &[&rows(&[Piece::Keep(0..2)], 2)]).is_err());
        assert!(Layout::new(&[4, 2], &[&rows(&[Piece::Keep(0..5)], 2)]).is_err());
        assert!(Layout::new(&[], &[&Cut { axes: vec![] }]).is_ok());
    }

    #[test]
    fn boxes_are_whole_rows_as_far_as_they_fit() {
        let layout = |shape: &[u64]| Layout::new(shape, &[&Cut::whole(shape)]).unwrap();
        assert_eq!(layout(&[5, 2]).boxes(4), [[0..2, 0..2], [2..4, 0..2], [4..5, 0..2]]);
        assert_eq!(layout(&[2, 3]).boxes(2).len(), 4);
        assert_eq!(layout(&[2, 2, 4]).boxes(4).len(), 4);
        assert_eq!(layout(&[]).boxes(4), [Vec::new()]);
        assert_eq!(layout(&[3]).boxes(1), [[0..1], [1..2], [2..3]]);
    }

    #[test]
    fn runs_are_as_long_as_both_sides_allow() {
        // Columns 2..4 of a frame of four, which are all of a part of two.
        let columns = runs(&[0..2, 2..4], &[0..2, 0..4], &[2, 2], &[0, 0]);
        assert_eq!(columns, Runs { length: 2, starts: vec![(2, 0), (6, 2)] });
        // Rows 1..3 of a frame that begins with row 1, which are the last two of a part.
        let rows = runs(&[1..3, 0..4], &[1..5, 0..4], &[3, 4], &[1, 0]);
        assert_eq!(rows, Runs { length: 8, starts: vec![(0, 4)] });
        assert_eq!(runs(&[], &[], &[], &[]), Runs { length: 1, starts: vec![(0, 0)] });
    }
}
