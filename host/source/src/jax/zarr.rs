//! Arrays in zarr's format, versions 2 and 3, as TensorStore writes them: keys and values, whether
//! files of a directory or of a database.
//!
//! ```text
//! NAME/.zarray    NAME/0.1             version 2: metadata, a chunk
//! NAME/zarr.json  NAME/c/0/1           version 3; a chunk may hold smaller ones and an index
//! ```
//! A chunk that is not there would be all zeros by the format; of a checkpoint it is lost.

use std::collections::BTreeMap;

use engraft_ir::DType;
use serde_json::Value;

use super::{Found, JaxError, crc32c};
use crate::SourceError;
use crate::source::grid::Grid;
use crate::source::grid::store::{Chunk, Packing, Place, Store};

mod metadata;

use metadata::{Metadata, Sharding};

/// How large an array's metadata or a chunk's index may be, in bytes.
const LIMIT: u64 = 64 << 20;

/// Keys, with where their values are.
pub(super) type Keys = BTreeMap<String, Place>;

/// All arrays among keys.
pub(super) fn arrays(keys: &Keys, store: &Store) -> Result<Vec<(String, Found)>, SourceError> {
    let mut all = Vec::new();
    for (key, place) in keys {
        let Some((name, file)) = key.rsplit_once('/') else { continue };
        if file != ".zarray" && file != "zarr.json" {
            continue;
        }
        let fault = |fault| {
            let path = match place {
                Place::File { file, .. } => store.path(*file).to_owned(),
                Place::Inline(_) => store.path(0).to_owned(),
            };
            SourceError::Jax { path, fault }
        };
        let malformed =
            |what: &str| fault(JaxError::Metadata { name: name.to_owned(), what: what.to_owned() });
        if place.length() > LIMIT {
            return Err(malformed("they are too long"));
        }
        let text = store.whole(place)?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| malformed(&error.to_string()))?;
        let metadata = match file {
            ".zarray" => Metadata::of_version_2(name, &value),
            _ if value.get("node_type").and_then(Value::as_str) == Some("group") => continue,
            _ => Metadata::of_version_3(name, &value),
        };
        let metadata = metadata.map_err(fault)?;
        all.push((name.to_owned(), found(name, metadata, keys, store, &fault)?));
    }
    Ok(all)
}

/// An array, with each of its chunks.
fn found(
    name: &str,
    metadata: Metadata,
    keys: &Keys,
    store: &Store,
    fault: &dyn Fn(JaxError) -> SourceError,
) -> Result<Found, SourceError> {
    let Metadata { kind, dtype, extents, chunk, packing, separator, prefix, sharding } = metadata;
    let nothing = |dtype| Found {
        kind: kind.clone(),
        dtype,
        extents: extents.clone(),
        chunk: chunk.clone(),
        chunks: Vec::new(),
    };
    // Whether an array of a type that is not ours matters is not known yet.
    let Some(dtype) = dtype else { return Ok(nothing(None)) };
    let malformed = |what: String| fault(JaxError::Metadata { name: name.to_owned(), what });
    let size = dtype.size() as u64;
    let wide = |chunk: &[u64]| Grid::chunk_bytes(size, chunk);
    if extents.contains(&0) {
        return Ok(nothing(Some(dtype)));
    }
    let Some(bytes) = wide(&extents).and_then(|_| wide(&chunk)) else {
        return Err(malformed("its elements are beyond counting".to_owned()));
    };
    let counts: Vec<u64> = extents.iter().zip(&chunk).map(|(e, c)| e.div_ceil(*c)).collect();
    let inner_counts = match &sharding {
        Some(Sharding { inner, .. }) => {
            extents.iter().zip(inner).map(|(e, c)| e.div_ceil(*c)).collect()
        }
        None => counts.clone(),
    };
    let mut chunks = Vec::new();
    let mut indices = BTreeMap::new();
    let mut at = vec![0; extents.len()];
    loop {
        // Where this chunk is: by itself, or in a larger one.
        let outer: Vec<u64> = match &sharding {
            Some(sharding) => {
                at.iter().zip(sharding.per(&chunk)).map(|(index, per)| index / per).collect()
            }
            None => at.clone(),
        };
        let words: Vec<String> = outer.iter().map(u64::to_string).collect();
        let key = match (prefix, words.is_empty()) {
            ("", true) => format!("{name}/0"),
            ("", false) => format!("{name}/{}", words.join(separator)),
            (prefix, true) => format!("{name}/{prefix}"),
            (prefix, false) => format!("{name}/{prefix}{separator}{}", words.join(separator)),
        };
        let missing =
            |chunk: String| fault(JaxError::MissingChunk { name: name.to_owned(), chunk });
        let Some(place) = keys.get(&key) else { return Err(missing(key)) };
        let (place, packing, bytes) = match &sharding {
            None => (place.clone(), packing, bytes),
            Some(sharding) => {
                if !indices.contains_key(&key) {
                    let index = index(place, store, sharding.places(&chunk))?;
                    let index = index
                        .map_err(|what| malformed(format!("the index of chunk `{key}`: {what}")))?;
                    indices.insert(key.clone(), index);
                }
                let number = sharding.number(&chunk, &at);
                let found = indices[&key].get(number).cloned().flatten();
                let Some(place) = found else { return Err(missing(format!("{key}, {number}"))) };
                let bytes = wide(&sharding.inner).unwrap_or(u64::MAX);
                (place, sharding.packing, bytes)
            }
        };
        if packing == Packing::None && place.length() != bytes {
            let what = format!("chunk `{key}` has {} bytes and not {bytes}", place.length());
            return Err(fault(JaxError::Array { name: name.to_owned(), what }));
        }
        chunks.push(Chunk { places: vec![place], packing });
        let Some(axis) = (0..at.len()).rev().find(|&axis| at[axis] + 1 < inner_counts[axis]) else {
            break;
        };
        at[axis] += 1;
        at[axis + 1..].fill(0);
    }
    let chunk = sharding.map_or(chunk, |sharding| sharding.inner);
    Ok(Found { kind, dtype: Some(dtype), extents, chunk, chunks })
}

/// The places of the chunks that are in a larger one, by the index at its end: where each begins
/// and how long it is, both all ones where there is none.
fn index(
    place: &Place,
    store: &Store,
    count: Option<u64>,
) -> Result<Result<Vec<Option<Place>>, String>, SourceError> {
    let length = count.and_then(|count| count.checked_mul(16)?.checked_add(4));
    let Some(length) = length.filter(|length| *length <= LIMIT.min(place.length())) else {
        return Ok(Err("the chunk is shorter than it".to_owned()));
    };
    let end = place.length() - length;
    let mut bytes = vec![0; length as usize];
    store.read_place(place, end, &mut bytes)?;
    let Some(entries) = crc32c::checked(&bytes) else {
        return Ok(Err("its checksum is not that of its bytes".to_owned()));
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let mut places = Vec::new();
    for entry in entries.chunks_exact(16) {
        let (start, length) = (number(&entry[..8]), number(&entry[8..]));
        if (start, length) == (u64::MAX, u64::MAX) {
            places.push(None);
            continue;
        }
        let inside = start.checked_add(length).is_some_and(|last| last <= end);
        if !inside {
            return Ok(Err(format!("{length} bytes at {start} are not inside of the chunk")));
        }
        places.push(Some(match place {
            Place::File { file, start: first, .. } => {
                Place::File { file: *file, start: first + start, length }
            }
            Place::Inline(bytes) => {
                Place::Inline(bytes[start as usize..(start + length) as usize].into())
            }
        }));
    }
    Ok(Ok(places))
}

/// An element's type as zarr spells it.
fn dtype_of_version_2(kind: &str) -> Option<DType> {
    Some(match kind {
        "bfloat16" => DType::BF16,
        "<f8" => DType::F64,
        "<f4" => DType::F32,
        "<f2" => DType::F16,
        "<i8" => DType::I64,
        "<i4" => DType::I32,
        "<i2" => DType::I16,
        "|i1" => DType::I8,
        "|u1" => DType::U8,
        "|b1" => DType::Bool,
        _ => return None,
    })
}
