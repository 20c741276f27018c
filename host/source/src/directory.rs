//! Which form a directory is of: found out by the names of its files.

use std::collections::BTreeSet;
use std::path::Path;

use engraft_files::FileError;

use crate::source::Contents;
use crate::{SourceError, deepspeed, hf, jax, meta};

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
    let gguf = names.iter().find(|name| name.ends_with(".gguf")).cloned();
    Err(SourceError::NoConfig { path: directory.to_owned(), gguf })
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
