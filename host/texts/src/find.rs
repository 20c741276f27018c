//! Which files of a path are read, and in which form.
//!
//! A folder may be what `datasets.save_to_disk` wrote (`train/data-00000-of-00002.arrow` beside
//! files that describe it), a data set as it lies on the HuggingFace hub
//! (`data/train-00000-of-00003.parquet`, `train.jsonl`), or just a folder of text files. Files are
//! told apart by their endings, so nothing that describes the data set has to be believed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use engraft_files::{FileError, interrupt};

use crate::TextsError;

/// How texts lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The file is one text.
    Plain,
    /// JSON lines, or one array.
    Json,
    /// A parquet table.
    Parquet,
    /// A table as a stream of Arrow IPC.
    Arrow,
}

/// Files of one form, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Found {
    /// The form of all of them.
    pub(crate) form: Form,
    /// The files.
    pub(crate) files: Vec<PathBuf>,
}

/// The split that is read where there are several.
const SPLIT: &str = "train";

/// How deep data sets nest: `snapshots/<revision>/<config>/<split>/` on the hub's cache.
const DEPTH: usize = 5;

/// Files that describe a data set.
const DESCRIPTIONS: [&str; 4] =
    ["dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json"];

/// What to read at `path`.
///
/// # Errors
/// What the file system says, and [`TextsError::NotAFile`].
pub(crate) fn find(path: &Path) -> Result<Found, TextsError> {
    let metadata = fs::metadata(path).map_err(FileError::io("open", path))?;
    if metadata.is_file() {
        return Ok(Found { form: form_of_content(path)?, files: vec![path.to_owned()] });
    }
    if !metadata.is_dir() {
        return Err(TextsError::NotAFile { path: path.to_owned() });
    }
    let mut files = Vec::new();
    walk(path, DEPTH, &mut files)?;
    let tables = [Form::Arrow, Form::Parquet, Form::Json];
    let form = tables.into_iter().find(|form| files.iter().any(|f| form_of_name(f) == *form));
    let form = form.unwrap_or(Form::Plain);
    files.retain(|file| form_of_name(file) == form);
    if files.iter().any(|file| is_of_split(file, path)) {
        files.retain(|file| is_of_split(file, path));
    }
    files.sort();
    Ok(Found { form, files })
}

/// Collects the regular files below a folder, without hidden ones and those that hold no data.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), TextsError> {
    interrupt::check()?;
    for entry in fs::read_dir(folder).map_err(FileError::io("read", folder))? {
        let entry = entry.map_err(FileError::io("read", folder))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        // Links are followed, as the hub's cache is made of them; one that leads nowhere is an error.
        let metadata = fs::metadata(&path).map_err(FileError::io("open", &path))?;
        if metadata.is_dir() && depth > 0 {
            walk(&path, depth - 1, files)?;
        } else if metadata.is_file() && !describes(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// The form that a file's ending speaks of.
fn form_of_name(path: &Path) -> Form {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match ending.as_str() {
        "json" | "jsonl" | "ndjson" => Form::Json,
        "parquet" => Form::Parquet,
        "arrow" => Form::Arrow,
        _ => Form::Plain,
    }
}

/// The form of a file that was named itself: its ending may be missing, as in the hub's cache.
fn form_of_content(path: &Path) -> Result<Form, TextsError> {
    let form = form_of_name(path);
    if form != Form::Plain {
        return Ok(form);
    }
    let mut start = Vec::new();
    let file = fs::File::open(path).map_err(FileError::io("open", path))?;
    file.take(4).read_to_end(&mut start).map_err(FileError::io("read", path))?;
    Ok(match start.as_slice() {
        b"PAR1" => Form::Parquet,
        b"ARRO" | b"\xff\xff\xff\xff" => Form::Arrow,
        _ => Form::Plain,
    })
}

/// Whether a file is no part of a data set, but says something of it or was computed from it.
fn describes(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What `Dataset.map` left beside the data begins with `cache-`.
    DESCRIPTIONS.contains(&name.as_ref())
        || (name.starts_with("cache-") && form_of_name(path) == Form::Arrow)
}

/// Whether a name of the path below `root` has the word `train` in it.
fn is_of_split(file: &Path, root: &Path) -> bool {
    let below = file.strip_prefix(root).unwrap_or(file).to_string_lossy();
    below.split(|c: char| !c.is_alphanumeric()).any(|word| word == SPLIT)
}
