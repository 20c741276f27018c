//! Which form a path is of: a directory by the names of its files, a file by its first bytes.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use engraft_files::FileError;

use crate::source::Contents;
use crate::{SourceError, deepspeed, gguf, hf, jax, meta, nemo};

/// Opens the model in a directory.
pub(crate) fn open(directory: &Path) -> Result<Contents, SourceError> {
    let names = names(directory)?;
    if let Some(found) = jax::open(directory, &names)? {
        return Ok(found);
    }
    if let Some(folder) = deepspeed::find(directory, &names).filter(|_| !hf::has_weights(&names)) {
        return deepspeed::open(directory, &folder);
    }
    if names.contains(hf::CONFIG) {
        return hf::open(directory, &names);
    }
    if meta::is(&names) {
        return meta::open(directory, &names);
    }
    if nemo::is(&names) {
        return nemo::open(directory, &names);
    }
    let gguf = names.iter().find(|name| name.ends_with(".gguf")).cloned();
    Err(SourceError::NoConfig { path: directory.to_owned(), gguf })
}

/// Opens the model in a file.
pub(crate) fn open_file(path: &Path) -> Result<Contents, SourceError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    match nemo::open_archive(path, file)? {
        Some(contents) => Ok(contents),
        None => gguf::open(path),
    }
}

/// The names of the files in a directory.
pub(crate) fn names(directory: &Path) -> Result<BTreeSet<String>, FileError> {
    let listing = std::fs::read_dir(directory).map_err(FileError::io("list", directory))?;
    let mut names = BTreeSet::new();
    for entry in listing {
        let entry = entry.map_err(FileError::io("list", directory))?;
        // A name that is no text is none of those that we look for.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
