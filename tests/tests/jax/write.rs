//! Small writers of the forms, by their formats' descriptions.

use crate::tree::{Array, Tree};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn text(text: &str) -> Vec<u8> {
    [&[0xd9, text.len() as u8], text.as_bytes()].concat()
}

fn map(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut all = [&[0xde], &(entries.len() as u16).to_be_bytes()[..]].concat();
    for (key, value) in entries {
        all.extend([text(key), value.clone()].concat());
    }
    all
}

fn extension(shape: &[usize], kind: &str, bytes: &[u8]) -> Vec<u8> {
    let mut inside = vec![0x93, 0x90 | shape.len() as u8];
    for extent in shape {
        inside.extend([&[0xce], &(*extent as u32).to_be_bytes()[..]].concat());
    }
    inside.extend(text(kind));
    inside.extend([&[0xc6], &(bytes.len() as u32).to_be_bytes()[..], bytes].concat());
    [&[0xc9], &(inside.len() as u32).to_be_bytes()[..], &[1], &inside].concat()
}

/// An array, in flat pieces where it has more than so many bytes.
fn array(array: &Array, most: usize) -> Vec<u8> {
    let kind = array.dtype.config_name();
    if array.bytes.len() <= most {
        return extension(&array.shape, kind, &array.bytes);
    }
    let size = array.dtype.size();
    let numbered = |values: Vec<Vec<u8>>| {
        let entries = values.into_iter().enumerate().map(|(i, value)| (i.to_string(), value));
        map(&entries.collect::<Vec<_>>())
    };
    let shape = array.shape.iter().map(|extent| vec![0xcd, (extent >> 8) as u8, *extent as u8]);
    let pieces = array.bytes.chunks(most / size * size);
    let pieces = pieces.map(|piece| extension(&[piece.len() / size], kind, piece)).collect();
    map(&[
        ("__msgpack_chunked_array__".into(), vec![0xc3]),
        ("shape".into(), numbered(shape.collect())),
        ("chunks".into(), numbered(pieces)),
    ])
}

/// Flax's file of a tree.
pub fn msgpack(tree: &Tree, most: usize) -> Vec<u8> {
    fn level(arrays: &[(Vec<&str>, &Array)], most: usize) -> Vec<u8> {
        let mut below: BTreeMap<&str, Vec<(Vec<&str>, &Array)>> = BTreeMap::new();
        for (path, array) in arrays {
            below.entry(path[0]).or_default().push((path[1..].to_vec(), array));
        }
        let entries = below.into_iter().map(|(key, arrays)| match &arrays[..] {
            [(path, one)] if path.is_empty() => (key.to_owned(), array(one, most)),
            _ => (key.to_owned(), level(&arrays, most)),
        });
        map(&entries.collect::<Vec<_>>())
    }
    let arrays: Vec<_> = tree.0.iter().map(|(path, a)| (path.split('|').collect(), a)).collect();
    level(&arrays, most)
}

/// Flax's files of a tree in shards: flat, with an index.
pub fn shards(tree: &Tree, directory: &Path) {
    let names = [1, 2, 3].map(|n| format!("flax_model-{n:05}-of-00003.msgpack"));
    let mut shards = [vec![], vec![], vec![]];
    let mut index = serde_json::Map::new();
    for (i, (path, a)) in tree.0.iter().enumerate() {
        let path = path.replace('|', "/");
        index.insert(path.clone(), names[i % 3].clone().into());
        shards[i % 3].push((path, array(a, 1 << 30)));
    }
    for (name, entries) in names.iter().zip(shards) {
        fs::write(directory.join(name), map(&entries)).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": index}).to_string();
    fs::write(directory.join("flax_model.msgpack.index.json"), index).unwrap();
}

/// How arrays are kept.
#[derive(Clone, Copy)]
pub enum Form {
    /// Each as one chunk.
    Plain,
    /// In chunks that do not divide it.
    Chunks,
    /// As one chunk in a zstd frame.
    Packed,
}

/// A zstd frame that packs nothing.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((bytes.len() as u32).to_le_bytes());
    let blocks: Vec<&[u8]> = bytes.chunks(1 << 17).collect();
    for (i, block) in blocks.iter().enumerate() {
        let last = u32::from(i + 1 == blocks.len());
        frame.extend(&(last | (block.len() as u32) << 3).to_le_bytes()[..3]);
        frame.extend(*block);
    }
    frame
}

/// The chunks of an array, with their keys.
fn chunks(array: &Array, chunk: &[usize]) -> Vec<(String, Vec<u8>)> {
    let size = array.dtype.size();
    let rank = chunk.len();
    let counts: Vec<usize> = array.shape.iter().zip(chunk).map(|(e, c)| e.div_ceil(*c)).collect();
    let walk = |extents: &[usize]| -> Vec<Vec<usize>> {
        let of = |mut left: usize| {
            let mut index = vec![0; rank];
            for (at, extent) in index.iter_mut().zip(extents).rev() {
                (*at, left) = (left % extent, left / extent);
            }
            index
        };
        (0..extents.iter().product()).map(of).collect()
    };
    let keyed = walk(&counts).into_iter().map(|number| {
        let mut bytes = Vec::new();
        for inside in walk(chunk) {
            let mut at = Some(0);
            for axis in 0..rank {
                let index = number[axis] * chunk[axis] + inside[axis];
                let fits = index < array.shape[axis];
                at = at.filter(|_| fits).map(|at| at * array.shape[axis] + index);
            }
            match at {
                Some(at) => bytes.extend(&array.bytes[at * size..(at + 1) * size]),
                None => bytes.extend(vec![0xff; size]),
            }
        }
        let words: Vec<String> = number.iter().map(usize::to_string).collect();
        (words.join("."), bytes)
    });
    keyed.collect()
}

/// A tree's keys and values in zarr's format.
fn keys(tree: &Tree, form: Form) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for (path, array) in &tree.0 {
        let name = path.replace('|', ".");
        let chunk: Vec<usize> = match form {
            Form::Chunks => array.shape.iter().map(|extent| extent * 3 / 8 + 1).collect(),
            _ => array.shape.clone(),
        };
        let dtype = match array.dtype.config_name() {
            "float32" => "<f4",
            "float16" => "<f2",
            other => other,
        };
        let packed = matches!(form, Form::Packed);
        let compressor = packed.then(|| json!({"id": "zstd", "level": 1}));
        let metadata = json!({
            "chunks": chunk, "compressor": compressor, "dimension_separator": ".", "dtype": dtype,
            "fill_value": null, "filters": null, "order": "C", "shape": array.shape,
            "zarr_format": 2,
        });
        all.insert(format!("{name}/.zarray"), metadata.to_string().into_bytes());
        for (key, bytes) in chunks(array, &chunk) {
            let bytes = if packed { zstd(&bytes) } else { bytes };
            all.insert(format!("{name}/{key}"), bytes);
        }
    }
    all
}

/// Orbax's checkpoint of a tree, as files.
pub fn zarr(tree: &Tree, directory: &Path, form: Form) {
    for (key, value) in keys(tree, form) {
        let path = directory.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let of = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(!0, of)
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while value > 127 {
        all.push(value as u8 | 128);
        value >>= 7;
    }
    all.push(value as u8);
    all
}

fn varints(values: impl IntoIterator<Item = usize>) -> Vec<u8> {
    values.into_iter().flat_map(varint).collect()
}

/// A manifest or a node around its body.
fn wrapped(magic: u32, body: &[u8], packed: bool) -> Vec<u8> {
    let body = if packed { zstd(body) } else { body.to_vec() };
    let mut all = magic.to_be_bytes().to_vec();
    all.extend((14 + body.len() as u64 + 4).to_le_bytes());
    all.extend([0, u8::from(packed)]);
    all.extend(body);
    let sum = crc32c(&all);
    all.extend(sum.to_le_bytes());
    all
}

/// A table of one data file, `base` and then `path`.
fn table(base: &str, path: &str) -> Vec<u8> {
    let whole = format!("{base}{path}");
    [varints([1, whole.len(), base.len()]), whole.into_bytes()].concat()
}

/// Orbax's checkpoint of a tree, as a database: leaves of some keys each and a root above them.
pub fn ocdbt(tree: &Tree, directory: &Path, form: Form) {
    let packed = matches!(form, Form::Packed);
    let entries: Vec<(String, Vec<u8>)> = keys(tree, form).into_iter().collect();
    let mut data: Vec<u8> = b"what no key leads to".to_vec();
    let mut leaves = Vec::new();
    for entries in entries.chunks(7) {
        // Keys below a node lack what they all begin with.
        let (first, last) = (&entries[0].0, &entries[entries.len() - 1].0);
        let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
        let small = |value: &[u8]| value.len() < 300;
        let (mut offsets, mut here) = (Vec::new(), Vec::new());
        for (_, value) in entries {
            if small(value) {
                here.extend(value);
            } else {
                offsets.push(data.len());
                data.extend(value);
            }
        }
        let own: Vec<&[u8]> = entries.iter().map(|(key, _)| &key.as_bytes()[common..]).collect();
        let shared: Vec<usize> = own
            .windows(2)
            .map(|pair| pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b).count())
            .collect();
        let suffix = |i: usize| &own[i][if i == 0 { 0 } else { shared[i - 1] }..];
        let body = [
            vec![0],
            table("", "d/values"),
            varint(entries.len()),
            varints(shared.clone()),
            varints((0..own.len()).map(|i| suffix(i).len())),
            (0..own.len()).flat_map(suffix).copied().collect(),
            varints(entries.iter().map(|(_, value)| value.len())),
            varints(entries.iter().map(|(_, value)| usize::from(!small(value)))),
            varints(offsets.iter().map(|_| 0)),
            varints(offsets.iter().copied()),
            here,
        ];
        leaves.push((first.clone(), common, wrapped(0x0cdb_20de, &body.concat(), packed)));
    }
    // A root even above one leaf.
    let mut places = Vec::new();
    for (_, _, leaf) in &leaves {
        places.push((data.len(), leaf.len()));
        data.extend(leaf);
    }
    let body = [
        vec![1],
        table("", "d/values"),
        varint(leaves.len()),
        varints(leaves.iter().skip(1).map(|_| 0)),
        varints(leaves.iter().map(|(key, ..)| key.len())),
        varints(leaves.iter().map(|(_, common, _)| *common)),
        leaves.iter().flat_map(|(key, ..)| key.bytes()).collect(),
        varints(leaves.iter().map(|_| 0)),
        varints(places.iter().map(|place| place.0)),
        varints(places.iter().map(|place| place.1)),
        varints(leaves.iter().flat_map(|_| [1, 1, 1])),
    ];
    let root = wrapped(0x0cdb_20de, &body.concat(), packed);
    let (offset, length) = (data.len(), root.len());
    data.extend(root);
    // The data is in another directory, as that of one of several processes.
    let inside = directory.join("ocdbt.process_0/d");
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("values"), data).unwrap();
    let body = [
        vec![7; 16],
        varints([0, 300, 1 << 20]),
        vec![4],
        varint(1),
        vec![0; 4],
        table("ocdbt.process_0/", "d/values"),
        varints([1, 1]),
        vec![1],
        varints([0, offset, length, entries.len(), length, 0]),
        vec![0; 8],
        varint(0),
    ];
    let manifest = wrapped(0x0cdb_3a2a, &body.concat(), packed);
    fs::write(directory.join("manifest.ocdbt"), manifest).unwrap();
}
