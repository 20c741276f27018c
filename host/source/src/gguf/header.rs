//! The head of a GGUF file, read as if an enemy wrote it.
//!
//! A count or a length from the file is held against the bytes that are left before anything is
//! made of it. Every tensor of the result lies inside the file and shares no byte with another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};

use engraft_diagnostic::escape;
use engraft_ir::DType;

use super::GgufError;
use super::blocks::BlockType;
use super::metadata::{Metadata, Value};
use crate::source::{Encoding, TensorInfo};

/// A header is a few megabytes; more than this is an attack.
const LONGEST_HEADER: u64 = 256 << 20;
/// The most elements of one metadata list; the largest vocabularies have a fiftieth.
const LONGEST_LIST: u64 = 1 << 24;
/// The most axes of a tensor.
const MOST_AXES: u32 = 8;
/// Where tensors may begin unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// What a GGUF file holds before its data.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Error {
    Io(io::Error),
    Fault(GgufError),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

impl From<GgufError> for Error {
    fn from(fault: GgufError) -> Error {
        Error::Fault(fault)
    }
}

/// Reads the header of `file`, which has `size` bytes; its magic is read already.
pub(crate) fn read(file: &mut File, size: u64) -> Result<Header, Error> {
    let mut reader = Reader { inner: BufReader::with_capacity(1 << 16, file), at: 4, size };
    let version = u32::from_le_bytes(reader.bytes("the version")?);
    match version {
        2 | 3 => {}
        _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufError::BigEndian.into()),
        _ => return Err(GgufError::Version(version).into()),
    }
    let tensor_count = reader.u64("the count of tensors")?;
    let key_count = reader.u64("the count of metadata")?;
    // The shortest entry of either kind, in bytes.
    reader.fits("the list of metadata", key_count, 8 + 4 + 1)?;
    reader.fits("the list of tensors", tensor_count, 8 + 4 + 4 + 8)?;

    let mut metadata = Metadata::default();
    for _ in 0..key_count {
        let key = reader.text("a metadata key")?;
        let kind = reader.u32(&key)?;
        let value = reader.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(GgufError::Twice(format!("metadata `{}`", escape(&key))).into());
        }
    }
    if let Some(count) = metadata.number("split.count")?.filter(|count| *count > 1) {
        return Err(GgufError::Split(count).into());
    }
    let alignment = metadata.number("general.alignment")?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        let key = "general.alignment".to_owned();
        return Err(GgufError::Value { key, expected: "a power of two" }.into());
    }

    let mut entries = Vec::new();
    for _ in 0..tensor_count {
        entries.push(reader.tensor()?);
    }
    let data_start = reader.at.next_multiple_of(alignment);
    let tensors = place(entries, data_start, alignment, size)?;
    Ok(Header { metadata, tensors })
}

/// A tensor as the header describes it.
struct Entry {
    name: String,
    /// Outermost first.
    shape: Vec<u64>,
    kind: u32,
    /// Counted from the first byte of data.
    offset: u64,
}

/// Holds the entries against the file.
fn place(
    entries: Vec<Entry>,
    data_start: u64,
    alignment: u64,
    size: u64,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let mut tensors = BTreeMap::new();
    let mut spans = Vec::new();
    for Entry { name, shape, kind, offset } in entries {
        let (dtype, encoding, stored) = types(kind)
            .ok_or_else(|| GgufError::TensorType { tensor: name.clone(), number: kind })?;
        let shape_fault =
            |reason| GgufError::Shape { tensor: name.clone(), shape: shape.clone(), reason };
        let (per, bytes) = encoding.unit(dtype);
        let elements = shape
            .iter()
            .try_fold(1u64, |product, extent| product.checked_mul(*extent))
            .ok_or_else(|| shape_fault("has too many elements to count"))?;
        if !shape.last().copied().unwrap_or(1).is_multiple_of(per) {
            return Err(shape_fault("has rows that are no whole number of blocks"));
        }
        let length = (elements / per)
            .checked_mul(bytes)
            .ok_or_else(|| shape_fault("has too many bytes to count"))?;
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { tensor: name, offset, alignment });
        }
        let start = data_start.saturating_add(offset);
        let end = start.saturating_add(length);
        if end > size {
            return Err(GgufError::PastTheEnd { tensor: name, end, size });
        }
        spans.push((start, end, name.clone()));
        let info = TensorInfo { dtype, stored, shape, file: 0, start, end, encoding };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(GgufError::Twice(format!("tensor `{}`", escape(&name))));
        }
    }
    spans.sort();
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            let (tensor, other) = (pair[1].2.clone(), pair[0].2.clone());
            return Err(GgufError::Overlap { tensor, other });
        }
    }
    Ok(tensors)
}

/// What ggml's number for a type means: the type handed out, how it is stored, and its name.
fn types(number: u32) -> Option<(DType, Encoding, String)> {
    let plain = match number {
        0 => DType::F32,
        1 => DType::F16,
        24 => DType::I8,
        25 => DType::I16,
        26 => DType::I32,
        27 => DType::I64,
        28 => DType::F64,
        30 => DType::BF16,
        _ => {
            let block = BlockType::from_number(number)?;
            return Some((DType::F32, Encoding::Blocks(block), block.name().to_owned()));
        }
    };
    Some((plain, Encoding::Plain, plain.safetensors_name().to_owned()))
}

/// The file as a stream that knows how much is left.
struct Reader<'a> {
    inner: BufReader<&'a mut File>,
    at: u64,
    size: u64,
}

impl Reader<'_> {
    /// Fails unless `count` things of `bytes` bytes each are left.
    fn fits(&self, reading: &str, count: u64, bytes: u64) -> Result<(), GgufError> {
        let needed = count.saturating_mul(bytes);
        if needed > self.size - self.at {
            let reading = escape(reading);
            return Err(GgufError::Truncated { reading, needed, size: self.size });
        }
        if needed.saturating_add(self.at) > LONGEST_HEADER {
            let what = format!("the length of the header with {}", escape(reading));
            return Err(GgufError::TooMany { what, value: needed, limit: LONGEST_HEADER });
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self, reading: &str) -> Result<[u8; N], Error> {
        self.fits(reading, 1, N as u64)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, reading: &str) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.bytes(reading)?))
    }

    fn u64(&mut self, reading: &str) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.bytes(reading)?))
    }

    fn text(&mut self, reading: &str) -> Result<String, Error> {
        let length = self.u64(reading)?;
        self.fits(reading, length, 1)?;
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| GgufError::NotText(escape(reading)).into())
    }

    /// A metadata value of the type that the file numbers `kind`.
    fn value(&mut self, key: &str, kind: u32) -> Result<Value, Error> {
        if kind != 9 {
            return self.scalar(key, kind);
        }
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            // Lists of lists are in the format, but nobody has any.
            _ => return Err(GgufError::ValueType { key: key.to_owned(), kind }.into()),
        };
        self.fits(key, count, least)?;
        if count > LONGEST_LIST {
            let what = format!("the length of the list `{}`", escape(key));
            return Err(GgufError::TooMany { what, value: count, limit: LONGEST_LIST }.into());
        }
        if kind == 8 {
            let texts: Result<_, Error> = (0..count).map(|_| self.text(key)).collect();
            return Ok(Value::Texts(texts?));
        }
        let list: Result<_, Error> = (0..count).map(|_| self.scalar(key, kind)).collect();
        Ok(Value::List(list?))
    }

    fn scalar(&mut self, key: &str, kind: u32) -> Result<Value, Error> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.bytes(key)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes(key)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes(key)?).into()),
            4 => Value::Unsigned(u32::from_le_bytes(self.bytes(key)?).into()),
            5 => Value::Signed(i32::from_le_bytes(self.bytes(key)?).into()),
            6 => Value::F32(f32::from_le_bytes(self.bytes(key)?)),
            7 => Value::Bool(u8::from_le_bytes(self.bytes(key)?) != 0),
            8 => Value::Text(self.text(key)?),
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes(key)?)),
            _ => return Err(GgufError::ValueType { key: key.to_owned(), kind }.into()),
        })
    }

    fn tensor(&mut self) -> Result<Entry, Error> {
        let name = self.text("a tensor's name")?;
        let axes = self.u32(&name)?;
        if axes > MOST_AXES {
            let what = format!("the number of axes of tensor `{}`", escape(&name));
            let (value, limit) = (axes.into(), MOST_AXES.into());
            return Err(GgufError::TooMany { what, value, limit }.into());
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            shape.push(self.u64(&name)?);
        }
        // The file begins with the axis that varies fastest.
        shape.reverse();
        let (kind, offset) = (self.u32(&name)?, self.u64(&name)?);
        Ok(Entry { name, shape, kind, offset })
    }
}

#[cfg(test)]
mod tests;
