//! Safetensors files, appended tensor by tensor, whose bytes depend on their content alone.
//!
//! The layout is fixed before the first byte of data, so nothing is held in memory. With an
//! alignment the data and every tensor begin at a multiple of it, ready to be mapped; the format
//! allows no holes, so they are filled by `U8` tensors named `~pad.0`, `~pad.1`, ….

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use engraft_ir::DType;
use serde_json::{Value, json};

use crate::header::bytes_of;
use crate::{FileError, interrupt};

/// What the names of the tensors begin with that fill holes.
pub const PAD_PREFIX: &str = "~pad.";

/// A hole is shorter than the alignment; this is what it is filled from.
const ZEROS: [u8; 4096] = [0; 4096];

/// One tensor of the layout.
struct Slot {
    name: String,
    /// Bytes of filling before it.
    pad: u64,
    length: u64,
}

/// Writes one file. [`SafetensorsWriter::begin`] and [`SafetensorsWriter::write`] for every
/// tensor in the order declared, then [`SafetensorsWriter::finish`].
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    header: Vec<u8>,
    metadata: BTreeMap<String, String>,
    slots: Vec<Slot>,
    /// How many tensors were begun.
    begun: usize,
    /// Bytes that the current tensor still lacks.
    missing: u64,
    hasher: blake3::Hasher,
    digests: BTreeMap<String, String>,
}

impl SafetensorsWriter {
    /// Makes the file at `path` and fixes its layout: `tensors` are (name, type, shape), in the
    /// order in which they will be written. `align` is 1 for a plain file, or a power of two up
    /// to 4096.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Misuse`] for a name that occurs twice, a reserved
    /// name, an impossible shape or another alignment.
    pub fn create(
        path: &Path,
        metadata: BTreeMap<String, String>,
        tensors: Vec<(String, DType, Vec<u64>)>,
        align: usize,
    ) -> Result<SafetensorsWriter, FileError> {
        let misuse = |what: String| FileError::Misuse { path: path.to_owned(), what };
        if !align.is_power_of_two() || align > ZEROS.len() {
            return Err(misuse(format!("an alignment of {align}")));
        }
        let mut entries = serde_json::Map::new();
        if !metadata.is_empty() {
            entries.insert("__metadata__".to_owned(), json!(metadata));
        }
        let mut slots = Vec::new();
        let mut offset: u64 = 0;
        for (name, dtype, shape) in tensors {
            let pad = offset.next_multiple_of(align as u64) - offset;
            if pad > 0 {
                let filling = format!("{PAD_PREFIX}{}", slots.len());
                entries.insert(filling, entry(DType::U8, &[pad], offset, offset + pad));
            }
            let start = offset + pad;
            let length = bytes_of(dtype, &shape);
            // The margin keeps every later sum in range.
            let Some((length, end)) = length
                .and_then(|length| Some((length, start.checked_add(length)?)))
                .filter(|(_, end)| *end < 1 << 62)
            else {
                return Err(misuse(format!("`{name}` has the impossible shape {shape:?}")));
            };
            if name.starts_with(PAD_PREFIX) || name == "__metadata__" {
                return Err(misuse(format!("the name `{name}` is reserved")));
            }
            if entries.insert(name.clone(), entry(dtype, &shape, start, end)).is_some() {
                return Err(misuse(format!("`{name}` is declared twice")));
            }
            slots.push(Slot { name, pad, length });
            offset = end;
        }
        let header = render(&Value::Object(entries), align);
        let file = File::create(path).map_err(FileError::io("create", path))?;
        let mut writer = SafetensorsWriter {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            header,
            metadata,
            slots,
            begun: 0,
            missing: 0,
            hasher: blake3::Hasher::new(),
            digests: BTreeMap::new(),
        };
        writer.put_header()?;
        Ok(writer)
    }

    /// Begins the next tensor, which must be the one declared next.
    ///
    /// # Errors
    /// [`FileError::Misuse`] when it is not, or when the one before is incomplete.
    pub fn begin(&mut self, name: &str) -> Result<(), FileError> {
        self.end_tensor()?;
        let Some(slot) = self.slots.get(self.begun) else {
            return Err(self.misuse(format!("`{name}` comes after the last tensor")));
        };
        if slot.name != name {
            let what = format!("`{name}` comes where `{}` should", slot.name);
            return Err(self.misuse(what));
        }
        let (pad, length) = (slot.pad as usize, slot.length);
        self.file.write_all(&ZEROS[..pad]).map_err(FileError::io("write", &self.path))?;
        self.missing = length;
        self.begun += 1;
        self.hasher.reset();
        Ok(())
    }

    /// Appends bytes (little-endian elements) to the current tensor.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Interrupted`]; [`FileError::Misuse`] for more
    /// bytes than the tensor has.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        interrupt::check()?;
        let Some(missing) = self.missing.checked_sub(bytes.len() as u64) else {
            return Err(
                self.misuse(format!("{} bytes too many", bytes.len() as u64 - self.missing))
            );
        };
        self.file.write_all(bytes).map_err(FileError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.missing = missing;
        Ok(())
    }

    /// The BLAKE3 digests (hex) of the tensors that are complete, by name.
    ///
    /// # Errors
    /// [`FileError::Misuse`] when the current tensor is incomplete.
    pub fn digests(&mut self) -> Result<&BTreeMap<String, String>, FileError> {
        self.end_tensor()?;
        Ok(&self.digests)
    }

    /// The JSON of the header with its trailing spaces: all between the eight bytes of length
    /// and the data.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Gives the metadata `key` a value that is known only now. Its JSON must be as long as that
    /// of the value it replaces.
    ///
    /// # Errors
    /// [`FileError::Misuse`] for an unknown key or a value of another length.
    pub fn patch(&mut self, key: &str, value: &str) -> Result<(), FileError> {
        let Some(old) = self.metadata.get(key) else {
            return Err(self.misuse(format!("there is no metadata `{key}`")));
        };
        let (old, new) = (pair(key, old), pair(key, value));
        if old.len() != new.len() {
            return Err(self.misuse(format!("metadata `{key}` changes its length")));
        }
        // The header begins with the metadata, where a key and its value are followed by a comma
        // or the closing brace; a quote inside of another value is escaped.
        let Some(at) = self.header.windows(old.len()).position(|window| window == old.as_bytes())
        else {
            return Err(self.misuse(format!("metadata `{key}` is not in the header")));
        };
        self.header[at..at + old.len()].copy_from_slice(new.as_bytes());
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Writes the header as it now is, and makes all of it durable.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Misuse`] when a tensor lacks.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.end_tensor()?;
        if let Some(slot) = self.slots.get(self.begun) {
            let what = format!("`{}` was never written", slot.name);
            return Err(self.misuse(what));
        }
        self.file.seek(SeekFrom::Start(0)).map_err(FileError::io("write", &self.path))?;
        self.put_header()?;
        self.file.flush().map_err(FileError::io("write", &self.path))?;
        self.file.get_ref().sync_all().map_err(FileError::io("write", &self.path))
    }

    fn put_header(&mut self) -> Result<(), FileError> {
        let length = (self.header.len() as u64).to_le_bytes();
        self.file
            .write_all(&length)
            .and_then(|()| self.file.write_all(&self.header))
            .map_err(FileError::io("write", &self.path))
    }

    /// Notes the digest of the current tensor, which must be complete.
    fn end_tensor(&mut self) -> Result<(), FileError> {
        let Some(slot) = self.begun.checked_sub(1).map(|last| &self.slots[last]) else {
            return Ok(());
        };
        if self.missing > 0 {
            let what = format!("`{}` lacks {} bytes", slot.name, self.missing);
            return Err(self.misuse(what));
        }
        if !self.digests.contains_key(&slot.name) {
            self.digests.insert(slot.name.clone(), self.hasher.finalize().to_hex().to_string());
        }
        Ok(())
    }

    fn misuse(&self, what: String) -> FileError {
        FileError::Misuse { path: self.path.clone(), what }
    }
}

/// A tensor's entry in the header; offsets count from the first byte of data.
fn entry(dtype: DType, shape: &[u64], start: u64, end: u64) -> Value {
    json!({"dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [start, end]})
}

/// A metadata key with its value as the header spells them.
fn pair(key: &str, value: &str) -> String {
    format!("{}:{}", Value::from(key), Value::from(value))
}

/// The header's JSON, with spaces at its end so that the data begins aligned: at a multiple of
/// `align`, and of eight in any case.
fn render(entries: &Value, align: usize) -> Vec<u8> {
    let mut header = entries.to_string().into_bytes();
    let end = (8 + header.len()).next_multiple_of(align.max(8));
    header.resize(end - 8, b' ');
    header
}

#[cfg(test)]
mod tests;
