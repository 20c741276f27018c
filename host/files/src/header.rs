//! Safetensors headers, read as if an enemy wrote them.
//!
//! A safetensors file is eight bytes of length, a JSON object of that length, and data. What
//! [`read`] returns has been held against the file: every tensor lies inside it, is as long as
//! its type and shape say, shares no byte with another, and no byte is left over. Whoever has a
//! [`Header`] may use its offsets unchecked.

mod error;
mod json;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use engraft_ir::DType;

use crate::FileError;
pub use error::{HeaderError, TensorFault};

/// The longest header that the format allows, in bytes.
pub const LONGEST: u64 = 100_000_000;

/// Where one tensor lies and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// The type of its elements.
    pub dtype: DType,
    /// Its extents, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its first byte, counted from the beginning of the file.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
}

/// The header of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Every tensor by its name.
    pub tensors: BTreeMap<String, TensorEntry>,
    /// The free-form `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The first byte of data, counted from the beginning of the file.
    pub data_start: u64,
}

/// Opens the file at `path` and reads its header.
///
/// # Errors
/// [`HeaderError`], which names the file and, where there is one, the tensor.
pub fn read(path: &Path) -> Result<(File, Header), HeaderError> {
    let mut file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(HeaderError::NoHeader { path: path.to_owned(), size });
    }
    file.read_exact(&mut length).map_err(FileError::io("read", path))?;
    let length = checked_length(path, u64::from_le_bytes(length), size)?;
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(FileError::io("read", path))?;
    let header = parse(path, &text, size)?;
    Ok((file, header))
}

/// The header of a file that is in memory or mapped: `bytes` is the whole file, and `path` is
/// for errors alone. Touches no byte of data.
///
/// # Errors
/// As [`read`], but for those of the file system.
pub fn read_bytes(path: &Path, bytes: &[u8]) -> Result<Header, HeaderError> {
    let size = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(HeaderError::NoHeader { path: path.to_owned(), size });
    };
    let length = checked_length(path, u64::from_le_bytes(*length), size)?;
    parse(path, &rest[..length], size)
}

/// The header's length as its first eight bytes claim it, held against a file of `size` bytes.
fn checked_length(path: &Path, length: u64, size: u64) -> Result<usize, HeaderError> {
    let room = size.saturating_sub(8);
    if length > LONGEST || length > room {
        return Err(HeaderError::LengthLies { path: path.to_owned(), length, room });
    }
    usize::try_from(length).map_err(|_| HeaderError::LengthLies {
        path: path.to_owned(),
        length,
        room,
    })
}

/// The header whose JSON is `text`, of a file of `size` bytes.
fn parse(path: &Path, text: &[u8], size: u64) -> Result<Header, HeaderError> {
    let data_start = 8 + text.len() as u64;
    let data = size - data_start;
    let json::Entries { tensors: raw, metadata } = json::parse(path, text)?;
    let mut tensors = BTreeMap::new();
    // In the order of their bytes, for what follows.
    let mut spans: Vec<(u64, u64, String)> = Vec::new();
    for (name, entry) in raw {
        let fail = |fault| HeaderError::Tensor { path: path.to_owned(), name: name.clone(), fault };
        let dtype = DType::from_safetensors_name(&entry.dtype)
            .ok_or_else(|| fail(error::TensorFault::Dtype(entry.dtype.clone())))?;
        let [start, end] = entry.data_offsets;
        if start > end {
            return Err(fail(error::TensorFault::Backwards { start, end }));
        }
        let needed = bytes_of(dtype, &entry.shape)
            .ok_or_else(|| fail(error::TensorFault::TooLarge(entry.shape.clone())))?;
        if needed != end - start {
            return Err(fail(error::TensorFault::Length {
                dtype,
                shape: entry.shape.clone(),
                needed,
                given: end - start,
            }));
        }
        if end > data {
            return Err(fail(error::TensorFault::PastTheEnd { end, data }));
        }
        spans.push((start, end, name.clone()));
        let (start, end) = (data_start + start, data_start + end);
        let known = TensorEntry { dtype, shape: entry.shape, start, end };
        if tensors.insert(name.clone(), known).is_some() {
            return Err(HeaderError::Tensor {
                path: path.to_owned(),
                name,
                fault: error::TensorFault::Twice,
            });
        }
    }
    spans.sort();
    let mut reached = 0;
    let mut before: Option<&str> = None;
    for (start, end, name) in &spans {
        let fail = |fault| HeaderError::Tensor { path: path.to_owned(), name: name.clone(), fault };
        if *start < reached {
            let other = before.unwrap_or_default().to_owned();
            return Err(fail(error::TensorFault::Overlap(other)));
        }
        if *start > reached {
            return Err(fail(error::TensorFault::Gap(*start - reached)));
        }
        reached = *end;
        before = Some(name);
    }
    if reached != data {
        return Err(HeaderError::LeftOver { path: path.to_owned(), bytes: data - reached });
    }
    Ok(Header { tensors, metadata, data_start })
}

/// The bytes of a tensor, unless they are too many to count.
pub fn bytes_of(dtype: DType, shape: &[u64]) -> Option<u64> {
    // An axis of zero makes the tensor empty, however absurd the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(dtype.size() as u64, |bytes, extent| bytes.checked_mul(*extent))
}

#[cfg(test)]
mod tests;
