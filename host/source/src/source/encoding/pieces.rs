//! Elements in several places: what training has split over devices, each with a file.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use engraft_files::{FileError, interrupt};

use super::exactly;

/// Elements of a tensor that lie side by side in a file, seen there as rows.
///
/// In the tensor the rows may be apart: cut along its inner axis, a tensor's piece has a row for
/// each of the tensor's rows. Numbers count elements, in the tensor's row-major order, but for
/// `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which of the source's weight files holds it.
    pub(crate) file: usize,
    /// Its first byte in that file.
    pub(crate) start: u64,
    /// Where its first row begins in the tensor.
    pub(crate) first: u64,
    /// How long its rows are; at least one.
    pub(crate) row: u64,
    /// How far apart they begin in the tensor; not less than `row`.
    pub(crate) every: u64,
    /// How many they are.
    pub(crate) rows: u64,
}

/// Fills `room` with a range of a tensor's elements, of `size` bytes each.
pub(super) fn read(
    weights: &[(PathBuf, File)],
    pieces: &[Piece],
    size: u64,
    elements: Range<u64>,
    room: &mut [u8],
) -> Result<(), FileError> {
    for piece in pieces {
        if piece.first >= elements.end {
            break;
        }
        // The rows that touch the range.
        let before = (elements.start + 1).saturating_sub(piece.first + piece.row);
        let mut number = before.div_ceil(piece.every);
        while number < piece.rows {
            let first = piece.first + number * piece.every;
            if first >= elements.end {
                break;
            }
            let from = first.max(elements.start);
            // Rows that follow each other in the tensor as well are one.
            let together = if piece.row == piece.every { piece.rows - number } else { 1 };
            let to = (first + together * piece.row).min(elements.end);
            interrupt::check()?;
            let at = piece.start + (number * piece.row + from - first) * size;
            let place =
                ((from - elements.start) * size) as usize..((to - elements.start) * size) as usize;
            exactly(&weights[piece.file], at, &mut room[place])?;
            number += together;
        }
    }
    Ok(())
}
