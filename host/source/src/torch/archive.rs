//! The two forms that `torch.save` writes.
//!
//! Since version 1.6: a zip archive of stored entries, `NAME/data.pkl` beside `NAME/data/KEY` for
//! each storage. Before: pickles one after the other (a magic number, a protocol, what the
//! machine was like, the object, the storages' keys), then each storage after the count of its
//! elements. In both only the directory and the pickles are read here; elements stay in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_diagnostic::escape;
use engraft_files::FileError;
use zip::{CompressionMethod, ZipArchive};

use super::TorchError;
use super::names::Element;
use super::pickle::{self, LONGEST, Stop};
use super::tensors::Storages;
use super::value::{Heap, Id, Value};
use crate::SourceError;

/// The most entries of an archive.
const MOST_ENTRIES: usize = 1 << 20;

/// What a file of PyTorch holds: its values, and where its storages are.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) heap: Heap,
    pub(crate) root: Id,
    pub(crate) storages: Storages,
}

/// A stretch of a file, which a file in an archive is.
pub(crate) struct Window<'a> {
    file: &'a File,
    range: Range<u64>,
    at: u64,
}

impl Window<'_> {
    pub(crate) fn new(file: &File, range: Range<u64>) -> Window<'_> {
        Window { file, range, at: 0 }
    }
}

impl Read for Window<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let left = (self.range.end - self.range.start).saturating_sub(self.at);
        let count = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut room[..count], self.range.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => (self.range.end - self.range.start).checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Reads what `range` of the file at `path` holds, but for the elements.
pub(crate) fn open(path: &Path, file: &File, range: Range<u64>) -> Result<Archive, SourceError> {
    let mut magic = [0; 4];
    let is_zip = range.end - range.start >= 4 && {
        file.read_exact_at(&mut magic, range.start).map_err(FileError::io("read", path))?;
        &magic == b"PK\x03\x04"
    };
    let archive = if is_zip { zipped(file, range) } else { legacy(file, range) };
    archive.map_err(|error| match error {
        Failure::Io(error) => FileError::io("read", path)(error).into(),
        Failure::Fault(fault) => SourceError::Torch { path: path.to_owned(), fault },
    })
}

/// Why there is no archive.
enum Failure {
    Io(io::Error),
    Fault(TorchError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<TorchError> for Failure {
    fn from(fault: TorchError) -> Failure {
        Failure::Fault(fault)
    }
}

fn broken(what: impl Into<String>) -> Failure {
    Failure::Fault(TorchError::Archive(what.into()))
}

/// The entries of a zip archive: where their bytes are in the file, by name.
fn entries(file: &File, range: &Range<u64>) -> Result<BTreeMap<String, Range<u64>>, Failure> {
    let unreadable = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Failure::Io(error)
        }
        error => broken(format!("cannot be read: {}", escape(&error.to_string()))),
    };
    let reader = io::BufReader::new(Window::new(file, range.clone()));
    let mut archive = ZipArchive::new(reader).map_err(unreadable)?;
    if archive.len() > MOST_ENTRIES {
        let what = "the count of an archive's entries";
        return Err(TorchError::TooMuch { what, limit: MOST_ENTRIES as u64 }.into());
    }
    let size = range.end - range.start;
    let mut entries = BTreeMap::new();
    let mut spans = Vec::new();
    for number in 0..archive.len() {
        let entry = archive.by_index_raw(number).map_err(unreadable)?;
        let name = entry.name().to_owned();
        let shown = escape(&name);
        if entry.encrypted() {
            return Err(broken(format!("has the encrypted entry `{shown}`")));
        }
        if entry.compression() != CompressionMethod::Stored
            || entry.size() != entry.compressed_size()
        {
            return Err(broken(format!(
                "has the compressed entry `{shown}`; PyTorch stores entries as they are"
            )));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start.checked_add(entry.size()).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(broken(format!("has the entry `{shown}`, which ends past the end")));
        };
        spans.push((start, end, shown));
        entries.insert(name, range.start + start..range.start + end);
    }
    spans.sort();
    if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        let (first, second) = (&pair[0].2, &pair[1].2);
        return Err(broken(format!("has the entries `{first}` and `{second}` in one place")));
    }
    Ok(entries)
}

fn zipped(file: &File, range: Range<u64>) -> Result<Archive, Failure> {
    let entries = entries(file, &range)?;
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let prefix = pickles.next().ok_or_else(|| broken("has no data.pkl"))?.to_owned();
    if let Some(other) = pickles.next() {
        let (first, second) = (escape(&prefix), escape(other));
        return Err(broken(format!("has two data.pkl, in `{first}` and in `{second}`")));
    }
    let is_directory = |name: &str| name.strip_suffix('/').is_some_and(|name| !name.contains('/'));
    if !prefix.is_empty() && !is_directory(&prefix) {
        return Err(broken(format!("has its data.pkl in `{}`", escape(&prefix))));
    }
    let find = |name: &str| entries.get(&format!("{prefix}{name}"));
    if find("constants.pkl").is_some() {
        return Err(TorchError::Form("a TorchScript program").into());
    }
    if let Some(order) = find("byteorder") {
        let text = content(file, order, 16)?;
        if text.trim_ascii() != b"little" {
            return Err(TorchError::Form("of big-endian numbers").into());
        }
    }
    let place = find("data.pkl").ok_or_else(|| broken("has no data.pkl"))?;
    let bytes = content(file, place, LONGEST)?;
    let (heap, root, _) =
        pickle::read(&bytes).map_err(|stop| Failure::Fault(stopped(stop, bytes.len())))?;
    let data = format!("{prefix}data/");
    let storages = entries.iter().filter_map(|(name, place)| {
        Some((name.strip_prefix(&data)?.into(), (place.start, place.end - place.start)))
    });
    let storages = storages.collect();
    Ok(Archive { heap, root, storages })
}

/// The error of a pickle that came to no end in `length` bytes, or that of one that did.
fn stopped(stop: Stop, length: usize) -> TorchError {
    match stop {
        Stop::End => TorchError::Malformed { at: length, what: "it ends too early".to_owned() },
        Stop::Error(error) => error,
    }
}

/// The bytes of a small stretch of a file.
fn content(file: &File, place: &Range<u64>, limit: u64) -> Result<Vec<u8>, Failure> {
    if place.end - place.start > limit {
        let what = "the length of what should be small, in bytes,";
        return Err(TorchError::TooMuch { what, limit }.into());
    }
    let mut bytes = vec![0; (place.end - place.start) as usize];
    file.read_exact_at(&mut bytes, place.start)?;
    Ok(bytes)
}

/// 0x1950a86a20f9469cfc6c as pickles write it.
const MAGIC: [u8; 13] =
    [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
/// The version of the old form.
const PROTOCOL: i64 = 1001;

fn legacy(file: &File, range: Range<u64>) -> Result<Archive, Failure> {
    let start = content(file, &(range.start..range.end.min(range.start + 32)), 32)?;
    let after = match start.as_slice() {
        [0x80, 2..=5, rest @ ..] if rest.starts_with(&MAGIC) => 2 + MAGIC.len() as u64,
        [0x80, 4 | 5, 0x95, rest @ ..] if rest.get(8..).is_some_and(|r| r.starts_with(&MAGIC)) => {
            11 + MAGIC.len() as u64
        }
        _ if range.end - range.start >= 262 => {
            let mut word = [0; 5];
            file.read_exact_at(&mut word, range.start + 257)?;
            let is_tar = &word == b"ustar";
            let form = if is_tar { "a tar archive" } else { "no file that torch.save writes" };
            return Err(TorchError::Form(form).into());
        }
        _ => return Err(TorchError::Form("no file that torch.save writes").into()),
    };
    let mut at = range.start + after;
    let mut next = || -> Result<(Heap, Id), Failure> {
        let (heap, root, length) = streamed(file, at..range.end)?;
        at += length;
        Ok((heap, root))
    };
    let (heap, protocol) = next()?;
    if *heap.get(protocol) != Value::Integer(PROTOCOL) {
        return Err(TorchError::Form("of an unknown version of PyTorch's old form").into());
    }
    let (heap, machine) = next()?;
    if heap.find(machine, "little_endian").is_some_and(|v| heap.number(v) == Some(0)) {
        return Err(TorchError::Form("of big-endian numbers").into());
    }
    let (heap, root) = next()?;
    let (keys, list) = next()?;
    let storages = placed(file, at..range.end, &heap, &keys, list)?;
    Ok(Archive { heap, root, storages })
}

/// The storages of the old form: one after the other in the order of the list of keys.
fn placed(
    file: &File,
    range: Range<u64>,
    heap: &Heap,
    keys: &Heap,
    list: Id,
) -> Result<Storages, Failure> {
    let sizes: BTreeMap<&str, Option<Element>> = heap.storages().collect();
    let mut storages = Storages::new();
    let mut at = range.start;
    let list = keys.items(list).ok_or_else(|| broken("has no list of storages"))?;
    for key in list {
        let key = keys.text(*key).ok_or_else(|| broken("has a storage without a name"))?;
        let shown = escape(key);
        let Some(element) = sizes.get(key) else {
            return Err(broken(format!("has the storage `{shown}`, of which no tensor is made")));
        };
        let size = element.map_or(1, Element::size);
        let mut count = [0; 8];
        if range.end - at < 8 {
            return Err(broken(format!("ends before the storage `{shown}`")));
        }
        file.read_exact_at(&mut count, at)?;
        at += 8;
        let bytes = u64::from_le_bytes(count).checked_mul(size);
        let bytes = bytes.filter(|bytes| *bytes <= range.end - at);
        let Some(bytes) = bytes else {
            return Err(broken(format!("ends inside of the storage `{shown}`")));
        };
        if storages.insert(key.into(), (at, bytes)).is_some() {
            return Err(broken(format!("has the storage `{shown}` twice")));
        }
        at += bytes;
    }
    Ok(storages)
}

/// The pickle at the start of a stretch whose end is not the pickle's. What is read of the file
/// grows until the pickle is in it.
fn streamed(file: &File, range: Range<u64>) -> Result<(Heap, Id, u64), Failure> {
    let most = LONGEST.min(range.end - range.start);
    let mut length = most.min(1 << 16);
    loop {
        let bytes = content(file, &(range.start..range.start + length), LONGEST)?;
        match pickle::read(&bytes) {
            Ok((heap, root, used)) => return Ok((heap, root, used as u64)),
            Err(Stop::End) if length < most => length = most.min(length * 4),
            Err(stop) => return Err(stopped(stop, bytes.len()).into()),
        }
    }
}
