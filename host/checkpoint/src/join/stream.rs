//! Reading a parameter out of several files at once, and comparing what more than one has.

use super::cells::{Cell, Layout, Region, Runs, runs, shared, volume};
use super::{Joined, Part, Whole};
use crate::read::Files;
use crate::{CheckpointError, EMBEDDING, HEAD};
use engraft_files::{FileError, interrupt};
use engraft_weights::{WeightError, finite};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Buffers and findings of one pass over a parameter.
#[derive(Default)]
pub(super) struct Pass {
    /// Bytes of a part, on the way to their place.
    scratch: Vec<u8>,
    /// Parts that turned out to be zeros in place of a bias.
    zeros: BTreeSet<usize>,
}

impl Whole {
    /// Hands it to `sink`, row-major.
    pub(super) fn stream(
        &self,
        name: &str,
        files: &Files,
        piece: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        let mut pass = Pass::default();
        let mut bytes = Vec::new();
        let mut first = 0;
        for place in self.boxes(piece) {
            interrupt::check()?;
            self.fill(name, files, &place, &mut bytes, &mut pass)?;
            finite(name, &self.layout.shape, self.dtype, first, &bytes, &files.directory)
                .map_err(|error| self.in_its_file(error, files))?;
            sink(&bytes)?;
            first += volume(&place);
        }
        Ok(())
    }

    /// As many whole rows at a time as fit into a piece.
    fn boxes(&self, piece: usize) -> Vec<Region> {
        let most = (piece / self.dtype.size()).max(1) as u64;
        self.layout.boxes(most)
    }

    /// Reads a box of the parameter into `out`; compares the copies of whatever several parts
    /// have.
    fn fill(
        &self,
        name: &str,
        files: &Files,
        place: &Region,
        out: &mut Vec<u8>,
        pass: &mut Pass,
    ) -> Result<(), WeightError> {
        let width = self.dtype.size() as u64;
        out.clear();
        out.resize((volume(place) * width) as usize, 0);
        for cell in &self.layout.cells {
            let Some(inner) = shared(&cell.place, place) else { continue };
            for (copy, owner) in cell.owners.iter().enumerate() {
                if pass.zeros.contains(&owner.part) {
                    continue;
                }
                let part = &self.parts[owner.part];
                let start: Vec<u64> = owner
                    .start
                    .iter()
                    .zip(&inner)
                    .zip(&cell.place)
                    .map(|((local, inner), cell)| local + inner.start - cell.start)
                    .collect();
                let runs = runs(&inner, place, &part.shape, &start);
                let begin = read_span(
                    files,
                    part,
                    &runs,
                    width,
                    &mut pass.scratch,
                    (copy == 0).then_some(&mut *out),
                )?;
                let Some(begin) = begin else { continue };
                let length = (runs.length * width) as usize;
                for &(to, from) in &runs.starts {
                    let (to, from) = ((to * width) as usize, ((from - begin) * width) as usize);
                    let source = &pass.scratch[from..from + length];
                    let target = &mut out[to..to + length];
                    if copy == 0 {
                        target.copy_from_slice(source);
                    } else if let Some(at) = target.iter().zip(source).position(|(a, b)| a != b) {
                        if self.may_be_zero && part.is_zero(files)? {
                            pass.zeros.insert(owner.part);
                            break;
                        }
                        let element = (to + at) as u64 / width;
                        return Err(self.disagree(name, files, cell, place, element, copy));
                    }
                }
            }
        }
        Ok(())
    }

    /// The error of two copies that differ at an element of a box.
    fn disagree(
        &self,
        name: &str,
        files: &Files,
        cell: &Cell,
        place: &Region,
        element: u64,
        copy: usize,
    ) -> WeightError {
        let mut left = element;
        let mut index: Vec<u64> = place
            .iter()
            .rev()
            .map(|range| {
                let size = (range.end - range.start).max(1);
                let i = range.start + left % size;
                left /= size;
                i
            })
            .collect();
        index.reverse();
        let path = |copy: usize| -> PathBuf {
            cell.owners
                .get(copy)
                .map(|owner| files.ranks[self.parts[owner.part].rank].path.clone())
                .unwrap_or_default()
        };
        WeightError::Copies { tensor: name.to_owned(), index, first: path(0), other: path(copy) }
    }

    /// Names the file that holds what is not finite.
    fn in_its_file(&self, error: WeightError, files: &Files) -> WeightError {
        let WeightError::NotFinite { tensor, index, value, file } = error else { return error };
        let there: Region = index.iter().map(|&i| i..i + 1).collect();
        let cell = self.layout.cells.iter().find(|cell| shared(&cell.place, &there).is_some());
        let file = cell
            .and_then(|cell| cell.owners.first())
            .map_or(file, |owner| files.ranks[self.parts[owner.part].rank].path.clone());
        WeightError::NotFinite { tensor, index, value, file }
    }
}

/// Reads what `runs` need of a part into `scratch`, in one go; the number of the element that it
/// begins with. Where that is all of `whole`, it goes there at once, and nothing is left to do.
fn read_span(
    files: &Files,
    part: &Part,
    runs: &Runs,
    width: u64,
    scratch: &mut Vec<u8>,
    whole: Option<&mut Vec<u8>>,
) -> Result<Option<u64>, FileError> {
    let file = &files.ranks[part.rank];
    let (Some(&(_, begin)), Some(&(_, last))) = (runs.starts.first(), runs.starts.last()) else {
        return Ok(None);
    };
    let bytes = ((last + runs.length - begin) * width) as usize;
    let at = part.entry.start + begin * width;
    if let Some(whole) = whole
        && runs.starts.len() == 1
        && whole.len() == bytes
    {
        file.read(at, whole)?;
        return Ok(None);
    }
    scratch.resize(bytes, 0);
    file.read(at, scratch)?;
    Ok(Some(begin))
}

impl Part {
    /// Whether all of it is zero.
    fn is_zero(&self, files: &Files) -> Result<bool, FileError> {
        let mut zero = true;
        files.ranks[self.rank].pieces(&self.entry, files.piece, |_, bytes| {
            zero = zero && bytes.iter().all(|&byte| byte == 0);
            Ok::<(), FileError>(())
        })?;
        Ok(zero)
    }
}

impl Joined {
    /// Looks at what the ranks have beyond the whole: it should be zeros.
    pub(super) fn check_padding(&mut self) -> Result<(), CheckpointError> {
        let mut found = Vec::new();
        for (name, whole) in &self.wholes {
            for part in &whole.parts {
                for rows in &part.padded {
                    let file = &self.files.ranks[part.rank];
                    let bytes = part.entry.end - part.entry.start;
                    let row = bytes / part.shape.first().copied().unwrap_or(1).max(1);
                    let mut entry = part.entry.clone();
                    entry.end = entry.start + rows.end * row;
                    entry.start += rows.start * row;
                    let mut zero = true;
                    file.pieces(&entry, self.piece, |_, bytes| {
                        zero = zero && bytes.iter().all(|&byte| byte == 0);
                        Ok::<(), FileError>(())
                    })?;
                    if !zero {
                        found.push(format!(
                            "{}: the rows {}..{} of `{name}` that only fill up are not zero; they are left out",
                            file.name(), rows.start, rows.end
                        ));
                    }
                }
            }
        }
        self.warnings.extend(found);
        Ok(())
    }

    /// A tied head that is in the files has the embedding's bytes.
    pub(super) fn compare_tied(&self) -> Result<(), CheckpointError> {
        let (Some(head), Some(embedding)) = (self.wholes.get(HEAD), self.wholes.get(EMBEDDING))
        else {
            return Ok(());
        };
        let differs = |how: String| CheckpointError::TiedDiffers {
            path: self.files.directory.clone(),
            head: HEAD,
            embedding: EMBEDDING,
            how,
        };
        if head.dtype != embedding.dtype {
            return Err(differs(format!("it is {}, not {}", head.dtype, embedding.dtype)));
        }
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let mut passes = (Pass::default(), Pass::default());
        for place in head.boxes(self.piece) {
            interrupt::check().map_err(CheckpointError::from)?;
            head.fill(HEAD, &self.files, &place, &mut one, &mut passes.0)?;
            embedding.fill(EMBEDDING, &self.files, &place, &mut two, &mut passes.1)?;
            if let Some(at) = one.iter().zip(&two).position(|(a, b)| a != b) {
                let rows = place.first().cloned().unwrap_or(0..1);
                let row = one.len() as u64 / (rows.end - rows.start).max(1);
                let number = rows.start + at as u64 / row.max(1);
                return Err(differs(format!("row {number} is another")));
            }
        }
        Ok(())
    }
}

impl Layout {
    /// Whether the last axis is cut.
    pub(super) fn cuts_columns(&self) -> bool {
        let axis = self.shape.len().saturating_sub(1);
        self.shape.len() > 1
            && self.cells.iter().any(|cell| {
                cell.place.get(axis).is_some_and(|range| *range != (0..self.shape[axis]))
            })
    }
}
