//! The two forms that `torch.save` writes.
//!
//! Since version 1.6: a zip archive of stored entries, `NAME/data.pkl` beside `NAME/data/KEY` for
//! each storage. Before: pickles one after the other (a magic number, a protocol, what the
//! machine was like, the object, the storages' keys), then each storage after the count of its
//! elements. In both only the directory and the pickles are read here; elements stay in the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_diagnostic::escape;
use engraft_files::FileError;

use super::TorchError;
use super::names::Element;
use super::pickle::{self, LONGEST, Stop};
use super::tensors::Storages;
use super::value::{Heap, Id, Value};
use super::zip::{Failure, broken, content, entries};
use crate::SourceError;

/// What a file of PyTorch holds: its values, and where its storages are.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) heap: Heap,
    pub(crate) root: Id,
    pub(crate) storages: Storages,
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
