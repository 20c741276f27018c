//! Parquet files: the column of texts, row group by row group, a page at a time.
//!
//! The columns are read without Arrow, of which a column of strings needs nothing.

use std::fs::File;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use engraft_files::{FileError, interrupt};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::ColumnReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use crate::error::LISTED;
use crate::taken::Taken;
use crate::{FIELDS, TextsError};

/// How many rows are asked for at once.
const ROWS: usize = 16;

/// Reads the file's first texts.
///
/// # Errors
/// What the file system says, [`TextsError::NoColumn`] and [`TextsError::Parquet`].
pub(crate) fn read(path: &Path, taken: &mut Taken) -> Result<(), TextsError> {
    // The reader believes lengths within pages, and panics where one lies. Whole texts at most
    // were taken by then, which go with the error.
    catch_unwind(AssertUnwindSafe(|| read_column(path, taken))).unwrap_or_else(|_| {
        let reason = "a page of it is damaged".to_owned();
        Err(TextsError::Parquet { path: path.to_owned(), reason })
    })
}

fn read_column(path: &Path, taken: &mut Taken) -> Result<(), TextsError> {
    let broken = |error: ParquetError| TextsError::Parquet {
        path: path.to_owned(),
        reason: match error {
            ParquetError::General(reason) | ParquetError::EOF(reason) => reason,
            other => other.to_string(),
        },
    };
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let reader = SerializedFileReader::new(Bounded { file, size }).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = column(schema).ok_or_else(|| TextsError::NoColumn {
        path: path.to_owned(),
        columns: described(schema),
    })?;
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(broken)?;
        let column = group.get_column_reader(column).map_err(broken)?;
        let ColumnReader::ByteArrayColumnReader(mut column) = column else { continue };
        let (mut present, mut values) = (Vec::new(), Vec::new());
        while !taken.full() {
            interrupt::check()?;
            present.clear();
            values.clear();
            let rows = column.read_records(ROWS, Some(&mut present), None, &mut values);
            if rows.map_err(broken)?.0 == 0 {
                break;
            }
            for value in &values {
                taken.put_bytes(value.data(), true).map_err(|byte| {
                    let reason = format!("a text is not UTF-8: its byte {byte} cannot be");
                    TextsError::Parquet { path: path.to_owned(), reason }
                })?;
            }
        }
    }
    Ok(())
}

/// The number of the column with the texts.
fn column(schema: &SchemaDescriptor) -> Option<usize> {
    FIELDS.iter().find_map(|field| {
        schema.columns().iter().position(|c| c.path().parts() == [*field] && holds_texts(c))
    })
}

/// Whether a column has a string a row. Old writers say nothing of bytes that are strings.
fn holds_texts(column: &ColumnDescriptor) -> bool {
    let string = match (column.logical_type_ref(), column.converted_type()) {
        (Some(logical), _) => *logical == LogicalType::String,
        (None, converted) => matches!(converted, ConvertedType::UTF8 | ConvertedType::NONE),
    };
    column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0 && string
}

/// The columns and their types, the first few.
fn described(schema: &SchemaDescriptor) -> Vec<String> {
    let columns = schema.columns().iter().take(LISTED);
    columns
        .map(|column| {
            let kind = if holds_texts(column) {
                "STRING".to_owned()
            } else {
                column.physical_type().to_string()
            };
            format!("{}: {kind}", column.path().string())
        })
        .collect()
}

/// A file of which no more is asked for than it has: lengths in it may lie.
struct Bounded {
    file: File,
    size: u64,
}

impl Length for Bounded {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Bounded {
    type T = BufReader<File>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        self.file.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.size) {
            let what = "a part of it should lie past the end of the file";
            return Err(ParquetError::EOF(what.to_owned()));
        }
        self.file.get_bytes(start, length)
    }
}
