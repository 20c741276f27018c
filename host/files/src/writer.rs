//! Safetensors files whose bytes depend on their content alone.
//!
//! The layout is fixed before the first byte of data, and every write says where it goes: tensors
//! may come in any order, several at a time, from several threads.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

pub use crate::layout::{Declared, PAD_PREFIX};
use crate::layout::{Layout, Slot};
use crate::{FileError, interrupt};

/// How many bytes are read at a time where a tensor is kept.
const PIECE: u64 = 1 << 20;

/// Writes one file: [`SafetensorsWriter::tensor`] for every tensor, in any order, then
/// [`SafetensorsWriter::finish`].
pub struct SafetensorsWriter {
    path: PathBuf,
    file: File,
    bytes: u64,
    header: Vec<u8>,
    metadata: BTreeMap<String, String>,
    slots: BTreeMap<String, Slot>,
    /// Of the tensors that are complete.
    digests: Mutex<BTreeMap<String, String>>,
}

impl SafetensorsWriter {
    /// Makes the file at `path` and fixes its layout: `tensors` are (name, type, shape), in the
    /// order in which they will lie. `align` is 1 for a plain file, or a power of two up to 4096.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Misuse`] for a name that occurs twice, a reserved
    /// name, an impossible shape or another alignment.
    pub fn create(
        path: &Path,
        metadata: BTreeMap<String, String>,
        tensors: Vec<Declared>,
        align: usize,
    ) -> Result<SafetensorsWriter, FileError> {
        SafetensorsWriter::open(path, metadata, tensors, align, false)
    }

    /// The same over a file that an earlier run may have left, whose data is not thrown away:
    /// [`SafetensorsWriter::keep`] decides, tensor by tensor, what of it is good.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::create`].
    pub fn reopen(
        path: &Path,
        metadata: BTreeMap<String, String>,
        tensors: Vec<Declared>,
        align: usize,
    ) -> Result<SafetensorsWriter, FileError> {
        SafetensorsWriter::open(path, metadata, tensors, align, true)
    }

    fn open(
        path: &Path,
        metadata: BTreeMap<String, String>,
        tensors: Vec<Declared>,
        align: usize,
        keep: bool,
    ) -> Result<SafetensorsWriter, FileError> {
        let misuse = |what| FileError::Misuse { path: path.to_owned(), what };
        let layout = Layout::new(&metadata, tensors, align).map_err(misuse)?;
        let bytes = layout.bytes();
        let Layout { header, slots, .. } = layout;
        let mut options = OpenOptions::new();
        options.read(keep).write(true).create(true).truncate(!keep);
        let file = options.open(path).map_err(FileError::io("create", path))?;
        let digests = Mutex::default();
        let path = path.to_owned();
        let writer = SafetensorsWriter { path, file, bytes, header, metadata, slots, digests };
        writer.put_header()?;
        // All that is not written, the holes, is zeros.
        writer.file.set_len(bytes).map_err(FileError::io("write", &writer.path))?;
        Ok(writer)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Begins a tensor, which is written by itself, whatever becomes of others meanwhile.
    ///
    /// # Errors
    /// [`FileError::Misuse`] for a name that was not declared.
    pub fn tensor(&self, name: &str) -> Result<TensorWriter<'_>, FileError> {
        let slot = self.slot(name)?;
        Ok(TensorWriter {
            writer: self,
            name: name.to_owned(),
            at: slot.start,
            end: slot.end,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Writes a tensor that is in memory, whole: little-endian elements.
    ///
    /// # Errors
    /// As [`SafetensorsWriter::tensor`] and [`TensorWriter::write`].
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let mut tensor = self.tensor(name)?;
        tensor.write(bytes)?;
        tensor.finish()
    }

    /// Takes a tensor as it lies in a file that was reopened, if its bytes have this digest.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Interrupted`]; [`FileError::Misuse`] for a name
    /// that was not declared.
    pub fn keep(&self, name: &str, digest: &str) -> Result<bool, FileError> {
        let Slot { start, end } = self.slot(name)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE.min(end - start) as usize];
        let mut at = start;
        while at < end {
            interrupt::check()?;
            let count = PIECE.min(end - at) as usize;
            self.file
                .read_exact_at(&mut piece[..count], at)
                .map_err(FileError::io("read", &self.path))?;
            hasher.update(&piece[..count]);
            at += count as u64;
        }
        let good = hasher.finalize().to_hex().as_str() == digest;
        if good {
            self.known().insert(name.to_owned(), digest.to_owned());
        }
        Ok(good)
    }

    /// The BLAKE3 digest (hex) of a tensor that is complete.
    pub fn digest(&self, name: &str) -> Option<String> {
        self.known().get(name).cloned()
    }

    /// The BLAKE3 digests (hex) of all tensors, by name.
    ///
    /// # Errors
    /// [`FileError::Misuse`] when one is not complete.
    pub fn digests(&self) -> Result<BTreeMap<String, String>, FileError> {
        let known = self.known();
        match self.slots.keys().find(|name| !known.contains_key(*name)) {
            Some(name) => Err(self.misuse(format!("`{name}` was never written"))),
            None => Ok(known.clone()),
        }
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

    /// Makes what was written so far durable.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::io("write", &self.path))
    }

    /// Writes the header as it now is, and makes all of it durable.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Misuse`] when a tensor lacks.
    pub fn finish(self) -> Result<(), FileError> {
        self.digests()?;
        self.put_header()?;
        self.file.sync_all().map_err(FileError::io("write", &self.path))
    }

    fn put_header(&self) -> Result<(), FileError> {
        let length = (self.header.len() as u64).to_le_bytes();
        self.file
            .write_all_at(&length, 0)
            .and_then(|()| self.file.write_all_at(&self.header, 8))
            .map_err(FileError::io("write", &self.path))
    }

    fn slot(&self, name: &str) -> Result<Slot, FileError> {
        let slot = self.slots.get(name).copied();
        slot.ok_or_else(|| self.misuse(format!("`{name}` was not declared")))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn misuse(&self, what: String) -> FileError {
        FileError::Misuse { path: self.path.clone(), what }
    }
}

/// One tensor in the making: bytes in order, then [`TensorWriter::finish`].
pub struct TensorWriter<'a> {
    writer: &'a SafetensorsWriter,
    name: String,
    /// Where the next byte goes.
    at: u64,
    end: u64,
    hasher: blake3::Hasher,
}

impl TensorWriter<'_> {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.writer.path
    }

    /// Appends bytes (little-endian elements). Each call is a write of its own to the file.
    ///
    /// # Errors
    /// What the file system says; [`FileError::Interrupted`]; [`FileError::Misuse`] for more
    /// bytes than the tensor has.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        interrupt::check()?;
        let (count, missing) = (bytes.len() as u64, self.end - self.at);
        if count > missing {
            let what = format!("`{}` gets {} bytes too many", self.name, count - missing);
            return Err(self.writer.misuse(what));
        }
        self.hasher.update(bytes);
        let SafetensorsWriter { file, path, .. } = self.writer;
        file.write_all_at(bytes, self.at).map_err(FileError::io("write", path))?;
        self.at += count;
        Ok(())
    }

    /// Notes the digest of the tensor, which must be complete.
    ///
    /// # Errors
    /// [`FileError::Misuse`] when it is not.
    pub fn finish(self) -> Result<(), FileError> {
        let missing = self.end - self.at;
        if missing > 0 {
            return Err(self.writer.misuse(format!("`{}` lacks {missing} bytes", self.name)));
        }
        let digest = self.hasher.finalize().to_hex().to_string();
        self.writer.known().insert(self.name, digest);
        Ok(())
    }
}

/// A metadata key with its value as the header spells them.
fn pair(key: &str, value: &str) -> String {
    format!("{}:{}", Value::from(key), Value::from(value))
}

#[cfg(test)]
mod tests;
