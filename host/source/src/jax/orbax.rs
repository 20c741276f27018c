//! An Orbax checkpoint: a directory of arrays in zarr's format, as files or in a database, and
//! `checkpoint`, a msgpack file of what is small or of everything.
//!
//! A checkpoint may lie in directories of its manager: one a step, in it one an item. Where there
//! is one checkpoint below a directory, it is what is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use engraft_diagnostic::escape;
use engraft_files::{FileError, interrupt};

use super::ocdbt::{self, Database};
use super::{Beside, JaxError, flax, msgpack, zarr};
use crate::source::Contents;
use crate::source::grid::store::{Place, Store};
use crate::{SourceError, directory, hf};

/// What a checkpoint has at its top, whatever its arrays are in.
const MARKS: [&str; 3] = [ocdbt::MANIFEST, METADATA, AGGREGATE];
const METADATA: &str = "_METADATA";
const AGGREGATE: &str = "checkpoint";
/// How deep below a given directory a checkpoint may be, and how many directories are looked at.
const BELOW: usize = 3;
const LOOKED_AT: usize = 1024;
/// How deep below a checkpoint an array may be, and how many files there may be.
const DEPTH: usize = 32;
const FILES: usize = 1 << 22;

/// Opens the checkpoint in or below `given`, if there is one.
pub(super) fn open(given: &Path) -> Result<Option<Contents>, SourceError> {
    let mut found = Vec::new();
    let mut left = LOOKED_AT;
    find(given, BELOW, &mut left, &mut found)?;
    let at = match &found[..] {
        [] => return Ok(None),
        [one] => one.clone(),
        several => {
            let below = |path: &PathBuf| path.strip_prefix(given).unwrap_or(path).to_path_buf();
            let names = several.iter().map(|path| escape(&below(path).to_string_lossy())).collect();
            let fault = JaxError::Several(names);
            return Err(SourceError::Jax { path: given.to_owned(), fault });
        }
    };
    let fault = |fault| SourceError::Jax { path: at.clone(), fault };
    let (beside, names) = config(given, &at)?.ok_or_else(|| fault(JaxError::NoConfig))?;

    let top = directory::names(&at)?;
    let Database { values: keys, mut files } = match top.contains(ocdbt::MANIFEST) {
        true => ocdbt::open(&at)?,
        false => plain(&at)?,
    };
    inside(&keys, &files)?;
    let aggregate = at.join(AGGREGATE);
    let mut tree = Vec::new();
    if top.contains(AGGREGATE) && aggregate.is_file() {
        let file = File::open(&aggregate).map_err(FileError::io("open", &aggregate))?;
        for (name, array) in msgpack::arrays(&file, &aggregate)? {
            let found = flax::found(&name, array, files.len())
                .map_err(|fault| SourceError::Jax { path: aggregate.clone(), fault })?;
            tree.push((name, found));
        }
        files.push(aggregate);
    }
    let store = Store::new(files.clone());
    tree.extend(zarr::arrays(&keys, &store)?);
    if tree.is_empty() {
        let unmerged = top.iter().any(|name| name.starts_with("ocdbt.process_"));
        return Err(fault(JaxError::Empty(match unmerged && !top.contains(ocdbt::MANIFEST) {
            true => ": what its processes wrote was not merged",
            false => "",
        })));
    }
    let used: BTreeSet<usize> = tree.iter().flat_map(|(_, found)| found.files()).collect();
    let mut read: Vec<PathBuf> = used.into_iter().map(|file| files[file].clone()).collect();
    if top.contains(ocdbt::MANIFEST) {
        read.insert(0, at.join(ocdbt::MANIFEST));
    }
    let beside = Beside { directory: &beside, names: &names, files: read, weights: Vec::new() };
    super::contents(tree, store, &at, beside).map(Some)
}

/// The directories in and below `directory`, itself among them.
fn children(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let listing = std::fs::read_dir(directory).map_err(FileError::io("list", directory))?;
    let mut all = Vec::new();
    for entry in listing {
        let path = entry.map_err(FileError::io("list", directory))?.path();
        // What starts with a dot is none of a checkpoint's; nor is what is not finished.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && !name.contains("orbax-checkpoint-tmp") {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// Adds the checkpoints in or below a directory.
fn find(
    directory: &Path,
    depth: usize,
    left: &mut usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), SourceError> {
    interrupt::check()?;
    let Some(fewer) = left.checked_sub(1) else { return Ok(()) };
    *left = fewer;
    if MARKS.iter().any(|mark| directory.join(mark).is_file()) {
        found.push(directory.to_owned());
        return Ok(());
    }
    let directories = children(directory)?;
    let is_array =
        |path: &PathBuf| path.join(".zarray").is_file() || path.join("zarr.json").is_file();
    if directories.iter().any(is_array) {
        found.push(directory.to_owned());
        return Ok(());
    }
    if depth > 0 {
        for child in directories {
            find(&child, depth - 1, left, found)?;
        }
    }
    Ok(())
}

/// The directory of the config that belongs to a checkpoint, and what is in it: the checkpoint's,
/// one between it and the given one, or the one above that.
fn config(
    given: &Path,
    checkpoint: &Path,
) -> Result<Option<(PathBuf, BTreeSet<String>)>, SourceError> {
    let whole = std::fs::canonicalize(given).map_err(FileError::io("open", given))?;
    let between = checkpoint.ancestors().take_while(|path| path.starts_with(given));
    let between = between.map(Path::to_owned).chain(whole.parent().map(Path::to_owned));
    for directory in between {
        if directory.join(hf::CONFIG).is_file() {
            let names = directory::names(&directory)?;
            return Ok(Some((directory, names)));
        }
    }
    Ok(None)
}

/// The files of a directory, as keys and values.
fn plain(directory: &Path) -> Result<Database, SourceError> {
    let mut database = Database { values: BTreeMap::new(), files: Vec::new() };
    walk(directory, "", DEPTH, &mut database)?;
    Ok(database)
}

fn walk(
    directory: &Path,
    prefix: &str,
    depth: usize,
    into: &mut Database,
) -> Result<(), SourceError> {
    interrupt::check()?;
    let names = directory::names(directory)?;
    for name in names {
        let path = directory.join(&name);
        let key = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let metadata = std::fs::metadata(&path).map_err(FileError::io("open", &path))?;
        if metadata.is_dir() && depth > 0 {
            walk(&path, &key, depth - 1, into)?;
        } else if metadata.is_file() && into.files.len() < FILES {
            let (file, length) = (into.files.len(), metadata.len());
            into.values.insert(key, Place::File { file, start: 0, length });
            into.files.push(path);
        }
    }
    Ok(())
}

/// Whether every value is inside of its file.
fn inside(keys: &zarr::Keys, files: &[PathBuf]) -> Result<(), SourceError> {
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    for (key, place) in keys {
        let Place::File { file, start, length } = place else { continue };
        let path = &files[*file];
        let size = match sizes.get(file) {
            Some(size) => *size,
            None => std::fs::metadata(path).map_err(FileError::io("open", path))?.len(),
        };
        sizes.insert(*file, size);
        if start.checked_add(*length).is_none_or(|end| end > size) {
            let what = format!(
                "the {length} bytes at {start} of `{}` are not in the file's {size}",
                escape(key)
            );
            return Err(SourceError::Jax {
                path: path.clone(),
                fault: JaxError::Database { what },
            });
        }
    }
    Ok(())
}
