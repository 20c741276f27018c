//! Part of a chunk into part of a result, with the axes in another order where need be.
//!
//! ```text
//! chunk   . . . . . .        result   a d g
//!         . a b c . .   →             b e h
//!         . d e f . .                 c f i
//!         . g h i . .
//! ```
//! Where neighbours of the chunk are neighbours of the result, runs go straight there. Otherwise
//! some rows of the chunk are read, and turned square by square.

use crate::SourceError;

/// One axis of what is copied. Steps count elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dimension {
    pub(super) extent: u64,
    /// How far apart neighbours are in the chunk.
    pub(super) from: u64,
    /// How far apart they are in the result.
    pub(super) to: u64,
}

/// Reads the chunk's bytes from a place of it on.
pub(super) type Fetch<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), SourceError> + 'a;

/// How many bytes are read before they are turned.
const SCRATCH: u64 = 1 << 20;
/// A square of so many elements a side is turned at once.
const SIDE: usize = 16;

/// Copies a box whose first element is `from` of the chunk and the first of `room`.
pub(super) fn copy(
    fetch: &mut Fetch<'_>,
    size: u64,
    dimensions: Vec<Dimension>,
    from: u64,
    room: &mut [u8],
) -> Result<(), SourceError> {
    let mut outer = merged(dimensions);
    // The chunk's innermost axis; one of a single element where that is all that is wanted.
    let run = match outer.last() {
        Some(last) if last.from == 1 => outer.pop(),
        _ => None,
    };
    let run = run.unwrap_or(Dimension { extent: 1, from: 1, to: 1 });
    // The result's innermost axis, where that is another.
    let across = match run.to == 1 && (run.extent > 1 || outer.is_empty()) {
        true => None,
        false => Some(match (0..outer.len()).min_by_key(|&i| outer[i].to) {
            Some(nearest) => outer.remove(nearest),
            None => Dimension { extent: 1, from: 1, to: 1 },
        }),
    };
    let mut scratch = Vec::new();
    for number in 0..outer.iter().map(|dimension| dimension.extent).product() {
        let (mut left, mut at, mut to) = (number, from, 0);
        for dimension in outer.iter().rev() {
            let index = left % dimension.extent;
            left /= dimension.extent;
            at += index * dimension.from;
            to += index * dimension.to;
        }
        let room = &mut room[(to * size) as usize..];
        match across {
            None => fetch(at * size, &mut room[..(run.extent * size) as usize])?,
            Some(across) => turn(fetch, size, [across, run], at, &mut scratch, room)?,
        }
    }
    Ok(())
}

/// Without axes of one element; neighbours that are one axis in both places made one.
fn merged(dimensions: Vec<Dimension>) -> Vec<Dimension> {
    let mut all: Vec<Dimension> = Vec::with_capacity(dimensions.len());
    for inner in dimensions.into_iter().filter(|dimension| dimension.extent != 1) {
        match all.last_mut() {
            Some(outer)
                if outer.from == inner.extent * inner.from
                    && outer.to == inner.extent * inner.to =>
            {
                *outer = Dimension { extent: outer.extent * inner.extent, ..inner };
            }
            _ => all.push(inner),
        }
    }
    all
}

/// Copies rows of the chunk, `across` apart, each a `run`.
fn turn(
    fetch: &mut Fetch<'_>,
    size: u64,
    [across, run]: [Dimension; 2],
    from: u64,
    scratch: &mut Vec<u8>,
    room: &mut [u8],
) -> Result<(), SourceError> {
    // A run may itself be too long to be held.
    let width = run.extent.min((SCRATCH / size).max(1));
    let mut start = 0;
    while start < run.extent {
        let width = width.min(run.extent - start);
        // What lies between the rows is read with them where it is not much.
        let dense = across.from <= width * 8 || across.from * size <= 4096;
        let apart = if dense { across.from.max(width) } else { width };
        let most = (SCRATCH / (apart * size)).max(1);
        let mut row = 0;
        while row < across.extent {
            let rows = most.min(across.extent - row);
            let at = (from + row * across.from + start) * size;
            scratch.resize((((rows - 1) * apart + width) * size) as usize, 0);
            if dense {
                fetch(at, scratch)?;
            } else {
                for (i, room) in scratch.chunks_mut((width * size) as usize).enumerate() {
                    fetch(at + i as u64 * across.from * size, room)?;
                }
            }
            let to = (row * across.to + start * run.to) * size;
            let square = Square {
                rows: rows as usize,
                width: width as usize,
                apart: apart as usize,
                to: [across.to as usize, run.to as usize],
            };
            square.turn(size, scratch, &mut room[to as usize..]);
            row += rows;
        }
        start += width;
    }
    Ok(())
}

/// Rows that are held, and where their elements go.
struct Square {
    rows: usize,
    width: usize,
    apart: usize,
    /// How far apart in the result neighbours of different rows are, and those of one.
    to: [usize; 2],
}

impl Square {
    fn turn(&self, size: u64, from: &[u8], to: &mut [u8]) {
        match size {
            1 => self.turn_of::<1>(from, to),
            2 => self.turn_of::<2>(from, to),
            4 => self.turn_of::<4>(from, to),
            _ => self.turn_of::<8>(from, to),
        }
    }

    fn turn_of<const SIZE: usize>(&self, from: &[u8], to: &mut [u8]) {
        for top in (0..self.rows).step_by(SIDE) {
            for left in (0..self.width).step_by(SIDE) {
                for column in left..self.width.min(left + SIDE) {
                    for row in top..self.rows.min(top + SIDE) {
                        let source = (row * self.apart + column) * SIZE;
                        let target = (row * self.to[0] + column * self.to[1]) * SIZE;
                        to[target..target + SIZE].copy_from_slice(&from[source..source + SIZE]);
                    }
                }
            }
        }
    }
}
