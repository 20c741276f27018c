//! Sample texts to calibrate on, from whatever form a person has them in.
//!
//! [`read`] takes a text file, a folder of them, JSON lines, parquet, Arrow, or the directory of a
//! HuggingFace data set; [`builtin`] gives texts when there is nothing to read. A data set may have
//! more bytes than any disk of ours: only its beginning is read, as much as [`Wanted`] asks for.
//!
//! Which texts come, and in which order, depends on the names and contents of the files and on
//! [`Wanted`], and on nothing else.
//!
//! - `find` says which files of a folder are read;
//! - `plain`, `json`, `table` and `arrow` each read one form;
//! - `taken` holds what was read, within bounds.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails says where"))]

mod arrow;
mod builtin;
mod error;
mod find;
mod json;
mod plain;
mod shuffle;
mod table;
mod taken;

use std::path::{Path, PathBuf};

use engraft_files::interrupt;

pub use builtin::builtin;
pub use error::{Place, TextsError};

use find::Form;
use taken::Taken;

/// The fields of a JSON object and the columns of a table that hold a text; the first that is
/// there is taken.
pub const FIELDS: [&str; 3] = ["text", "article", "content"];

/// How much to read, and in which order to give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many texts, at most; at least one is read.
    pub texts: usize,
    /// How many bytes of UTF-8, in all. Every text has an equal share of them, and is cut between
    /// two characters where it is longer: a record has `bytes / texts`, and where there are fewer
    /// files of plain text than `texts`, each of them has `bytes / files`.
    pub bytes: usize,
    /// Shuffles the texts that were read, the same way for the same seed. Without one they stay
    /// in the order in which they were read.
    pub seed: Option<u64>,
}

/// Texts that were read: at least one, none of them blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// The texts.
    pub texts: Vec<String>,
    /// The files that were opened for them, in order; none for the built-in texts.
    pub files: Vec<PathBuf>,
}

/// Reads texts from a file or folder, in the order of the files' names and within files.
///
/// Of a folder that holds tables (Arrow, parquet) or JSON files, those are read and other files
/// left alone; where names speak of a split `train`, its files only. Blank texts are passed over.
/// Never more than `wanted.bytes` are held, and besides them a page of a parquet file or an object
/// of a JSON file (64 MiB at most).
///
/// # Errors
/// What the file system says, and each way in which [`TextsError`] says a file is not as it must be.
pub fn read(path: &Path, wanted: &Wanted) -> Result<Texts, TextsError> {
    let found = find::find(path)?;
    let mut taken = match found.form {
        Form::Plain => Taken::new(wanted, found.files.len().min(wanted.texts)),
        Form::Json | Form::Parquet | Form::Arrow => Taken::new(wanted, wanted.texts),
    };
    let mut files = Vec::new();
    for file in found.files {
        if taken.full() {
            break;
        }
        interrupt::check()?;
        match found.form {
            Form::Plain => plain::read(&file, &mut taken)?,
            Form::Json => json::read(&file, &mut taken)?,
            Form::Parquet => table::read(&file, &mut taken)?,
            Form::Arrow => arrow::read(&file, &mut taken)?,
        }
        files.push(file);
    }
    if taken.texts.is_empty() {
        return Err(TextsError::Empty { path: path.to_owned() });
    }
    Ok(Texts { texts: shuffle::in_order(taken.texts, wanted.seed), files })
}
