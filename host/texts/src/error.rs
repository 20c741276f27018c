//! What can be wrong with sample texts.

use std::fmt;
use std::path::PathBuf;

use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_files::FileError;

use crate::FIELDS;

/// A place in a JSON file, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of JSON lines.
    Line(u64),
    /// An element of an array.
    Element(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(number) => write!(f, "line {number}"),
            Place::Element(number) => write!(f, "element {number}"),
        }
    }
}

/// Why no texts can be had from a path.
#[derive(Debug, thiserror::Error)]
pub enum TextsError {
    /// The file system refuses.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is nothing to read, or all of it is blank.
    #[error("there is no text in {}", path.display())]
    Empty {
        /// The path as given.
        path: PathBuf,
    },
    /// A text file of another encoding, or no text file.
    #[error("{} is not UTF-8: byte {byte} cannot be", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The offset of the first byte at fault, from zero.
        byte: u64,
    },
    /// A record of a JSON file that is none.
    #[error("{place} is no JSON object: {}", escape(reason))]
    Json {
        /// The file.
        path: PathBuf,
        /// The record.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// A record of a JSON file without a text.
    #[error("{place} has no text: its fields are {}", names(fields))]
    NoField {
        /// The file.
        path: PathBuf,
        /// The record.
        place: Place,
        /// The fields that it has, the first few.
        fields: Vec<String>,
    },
    /// A table without a column of texts.
    #[error("no column holds texts: there are {}", names(columns))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The columns that it has, the first few, with their types.
        columns: Vec<String>,
    },
    /// A parquet file that cannot be read.
    #[error("cannot read the parquet file: {}", escape(reason))]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An Arrow file that cannot be read.
    #[error("cannot read the Arrow file: {}", escape(reason))]
    Arrow {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A record of a JSON file that has no end in sight.
    #[error("{place} has more than {limit} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The record.
        place: Place,
        /// How many bytes one may have.
        limit: usize,
    },
    /// A pipe, a device or another path without contents of its own.
    #[error("{} is neither a file nor a folder", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

/// How many names an error lists.
pub(crate) const LISTED: usize = 20;

/// Names as a person reads them: `a`, `b`, or the word for none.
fn names(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", escape(name))).collect();
    quoted.join(", ")
}

/// The fields that are looked for: `a`, `b` or `c`.
fn looked_for() -> String {
    let quoted: Vec<String> = FIELDS.iter().map(|field| format!("`{field}`")).collect();
    let (last, others) = quoted.split_last().map_or(("", &[][..]), |(l, o)| (l.as_str(), o));
    format!("{} or {last}", others.join(", "))
}

impl Diagnostic for TextsError {
    fn code(&self) -> Code {
        Code(match self {
            TextsError::File(error) => return error.code(),
            TextsError::Empty { .. } => 950,
            TextsError::NotUtf8 { .. } => 951,
            TextsError::Json { .. } => 952,
            TextsError::NoField { .. } => 953,
            TextsError::NoColumn { .. } => 954,
            TextsError::Parquet { .. } => 955,
            TextsError::Arrow { .. } => 956,
            TextsError::TooLong { .. } => 957,
            TextsError::NotAFile { .. } => 958,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            TextsError::File(error) => error.fault(),
            _ => Fault::Input,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            TextsError::File(error) => error.location(),
            TextsError::Json { path, place, .. }
            | TextsError::NoField { path, place, .. }
            | TextsError::TooLong { path, place, .. } => {
                Some(format!("{}, {place}", path.display()))
            }
            TextsError::Empty { path }
            | TextsError::NotUtf8 { path, .. }
            | TextsError::NoColumn { path, .. }
            | TextsError::Parquet { path, .. }
            | TextsError::Arrow { path, .. }
            | TextsError::NotAFile { path } => Some(path.display().to_string()),
        }
    }

    fn help(&self) -> Option<String> {
        let text = match self {
            TextsError::File(error) => return error.help(),
            TextsError::Empty { .. } => {
                "give a text file, a folder of them, JSON lines, parquet, or a HuggingFace data set"
            }
            TextsError::NotUtf8 { .. } => {
                "convert the text to UTF-8, or unpack the file if it is compressed"
            }
            TextsError::Json { .. } => {
                "write one object a line (JSON lines), or one array of objects"
            }
            TextsError::NoField { .. } => {
                return Some(format!("rename the field that holds the text to {}", looked_for()));
            }
            TextsError::NoColumn { .. } => {
                let fields = looked_for();
                return Some(format!(
                    "name a column of strings {fields}, or save it as JSON lines"
                ));
            }
            TextsError::Parquet { .. } | TextsError::Arrow { .. } => {
                "download or write the file again, uncompressed if need be"
            }
            TextsError::TooLong { .. } => "split the record, or give the text as a plain text file",
            TextsError::NotAFile { .. } => "write what it gives to a file first",
        };
        Some(text.to_owned())
    }
}
