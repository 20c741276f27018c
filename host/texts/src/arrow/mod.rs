//! Files of Arrow's IPC stream, as `datasets` writes them: the column of texts, a row at a time.
//!
//! A batch of rows may be far larger than what is wanted of it, so it is never read whole: of the
//! column's buffers a piece of the offsets, then of each text as much as its share. The format is
//! Arrow's "Columnar Format", sections "Physical memory layout" and "IPC streaming format". A file
//! of the random access form begins with the same stream behind eight bytes, and is read by it.

mod flat;
mod layout;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use engraft_files::{FileError, interrupt};

use crate::TextsError;
use crate::taken::Taken;
use flat::Flat;
use layout::{Batch, Column, Range, Width};

/// What a message is about; from `Message.fbs`.
const SCHEMA: u8 = 1;
const DICTIONARY: u8 = 2;
const RECORDS: u8 = 3;

/// How a file of the random access form begins.
const FILE_MAGIC: &[u8] = b"ARROW1\0\0";

/// What a length begins with since version 0.15 of the format.
const CONTINUATION: u32 = u32::MAX;

/// How many bytes a message's description may have: thousands of columns.
const DESCRIPTION: u64 = 16 << 20;

/// How many rows' offsets are read at once; a multiple of eight, for the bits of nulls.
const ROWS: u64 = 512;

/// Reads the file's first texts.
///
/// # Errors
/// What the file system says, [`TextsError::NoColumn`] and [`TextsError::Arrow`].
pub(crate) fn read(path: &Path, taken: &mut Taken) -> Result<(), TextsError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut stream = Stream { path, file, size, at: 0 };
    if stream.bytes(0, size.min(8))? == FILE_MAGIC {
        stream.at = FILE_MAGIC.len() as u64;
    }
    let mut column = None;
    while !taken.full() {
        interrupt::check()?;
        let Some(message) = stream.message()? else { break };
        match (message.about, &column) {
            (SCHEMA, None) => {
                let found = layout::column(&message.description());
                let found = found.map_err(|why| stream.broken(why))?;
                column =
                    Some(found.map_err(|columns| TextsError::NoColumn {
                        path: path.to_owned(),
                        columns,
                    })?);
            }
            (RECORDS, Some(column)) => {
                let batch = layout::batch(&message.description(), column);
                let batch = batch.map_err(|why| stream.broken(why))?;
                stream.rows(column, &batch, &message.body, taken)?;
            }
            // Words of columns that are of no interest.
            (DICTIONARY, Some(_)) => {}
            _ => return Err(stream.broken("its messages are in no order that can be")),
        }
    }
    if column.is_none() {
        return Err(stream.broken("it has no schema"));
    }
    Ok(())
}

struct Stream<'a> {
    path: &'a Path,
    file: File,
    size: u64,
    /// Where the next message begins.
    at: u64,
}

/// A message: what it is about, its description, and where its body lies in the file.
struct Message {
    about: u8,
    bytes: Vec<u8>,
    header: usize,
    body: Range,
}

impl Message {
    /// The table that describes what the message is about.
    fn description(&self) -> Flat<'_> {
        Flat::at(&self.bytes, self.header)
    }
}

impl Stream<'_> {
    fn broken(&self, reason: &str) -> TextsError {
        TextsError::Arrow { path: self.path.to_owned(), reason: reason.to_owned() }
    }

    /// Bytes of the file, of which the caller has bounded how many.
    fn bytes(&self, at: u64, count: u64) -> Result<Vec<u8>, TextsError> {
        if at.checked_add(count).is_none_or(|end| end > self.size) {
            return Err(self.broken("it is cut: a part should lie past its end"));
        }
        let mut bytes = vec![0; count as usize];
        self.file.read_exact_at(&mut bytes, at).map_err(FileError::io("read", self.path))?;
        Ok(bytes)
    }

    fn word(&self, at: u64) -> Result<u32, TextsError> {
        let bytes = self.bytes(at, 4)?;
        Ok(flat::u32_at(&bytes, 0).unwrap_or_default())
    }

    /// The next message; none at the end. A writer that was still open leaves no mark of the end.
    fn message(&mut self) -> Result<Option<Message>, TextsError> {
        if self.at == self.size {
            return Ok(None);
        }
        let mut at = self.at;
        let mut length = self.word(at)?;
        at += 4;
        if length == CONTINUATION {
            length = self.word(at)?;
            at += 4;
        }
        if length == 0 {
            return Ok(None);
        }
        let length = u64::from(length);
        if length > DESCRIPTION {
            return Err(self.broken("it is no stream of Arrow, or a message's length lies"));
        }
        let bytes = self.bytes(at, length)?;
        at += length;
        let malformed = || self.broken("a message is malformed");
        let root = Flat::root(&bytes).ok_or_else(malformed)?;
        let about = root.u8(1).ok_or_else(malformed)?;
        let header = root.table(2).ok_or_else(malformed)?.place();
        let count = u64::try_from(root.i64(3).unwrap_or(0)).map_err(|_| malformed())?;
        let body = Range { at, count };
        if at.checked_add(count).is_none_or(|end| end > self.size) {
            return Err(self.broken("it is cut within a batch of rows"));
        }
        self.at = at + count;
        Ok(Some(Message { about, bytes, header, body }))
    }

    /// Takes the texts of a batch.
    fn rows(
        &self,
        column: &Column,
        batch: &Batch,
        body: &Range,
        taken: &mut Taken,
    ) -> Result<(), TextsError> {
        let outside = || self.broken("a column lies outside of its batch");
        let within = |range: &Range| range.within(body).ok_or_else(outside);
        let valid = within(&batch.valid)?;
        let offsets = within(&batch.offsets)?;
        let data = within(&batch.data)?;
        let width = column.width.bytes();
        let mut first = 0;
        while first < batch.rows && !taken.full() {
            interrupt::check()?;
            let rows = ROWS.min(batch.rows - first);
            let offsets = offsets.part(first * width, (rows + 1) * width).ok_or_else(outside)?;
            let offsets = self.bytes(offsets.at, offsets.count)?;
            let bits = if batch.nulls && valid.count > 0 {
                let bits = valid.part(first / 8, rows.div_ceil(8)).ok_or_else(outside)?;
                self.bytes(bits.at, bits.count)?
            } else {
                vec![u8::MAX; rows.div_ceil(8) as usize]
            };
            for row in 0..rows as usize {
                if taken.full() {
                    break;
                }
                if bits[row / 8] >> (row % 8) & 1 == 0 {
                    continue;
                }
                let begin = offset(&offsets, column.width, row).ok_or_else(outside)?;
                let end = offset(&offsets, column.width, row + 1).ok_or_else(outside)?;
                let length = end.checked_sub(begin).ok_or_else(outside)?;
                let text = data.part(begin, length).ok_or_else(outside)?;
                let count = text.count.min(taken.share() as u64);
                let bytes = self.bytes(text.at, count)?;
                taken.put_bytes(&bytes, count == text.count).map_err(|byte| {
                    self.broken(&format!("a text is not UTF-8: its byte {byte} cannot be"))
                })?;
            }
            first += rows;
        }
        Ok(())
    }
}

/// An element of a piece of offsets; none if it is negative.
fn offset(bytes: &[u8], width: Width, index: usize) -> Option<u64> {
    let value = match width {
        Width::Four => i64::from(flat::u32_at(bytes, index * 4)? as i32),
        Width::Eight => flat::i64_at(bytes, index * 8)?,
    };
    u64::try_from(value).ok()
}
