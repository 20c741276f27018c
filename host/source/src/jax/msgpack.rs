//! The structure of a msgpack file that Flax wrote: where its arrays are, and nothing of them.
//!
//! Flax writes nested maps. An array is extension 1: its shape, the name of its type, its bytes;
//! one of more than 2³⁰ bytes is a map of flat pieces, as msgpack's own bound has it. The file is
//! read from its beginning to its end but for the arrays' bytes, which are stepped over.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_files::{FileError, interrupt};

use super::JaxError;
use crate::SourceError;

/// How deep maps may be in each other.
const DEPTH: usize = 64;
/// How many values there may be.
const VALUES: usize = 1 << 20;
/// How long a key or a type's name may be, in bytes, and how long all paths together.
const TEXT: u64 = 4096;
const PATHS: usize = 256 << 20;
/// How much of the file is read at once.
const WINDOW: u64 = 16 << 10;

const ARRAY: i8 = 1;
const COMPLEX: i8 = 2;
const SCALAR: i8 = 3;

/// What marks the map of a large array's pieces.
const CHUNKED: &str = "__msgpack_chunked_array__";

/// An array, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Array {
    /// Its type as the file spells it.
    pub(super) kind: String,
    pub(super) shape: Vec<u64>,
    /// Where its bytes begin, and how many there are; of a large one several times.
    pub(super) pieces: Vec<(u64, u64)>,
}

/// A value at the end of a path.
enum Leaf {
    Array(Array),
    Integer(u64),
    /// A truth, a text, a number: no part of a model's weights.
    Other,
}

/// The arrays of a file, by their paths with `/` between levels.
pub(super) fn arrays(file: &File, path: &Path) -> Result<Vec<(String, Array)>, SourceError> {
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut parser = Parser {
        file,
        path,
        size,
        at: 0,
        window: Vec::new(),
        start: 0,
        leaves: Vec::new(),
        paths: 0,
    };
    parser.value(&mut String::new(), 0)?;
    if parser.at != size {
        return Err(parser.wrong(format!("{} bytes follow the end", size - parser.at)));
    }
    let arrays = parser.leaves.into_iter().filter_map(|(name, leaf)| match leaf {
        Leaf::Array(array) => Some((name, array)),
        Leaf::Integer(_) | Leaf::Other => None,
    });
    Ok(arrays.collect())
}

struct Parser<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
    /// The next byte.
    at: u64,
    /// Some of the file, and where it is.
    window: Vec<u8>,
    start: u64,
    leaves: Vec<(String, Leaf)>,
    /// How long their paths are together.
    paths: usize,
}

/// The beginning of a value: what it is and how long.
enum Head {
    Integer(i128),
    Other,
    /// Text or bytes.
    Bytes(u64),
    List(u64),
    Map(u64),
    Extension(i8, u64),
}

impl Parser<'_> {
    fn fault(&self, fault: JaxError) -> SourceError {
        SourceError::Jax { path: self.path.to_owned(), fault }
    }

    fn wrong(&self, what: impl Into<String>) -> SourceError {
        self.fault(JaxError::Msgpack { at: self.at, what: what.into() })
    }

    /// Moves on by so many bytes.
    fn skip(&mut self, count: u64, what: &str) -> Result<(), SourceError> {
        if count > self.size - self.at {
            let left = self.size - self.at;
            return Err(self.wrong(format!("{what} needs {count} bytes, but {left} are left")));
        }
        self.at += count;
        Ok(())
    }

    /// The next few bytes.
    fn take(&mut self, count: u64, what: &str) -> Result<&[u8], SourceError> {
        let from = self.at;
        self.skip(count, what)?;
        if from < self.start || self.at > self.start + self.window.len() as u64 {
            interrupt::check()?;
            self.window.resize(count.max(WINDOW).min(self.size - from) as usize, 0);
            self.file
                .read_exact_at(&mut self.window, from)
                .map_err(FileError::io("read", self.path))?;
            self.start = from;
        }
        let first = (from - self.start) as usize;
        Ok(&self.window[first..first + count as usize])
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, count: u64) -> Result<u64, SourceError> {
        let bytes = self.take(count, "a number")?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn head(&mut self) -> Result<Head, SourceError> {
        let marker = self.number(1)? as u8;
        // One, two, four or eight bytes, by the last bits of a marker.
        let wide = |marker: u8, first: u8| 1 << (marker - first);
        Ok(match marker {
            0x00..=0x7f => Head::Integer(marker.into()),
            0x80..=0x8f => Head::Map(u64::from(marker & 15)),
            0x90..=0x9f => Head::List(u64::from(marker & 15)),
            0xa0..=0xbf => Head::Bytes(u64::from(marker & 31)),
            0xc0 | 0xc2 | 0xc3 => Head::Other,
            0xc1 => return Err(self.wrong("the marker c1 has no meaning")),
            0xc4..=0xc6 => Head::Bytes(self.number(wide(marker, 0xc4))?),
            0xc7..=0xc9 => {
                let length = self.number(wide(marker, 0xc7))?;
                Head::Extension(self.number(1)? as i8, length)
            }
            0xca => self.skip(4, "a float").map(|()| Head::Other)?,
            0xcb => self.skip(8, "a float").map(|()| Head::Other)?,
            0xcc..=0xcf => Head::Integer(self.number(wide(marker, 0xcc))?.into()),
            0xd0..=0xd3 => {
                let bytes = wide(marker, 0xd0);
                let unused = 64 - 8 * bytes;
                Head::Integer(i128::from((self.number(bytes)? << unused) as i64 >> unused))
            }
            0xd4..=0xd8 => Head::Extension(self.number(1)? as i8, wide(marker, 0xd4)),
            0xd9..=0xdb => Head::Bytes(self.number(wide(marker, 0xd9))?),
            0xdc..=0xdd => Head::List(self.number(wide(marker, 0xdb))?),
            0xde..=0xdf => Head::Map(self.number(wide(marker, 0xdd))?),
            0xe0..=0xff => Head::Integer((marker as i8).into()),
        })
    }

    fn text(&mut self, length: u64, what: &str) -> Result<String, SourceError> {
        if length > TEXT {
            return Err(self.wrong(format!("{what} of {length} bytes is too long")));
        }
        let at = self.at;
        match std::str::from_utf8(self.take(length, what)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => {
                self.at = at;
                Err(self.wrong(format!("{what} is not UTF-8 text")))
            }
        }
    }

    fn leaf(&mut self, path: &str, leaf: Leaf) -> Result<(), SourceError> {
        self.paths += path.len();
        if self.paths > PATHS {
            return Err(self.wrong(format!("paths take more than {PATHS} bytes")));
        }
        if self.leaves.len() >= VALUES {
            return Err(self.wrong(format!("there are more than {VALUES} values")));
        }
        self.leaves.push((path.to_owned(), leaf));
        Ok(())
    }

    /// A value and all below it.
    fn value(&mut self, path: &mut String, depth: usize) -> Result<(), SourceError> {
        if depth > DEPTH {
            return Err(self.wrong(format!("maps are in each other more than {DEPTH} deep")));
        }
        match self.head()? {
            Head::Integer(number) => {
                let leaf = u64::try_from(number).map_or(Leaf::Other, Leaf::Integer);
                self.leaf(path, leaf)
            }
            Head::Other => self.leaf(path, Leaf::Other),
            Head::Bytes(length) => {
                self.skip(length, "a text")?;
                self.leaf(path, Leaf::Other)
            }
            Head::Extension(kind, length) => {
                let leaf = self.extension(path, kind, length)?;
                self.leaf(path, leaf)
            }
            Head::List(count) => {
                (0..count).try_for_each(|index| self.below(path, &index.to_string(), depth))
            }
            Head::Map(count) => self.map(path, count, depth),
        }
    }

    fn map(&mut self, path: &mut String, count: u64, depth: usize) -> Result<(), SourceError> {
        let first = self.leaves.len();
        for _ in 0..count {
            let key = match self.head()? {
                Head::Bytes(length) => self.text(length, "a key")?,
                Head::Integer(number) => number.to_string(),
                _ => return Err(self.wrong("a key is neither a text nor a number")),
            };
            self.below(path, &key, depth)?;
        }
        let marker = join(path, CHUNKED);
        if self.leaves[first..].iter().any(|(name, _)| *name == marker) {
            let pieces = self.leaves.split_off(first);
            let array = chunked(path, pieces).map_err(|fault| self.fault(fault))?;
            self.leaf(path, Leaf::Array(array))?;
        }
        Ok(())
    }

    fn below(&mut self, path: &mut String, key: &str, depth: usize) -> Result<(), SourceError> {
        let length = path.len();
        *path = join(path, key);
        self.value(path, depth + 1)?;
        path.truncate(length);
        Ok(())
    }

    fn extension(&mut self, name: &str, kind: i8, length: u64) -> Result<Leaf, SourceError> {
        let from = self.at;
        if kind != ARRAY && kind != SCALAR {
            self.skip(length, "an extension")?;
            return match kind {
                COMPLEX => Ok(Leaf::Other),
                _ => {
                    self.at = from;
                    Err(self.wrong(format!("extension {kind} is none of Flax's")))
                }
            };
        }
        if length > self.size - from {
            self.skip(length, "an array")?;
        }
        let Head::List(3) = self.head()? else {
            return Err(self.wrong("an array is not its shape, type and bytes"));
        };
        let Head::List(rank @ 0..=32) = self.head()? else {
            return Err(self.wrong("an array's shape is no list of at most 32 numbers"));
        };
        let mut shape = Vec::new();
        for _ in 0..rank {
            let Head::Integer(extent) = self.head()? else {
                return Err(self.wrong("an array's extent is no number"));
            };
            let extent = u64::try_from(extent);
            shape.push(extent.map_err(|_| self.wrong("an array's extent is below zero"))?);
        }
        let Head::Bytes(letters) = self.head()? else {
            return Err(self.wrong("an array's type is no text"));
        };
        let kind = self.text(letters, "an array's type")?;
        let Head::Bytes(bytes) = self.head()? else {
            return Err(self.wrong("an array has no bytes"));
        };
        let start = self.at;
        self.skip(bytes, "an array")?;
        if self.at - from != length {
            let took = self.at - from;
            self.at = from;
            let what = format!("array `{name}` takes {took} bytes of the {length} that it claims");
            return Err(self.wrong(what));
        }
        Ok(Leaf::Array(Array { kind, shape, pieces: vec![(start, bytes)] }))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}/{key}") }
}

/// The array that is in pieces below a path.
fn chunked(path: &str, leaves: Vec<(String, Leaf)>) -> Result<Array, JaxError> {
    let wrong =
        |what: &str| JaxError::Array { name: path.to_owned(), what: format!("its pieces: {what}") };
    let (mut extents, mut chunks) = (Vec::new(), Vec::new());
    for (name, leaf) in leaves {
        let below = name.strip_prefix(path).unwrap_or(&name).trim_start_matches('/');
        let (part, index) = below.split_once('/').unwrap_or((below, ""));
        match (part, leaf) {
            (CHUNKED, _) => {}
            ("shape", Leaf::Integer(extent)) => {
                let index: u32 = index.parse().map_err(|_| wrong("an axis has no number"))?;
                extents.push((index, extent));
            }
            ("chunks", Leaf::Array(array)) => {
                let index: u32 = index.parse().map_err(|_| wrong("one has no number"))?;
                chunks.push((index, array));
            }
            _ => return Err(wrong("there is more than a shape and chunks")),
        }
    }
    extents.sort_by_key(|(index, _)| *index);
    chunks.sort_by_key(|(index, _)| *index);
    let numbered = |numbers: Vec<u32>| numbers.iter().zip(0u32..).all(|(a, b)| *a == b);
    let complete = numbered(extents.iter().map(|e| e.0).collect())
        && numbered(chunks.iter().map(|c| c.0).collect());
    if !complete {
        return Err(wrong("one is missing or is there twice"));
    }
    let Some((_, first)) = chunks.first() else { return Err(wrong("there are none")) };
    let kind = first.kind.clone();
    if chunks.iter().any(|(_, chunk)| chunk.kind != kind) {
        return Err(wrong("they differ in type"));
    }
    let shape = extents.into_iter().map(|(_, extent)| extent).collect();
    let pieces = chunks.into_iter().flat_map(|(_, chunk)| chunk.pieces).collect();
    Ok(Array { kind, shape, pieces })
}

#[cfg(test)]
mod tests;
