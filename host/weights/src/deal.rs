//! Dealing out: what a rank keeps of a parameter that streams past.
//!
//! ```text
//! whole [4, 6], keep rows 1..3 and columns 0..2 + 5..6, then a row of zeros:
//!     . . . . . .
//!     a b . . . c          ->  a b c  d e f  0 0 0
//!     d e . . . f
//!     . . . . . .
//! ```
//! A cut is walked as *runs*: stretches of bytes that lie side by side in the whole, or zeros.
//! As a cut never goes back, one pass over the whole is enough, and any number of dealers may
//! listen to it at the same time. A long run is handed on as it came; short ones are gathered.

use crate::{Cut, Piece};
use engraft_files::FileError;
use std::ops::Range;

/// Short runs are gathered until they are so many bytes.
pub(crate) const GATHERED: usize = 256 << 10;

/// What is next of a rank's part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Run {
    /// These bytes of the whole.
    Keep(Range<u64>),
    /// So many zero bytes.
    Zeros(u64),
}

/// One axis on the way inwards.
struct Level {
    pieces: Vec<Piece>,
    /// Bytes from one index to the next, in the whole and in the part.
    whole: u64,
    part: u64,
    /// Where the axis begins in the whole, at the index of the axes around it.
    base: u64,
    /// Which piece is next, and which index of it.
    piece: usize,
    at: u64,
}

/// The runs of a cut, in order.
struct Runs {
    levels: Vec<Level>,
    depth: usize,
}

impl Runs {
    /// The runs of a cut of a parameter of `shape` with elements of `width` bytes.
    fn new(cut: &Cut, shape: &[u64], width: usize) -> Result<Runs, String> {
        let wrong = || format!("{cut} is no cut of {shape:?}");
        if cut.axes.len() != shape.len() {
            return Err(wrong());
        }
        let mut levels = Vec::new();
        let (mut whole, mut part) = (width as u64, width as u64);
        for (pieces, &size) in cut.axes.iter().zip(shape).rev() {
            let pieces = joined(pieces, size).ok_or_else(wrong)?;
            let kept = pieces
                .iter()
                .try_fold(0u64, |sum, piece| sum.checked_add(piece.size()))
                .ok_or_else(wrong)?;
            let all = matches!(&pieces[..], [Piece::Keep(range)] if *range == (0..size));
            // What is whole, inside of all that is cut, belongs to the runs themselves.
            if !(all && levels.is_empty()) {
                levels.push(Level { pieces, whole, part, base: 0, piece: 0, at: 0 });
            }
            whole = whole.checked_mul(size).ok_or_else(wrong)?;
            part = part.checked_mul(kept).ok_or_else(wrong)?;
        }
        if levels.is_empty() {
            let pieces = vec![Piece::Keep(0..1)];
            levels.push(Level { pieces, whole, part, base: 0, piece: 0, at: 0 });
        }
        levels.reverse();
        Ok(Runs { levels, depth: 0 })
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        loop {
            let innermost = self.depth + 1 == self.levels.len();
            let level = &mut self.levels[self.depth];
            match level.pieces.get(level.piece) {
                None => {
                    // On to the next index of the axis around it.
                    self.depth = self.depth.checked_sub(1)?;
                    let outer = &mut self.levels[self.depth];
                    outer.at += 1;
                    if outer.at == outer.pieces[outer.piece].size() {
                        (outer.piece, outer.at) = (outer.piece + 1, 0);
                    }
                }
                Some(Piece::Zeros(count)) => {
                    level.piece += 1;
                    return Some(Run::Zeros(count * level.part));
                }
                Some(Piece::Keep(range)) if innermost => {
                    level.piece += 1;
                    let (start, end) = (range.start * level.whole, range.end * level.whole);
                    return Some(Run::Keep(level.base + start..level.base + end));
                }
                Some(Piece::Keep(range)) => {
                    let base = level.base + (range.start + level.at) * level.whole;
                    self.depth += 1;
                    let inner = &mut self.levels[self.depth];
                    (inner.base, inner.piece, inner.at) = (base, 0, 0);
                }
            }
        }
    }
}

/// Pieces without empty ones, neighbours as one; none where they go back or beyond `size`.
fn joined(pieces: &[Piece], size: u64) -> Option<Vec<Piece>> {
    let mut result: Vec<Piece> = Vec::new();
    let mut past = 0;
    for piece in pieces {
        if let Piece::Keep(range) = piece {
            if range.start < past || range.end < range.start || range.end > size {
                return None;
            }
            past = range.end;
        }
        match (result.last_mut(), piece) {
            _ if piece.size() == 0 => {}
            (Some(Piece::Keep(last)), Piece::Keep(range)) if last.end == range.start => {
                last.end = range.end;
            }
            _ => result.push(piece.clone()),
        }
    }
    Some(result)
}

/// Takes the bytes of a whole parameter in order and hands on those of a cut.
pub(crate) struct Dealer {
    runs: Runs,
    /// The run that is not handed on in full.
    run: Option<Run>,
    /// How many bytes of the whole went past.
    past: u64,
    gathered: Vec<u8>,
}

/// What takes a rank's bytes.
type Out<'a> = dyn FnMut(&[u8]) -> Result<(), FileError> + 'a;

impl Dealer {
    /// The dealer of a cut of a parameter of `shape` with elements of `width` bytes.
    ///
    /// # Errors
    /// A clause that says that the cut is none of such a parameter.
    pub(crate) fn new(cut: &Cut, shape: &[u64], width: usize) -> Result<Dealer, String> {
        let mut runs = Runs::new(cut, shape, width)?;
        let run = runs.next();
        Ok(Dealer { runs, run, past: 0, gathered: Vec::new() })
    }

    /// Takes the next bytes of the whole.
    pub(crate) fn take(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Result<(), FileError> {
        let end = self.past + bytes.len() as u64;
        while let Some(run) = &mut self.run {
            match run {
                Run::Zeros(count) => {
                    let count = *count;
                    self.run = self.runs.next();
                    self.zeros(count, out)?;
                }
                Run::Keep(range) if range.start >= end => break,
                Run::Keep(range) => {
                    let until = range.end.min(end);
                    let from = (range.start - self.past) as usize..(until - self.past) as usize;
                    let done = until == range.end;
                    range.start = until;
                    if done {
                        self.run = self.runs.next();
                    }
                    self.give(&bytes[from], out)?;
                }
            }
        }
        self.past = end;
        Ok(())
    }

    /// Hands on what is left once the whole went past.
    pub(crate) fn finish(mut self, out: &mut Out<'_>) -> Result<(), FileError> {
        self.take(&[], out)?;
        out(&self.gathered)
    }

    fn give(&mut self, bytes: &[u8], out: &mut Out<'_>) -> Result<(), FileError> {
        if self.gathered.is_empty() && bytes.len() >= GATHERED / 4 {
            return out(bytes);
        }
        if self.gathered.len() + bytes.len() > GATHERED {
            out(&self.gathered)?;
            self.gathered.clear();
            if bytes.len() >= GATHERED / 4 {
                return out(bytes);
            }
        }
        if self.gathered.capacity() == 0 {
            self.gathered.reserve_exact(GATHERED);
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, count: u64, out: &mut Out<'_>) -> Result<(), FileError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = count;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.give(&ZEROS[..now as usize], out)?;
            left -= now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part by looking at every element of it.
    fn oracle(whole: &[u8], cut: &Cut, shape: &[u64], width: usize) -> Vec<u8> {
        let Some((&size, inner)) = shape.split_first() else { return whole.to_vec() };
        let inner_cut = Cut { axes: cut.axes[1..].to_vec() };
        let stride = whole.len() / size as usize;
        let zeros = inner_cut.shape().iter().product::<u64>() as usize * width;
        let mut part = Vec::new();
        for piece in &cut.axes[0] {
            match piece {
                Piece::Zeros(count) => part.resize(part.len() + *count as usize * zeros, 0),
                Piece::Keep(range) => {
                    for i in range.clone() {
                        let row = &whole[i as usize * stride..(i as usize + 1) * stride];
                        part.extend(oracle(row, &inner_cut, inner, width));
                    }
                }
            }
        }
        part
    }

    fn dealt(whole: &[u8], cut: &Cut, shape: &[u64], width: usize, piece: usize) -> Vec<u8> {
        let mut dealer = Dealer::new(cut, shape, width).unwrap();
        let mut part = Vec::new();
        let mut out = |bytes: &[u8]| {
            part.extend_from_slice(bytes);
            Ok(())
        };
        for bytes in whole.chunks(piece) {
            dealer.take(bytes, &mut out).unwrap();
        }
        dealer.finish(&mut out).unwrap();
        part
    }

    /// A number below `below`, of a sequence that is the same each time.
    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (*state >> 33) % below
    }

    fn pieces(state: &mut u64, size: u64) -> Vec<Piece> {
        if random(state, 3) == 0 {
            return vec![Piece::Keep(0..size)];
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < size {
            let start = at + random(state, size - at);
            let end = start + 1 + random(state, size - start);
            pieces.push(Piece::Keep(start..end));
            if random(state, 4) == 0 {
                pieces.push(Piece::Zeros(1 + random(state, 3)));
            }
            at = end;
        }
        pieces
    }

    #[test]
    fn every_cut_is_dealt_as_indices_say_in_pieces_of_any_size() {
        let mut state = 7;
        for _ in 0..400 {
            let axes = 1 + random(&mut state, 3);
            let shape: Vec<u64> = (0..axes).map(|_| 1 + random(&mut state, 7)).collect();
            let width = [1, 2, 4][random(&mut state, 3) as usize];
            let cut = Cut { axes: shape.iter().map(|&n| pieces(&mut state, n)).collect() };
            let count = shape.iter().product::<u64>() as usize * width;
            let whole: Vec<u8> = (0..count).map(|i| (i % 255) as u8 + 1).collect();
            let expected = oracle(&whole, &cut, &shape, width);
            for piece in [1, 3, 16, 1000] {
                let got = dealt(&whole, &cut, &shape, width, piece);
                assert_eq!(got, expected, "{cut} of {shape:?} by {width} in {piece}");
            }
        }
    }

    #[test]
    fn long_runs_and_short_ones_are_gathered_in_order() {
        let shape = [64, 100_000];
        let whole: Vec<u8> = (0..6_400_000u32).map(|i| (i % 251) as u8).collect();
        for columns in [0..100_000, 10..90_000, 5..900] {
            let axes = vec![
                vec![Piece::Zeros(2), Piece::Keep(1..40), Piece::Keep(50..64), Piece::Zeros(1)],
                vec![Piece::Keep(columns), Piece::Zeros(3)],
            ];
            let cut = Cut { axes };
            let expected = oracle(&whole, &cut, &shape, 1);
            assert!(dealt(&whole, &cut, &shape, 1, 1 << 20) == expected, "{cut}");
        }
    }

    #[test]
    fn a_whole_cut_goes_through_as_it_came() {
        let whole = vec![7; 3 << 20];
        for shape in [&[3 << 20][..], &[3, 1 << 20], &[]] {
            let cut = Cut::whole(shape);
            let width = if shape.is_empty() { 3 << 20 } else { 1 };
            let mut dealer = Dealer::new(&cut, shape, width).unwrap();
            let mut seen = Vec::new();
            for piece in whole.chunks(1 << 20) {
                dealer
                    .take(piece, &mut |bytes| {
                        seen.push(bytes.as_ptr());
                        Ok(())
                    })
                    .unwrap();
            }
            let given: Vec<_> = whole.chunks(1 << 20).map(<[u8]>::as_ptr).collect();
            assert_eq!(seen, given, "{shape:?}");
        }
    }

    #[test]
    fn what_is_no_cut_is_turned_down() {
        let refused = |pieces: Vec<Piece>, shape: &[u64]| {
            Dealer::new(&Cut { axes: vec![pieces] }, shape, 2).err().unwrap()
        };
        assert_eq!(refused(vec![Piece::Keep(0..5)], &[4]), "[0..5] is no cut of [4]");
        refused(vec![Piece::Keep(2..3), Piece::Keep(1..2)], &[4]);
        refused(vec![Piece::Keep(0..4)], &[4, 1]);
        refused(vec![Piece::Zeros(u64::MAX), Piece::Zeros(1)], &[4]);
    }
}
