//! A file of plain text: one text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use engraft_files::FileError;

use crate::TextsError;
use crate::taken::Taken;

/// Reads the file's beginning, up to a text's share, without a byte order mark.
///
/// # Errors
/// What the file system says, and [`TextsError::NotUtf8`].
pub(crate) fn read(path: &Path, taken: &mut Taken) -> Result<(), TextsError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let mut bytes = Vec::new();
    // One byte more, to know whether that was all.
    file.take(taken.share() as u64 + MARK.len() as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::io("read", path))?;
    let marked = if bytes.starts_with(MARK) { MARK.len() } else { 0 };
    let text = &bytes[marked..];
    let whole = text.len() <= taken.share();
    let text = if whole { text } else { &text[..taken.share()] };
    taken
        .put_bytes(text, whole)
        .map_err(|byte| TextsError::NotUtf8 { path: path.to_owned(), byte: (byte + marked) as u64 })
}

/// The byte order mark of UTF-8, which some editors begin files with.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();
