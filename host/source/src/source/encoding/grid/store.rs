//! The files that chunks lie in, and what was unpacked of them last.
//!
//! There may be more files than a process can hold open, so a few are. A chunk is unpacked as a
//! whole, for nothing less can be found in it: into memory where it is small, else into a file
//! that has no name, so that memory stays bounded however large the chunks are.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engraft_files::{FileError, interrupt};

use crate::SourceError;
use crate::jax::JaxError;

/// How many files are open at once.
const OPEN: usize = 32;
/// How many chunks stay unpacked, and of how many bytes together; the last one always does.
const UNPACKED: usize = 64;
const UNPACKED_BYTES: u64 = 2 << 30;
/// The largest chunk that is unpacked into memory, in bytes.
const IN_MEMORY: u64 = 1 << 20;
/// How much is unpacked at once.
const STEP: usize = 256 << 10;

/// How a chunk is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Zstd,
    Gzip,
    Zlib,
}

/// Bytes somewhere.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In a file of the store.
    File { file: usize, start: u64, length: u64 },
    /// Read already, because they stood among what is not data.
    Inline(Arc<[u8]>),
}

impl Place {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Place::File { length, .. } => *length,
            Place::Inline(bytes) => bytes.len() as u64,
        }
    }
}

/// A chunk as it lies in files.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Where its bytes are, one place after another.
    pub(crate) places: Vec<Place>,
    pub(crate) packing: Packing,
}

/// A chunk that can be read anywhere.
pub(crate) enum Bytes<'a> {
    Places(&'a [Place]),
    Memory(Arc<Vec<u8>>),
    Spooled(Arc<File>),
}

#[derive(Clone)]
enum Unpacked {
    Memory(Arc<Vec<u8>>),
    Spooled(Arc<File>),
}

/// A few things that were made last, by what they were made of and with their sizes; the newest
/// last.
struct Recent<K, V> {
    all: Mutex<Vec<(K, V, u64)>>,
    most: usize,
    budget: u64,
}

impl<K: PartialEq + Copy, V: Clone> Recent<K, V> {
    fn new(most: usize, budget: u64) -> Recent<K, V> {
        Recent { all: Mutex::default(), most, budget }
    }

    fn find(&self, key: K) -> Option<V> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|entry| entry.0 == key)?;
        let entry = all.remove(found);
        let value = entry.1.clone();
        all.push(entry);
        Some(value)
    }

    fn keep(&self, key: K, value: V, size: u64) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = all.iter().map(|entry| entry.2).sum::<u64>().saturating_add(size);
        while !all.is_empty() && (all.len() >= self.most || sum > self.budget) {
            sum -= all.remove(0).2;
        }
        all.push((key, value, size));
    }
}

/// Files that chunks lie in.
pub(crate) struct Store {
    files: Vec<PathBuf>,
    open: Recent<usize, Arc<File>>,
    unpacked: Recent<(usize, u64), Unpacked>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn new(files: Vec<PathBuf>) -> Store {
        let (open, unpacked) = (Recent::new(OPEN, u64::MAX), Recent::new(UNPACKED, UNPACKED_BYTES));
        Store { files, open, unpacked }
    }

    /// A file's path.
    pub(crate) fn path(&self, file: usize) -> &Path {
        self.files.get(file).map_or(Path::new(""), PathBuf::as_path)
    }

    fn file(&self, file: usize) -> Result<Arc<File>, FileError> {
        if let Some(found) = self.open.find(file) {
            return Ok(found);
        }
        let path = self.path(file);
        let opened = Arc::new(File::open(path).map_err(FileError::io("open", path))?);
        self.open.keep(file, opened.clone(), 1);
        Ok(opened)
    }

    /// Fills `room` from byte `at` of a place on.
    pub(crate) fn read_place(
        &self,
        place: &Place,
        at: u64,
        room: &mut [u8],
    ) -> Result<(), FileError> {
        match place {
            Place::File { file, start, .. } => {
                let path = self.path(*file);
                let opened = self.file(*file)?;
                opened.read_exact_at(room, start + at).map_err(FileError::io("read", path))
            }
            Place::Inline(bytes) => {
                let end = at as usize + room.len();
                room.copy_from_slice(&bytes[at as usize..end]);
                Ok(())
            }
        }
    }

    /// All bytes of a place, which the caller has found to be few.
    pub(crate) fn whole(&self, place: &Place) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; place.length() as usize];
        self.read_place(place, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `room` from byte `at` of a chunk on.
    pub(super) fn read(
        &self,
        chunk: &Bytes<'_>,
        mut at: u64,
        mut room: &mut [u8],
    ) -> Result<(), SourceError> {
        match chunk {
            Bytes::Memory(bytes) => {
                let end = at as usize + room.len();
                room.copy_from_slice(&bytes[at as usize..end]);
            }
            Bytes::Spooled(file) => {
                file.read_exact_at(room, at).map_err(spool_error)?;
            }
            Bytes::Places(places) => {
                for place in *places {
                    let length = place.length();
                    if at >= length {
                        at -= length;
                        continue;
                    }
                    let count = (length - at).min(room.len() as u64) as usize;
                    let (now, later) = room.split_at_mut(count);
                    self.read_place(place, at, now)?;
                    (at, room) = (0, later);
                    if room.is_empty() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// A chunk that is to have so many bytes.
    pub(super) fn unpacked<'a>(
        &self,
        chunk: &'a Chunk,
        bytes: u64,
    ) -> Result<Bytes<'a>, SourceError> {
        let (Packing::Zstd | Packing::Gzip | Packing::Zlib, [place]) =
            (chunk.packing, &chunk.places[..])
        else {
            return Ok(Bytes::Places(&chunk.places));
        };
        let key = match place {
            Place::File { file, start, .. } => Some((*file, *start)),
            Place::Inline(_) => None,
        };
        let unpacked = match key.and_then(|key| self.unpacked.find(key)) {
            Some(found) => found,
            None => {
                let made = self.unpack(place, chunk.packing, bytes)?;
                if let Some(key) = key {
                    self.unpacked.keep(key, made.clone(), bytes);
                }
                made
            }
        };
        Ok(match unpacked {
            Unpacked::Memory(bytes) => Bytes::Memory(bytes),
            Unpacked::Spooled(file) => Bytes::Spooled(file),
        })
    }

    fn unpack(&self, place: &Place, packing: Packing, bytes: u64) -> Result<Unpacked, SourceError> {
        let wrong = |what: String| {
            let path = match place {
                Place::File { file, .. } => self.path(*file).to_owned(),
                Place::Inline(_) => self.path(0).to_owned(),
            };
            SourceError::Jax { path, fault: JaxError::Chunk { what } }
        };
        let input = BufReader::with_capacity(64 << 10, PlaceReader { store: self, place, at: 0 });
        let mut unpacking: Box<dyn Read + '_> = match packing {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Packing::Zlib => Box::new(flate2::bufread::ZlibDecoder::new(input)),
            Packing::None => Box::new(input),
            Packing::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(input);
                Box::new(decoder.map_err(|error| wrong(format!("it is no zstd: {error}")))?)
            }
        };
        let mut target = match bytes <= IN_MEMORY {
            true => Target::Memory(Vec::with_capacity(bytes as usize)),
            false => Target::Spool(tempfile::tempfile().map_err(spool_error)?),
        };
        let mut step = vec![0; STEP.min(bytes as usize + 1)];
        let mut left = bytes;
        loop {
            interrupt::check()?;
            let count = match unpacking.read(&mut step) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(wrong(format!("it does not unpack: {error}"))),
            };
            if count as u64 > left {
                return Err(wrong(format!("it unpacks to more than {bytes} bytes")));
            }
            if count == 0 {
                break;
            }
            left -= count as u64;
            match &mut target {
                Target::Memory(all) => all.extend_from_slice(&step[..count]),
                Target::Spool(file) => file.write_all(&step[..count]).map_err(spool_error)?,
            }
        }
        if left > 0 {
            return Err(wrong(format!("it unpacks to {} bytes and not {bytes}", bytes - left)));
        }
        Ok(match target {
            Target::Memory(all) => Unpacked::Memory(Arc::new(all)),
            Target::Spool(file) => Unpacked::Spooled(Arc::new(file)),
        })
    }
}

/// Unpacks a few bytes, at most so many, in memory.
pub(crate) fn unzstd(bytes: &[u8], most: u64) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
    let mut all = Vec::new();
    let decoder = decoder.map_err(|error| error.to_string())?;
    decoder.take(most + 1).read_to_end(&mut all).map_err(|error| error.to_string())?;
    if all.len() as u64 > most {
        return Err(format!("it unpacks to more than {most} bytes"));
    }
    Ok(all)
}

/// Where a chunk is unpacked to.
enum Target {
    Memory(Vec<u8>),
    Spool(File),
}

fn spool_error(error: io::Error) -> SourceError {
    FileError::io("unpack into", &std::env::temp_dir())(error).into()
}

/// Reads a place from its beginning to its end.
struct PlaceReader<'a> {
    store: &'a Store,
    place: &'a Place,
    at: u64,
}

impl Read for PlaceReader<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = (self.place.length() - self.at).min(room.len() as u64) as usize;
        self.store.read_place(self.place, self.at, &mut room[..count]).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
