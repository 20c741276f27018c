//! The directory of a zip archive whose entries are stored as they are.
//!
//! PyTorch's archives are plain: one disk, nothing compressed, nothing encrypted, sizes beyond 4 GiB
//! in the fields of ZIP64. Whatever else there is, is turned away. The directory is believed where it
//! says names and sizes; the entry's own header is asked only where its bytes begin. All entries lie
//! inside the archive, before its directory, and share no byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use engraft_diagnostic::escape;

use super::TorchError;

/// The longest directory, in bytes: a hundred thousand storages have a tenth.
const LONGEST: u64 = 64 << 20;
/// The bytes of a directory's end, and of what follows it: a comment.
const END: usize = 22;
const COMMENT: u64 = 1 << 16;

/// Why there is no directory.
pub(super) enum Failure {
    Io(io::Error),
    Fault(TorchError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<TorchError> for Failure {
    fn from(fault: TorchError) -> Failure {
        Failure::Fault(fault)
    }
}

pub(super) fn broken(what: impl Into<String>) -> Failure {
    Failure::Fault(TorchError::Archive(what.into()))
}

/// The bytes of a stretch of a file, of which there may be `limit` at most.
pub(super) fn content(file: &File, place: &Range<u64>, limit: u64) -> Result<Vec<u8>, Failure> {
    if place.end - place.start > limit {
        let what = "the length of what should be small, in bytes,";
        return Err(TorchError::TooMuch { what, limit }.into());
    }
    let mut bytes = vec![0; (place.end - place.start) as usize];
    file.read_exact_at(&mut bytes, place.start)?;
    Ok(bytes)
}

/// Little-endian numbers, read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(cut)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn number(&mut self, width: usize) -> Result<u64, Failure> {
        let bytes = self.bytes(width)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

fn cut() -> Failure {
    broken("has a directory that is cut short")
}

/// Where the directory is, and how many entries it has.
struct Directory {
    start: u64,
    length: u64,
    count: u64,
}

/// The entries of the archive in `range` of a file: where their bytes are in the file, by name.
pub(super) fn entries(
    file: &File,
    range: &Range<u64>,
) -> Result<BTreeMap<String, Range<u64>>, Failure> {
    let size = range.end - range.start;
    let directory = find(file, range)?;
    let end = directory.start.checked_add(directory.length).filter(|end| *end <= size);
    let end = end.ok_or_else(cut)?;
    let place = range.start + directory.start..range.start + end;
    let bytes = content(file, &place, LONGEST)?;
    let mut fields = Fields(&bytes);
    let (mut entries, mut spans) = (BTreeMap::new(), Vec::new());
    for _ in 0..directory.count {
        let (name, header, length) = entry(&mut fields)?;
        let shown = escape(&name);
        let start = data(file, range, header, directory.start, &shown)?;
        let end = start.checked_add(length).filter(|end| *end <= directory.start);
        let Some(end) = end else {
            return Err(broken(format!("has the entry `{shown}`, which ends past the end")));
        };
        spans.push((header, end, shown.clone()));
        if entries.insert(name, range.start + start..range.start + end).is_some() {
            return Err(broken(format!("has the entry `{shown}` twice")));
        }
    }
    spans.sort();
    if let Some(pair) = spans.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        let (first, second) = (&pair[0].2, &pair[1].2);
        return Err(broken(format!("has the entries `{first}` and `{second}` in one place")));
    }
    Ok(entries)
}

/// Finds the directory by the record at the archive's end.
fn find(file: &File, range: &Range<u64>) -> Result<Directory, Failure> {
    let size = range.end - range.start;
    let tail_start = size.saturating_sub(END as u64 + COMMENT);
    let tail = content(file, &(range.start + tail_start..range.end), END as u64 + COMMENT)?;
    let is_end = |at: &usize| {
        // The comment has to end where the archive does.
        tail[*at..].starts_with(b"PK\x05\x06")
            && usize::from(tail[at + 20]) + 256 * usize::from(tail[at + 21])
                == tail.len() - at - END
    };
    let at = (0..(tail.len() + 1).saturating_sub(END)).rev().find(is_end);
    let at = at.ok_or_else(|| broken("has no directory"))?;
    let mut fields = Fields(&tail[at + 4..]);
    let [disk, first_disk] = [fields.number(2)?, fields.number(2)?];
    let _here = fields.number(2)?;
    let (count, length, start) = (fields.number(2)?, fields.number(4)?, fields.number(4)?);
    if (disk, first_disk) != (0, 0) && (disk, first_disk) != (0xffff, 0xffff) {
        return Err(broken("is one of several"));
    }
    if count != 0xffff && length != 0xffff_ffff && start != 0xffff_ffff {
        return Ok(Directory { start, length, count });
    }
    let wide = || broken("has no directory of large files");
    let locator = (tail_start + at as u64).checked_sub(20).ok_or_else(wide)?;
    let locator = content(file, &(range.start + locator..range.start + locator + 20), 20)?;
    let mut fields = Fields(&locator);
    if fields.bytes(4)? != b"PK\x06\x07" {
        return Err(wide());
    }
    let (_disk, record) = (fields.number(4)?, fields.number(8)?);
    let end = record.checked_add(56).filter(|end| *end <= size).ok_or_else(wide)?;
    let record = content(file, &(range.start + record..range.start + end), 56)?;
    let mut fields = Fields(&record);
    if fields.bytes(4)? != b"PK\x06\x06" {
        return Err(wide());
    }
    fields.bytes(28)?;
    let (count, length, start) = (fields.number(8)?, fields.number(8)?, fields.number(8)?);
    Ok(Directory { start, length, count })
}

/// One entry of the directory: its name, where its header is, its length.
fn entry(fields: &mut Fields) -> Result<(String, u64, u64), Failure> {
    if fields.bytes(4)? != b"PK\x01\x02" {
        return Err(broken("has a malformed directory"));
    }
    fields.bytes(4)?;
    let (flags, method) = (fields.number(2)?, fields.number(2)?);
    fields.bytes(8)?;
    let (mut packed, mut length) = (fields.number(4)?, fields.number(4)?);
    let [name, extra, comment] =
        [fields.number(2)?, fields.number(2)?, fields.number(2)?].map(|length| length as usize);
    fields.bytes(8)?;
    let mut header = fields.number(4)?;
    let name = str::from_utf8(fields.bytes(name)?);
    let name = name.map_err(|_| broken("has an entry whose name is not UTF-8"))?.to_owned();
    let mut extras = Fields(fields.bytes(extra)?);
    fields.bytes(comment)?;
    let shown = escape(&name);
    while extras.0.len() >= 4 {
        let (kind, length_of) = (extras.number(2)?, extras.number(2)? as usize);
        let mut field = Fields(extras.bytes(length_of)?);
        if kind == 1 {
            // What does not fit its usual field, in this order.
            for number in [&mut length, &mut packed, &mut header] {
                if *number == 0xffff_ffff {
                    *number = field.number(8)?;
                }
            }
        }
    }
    if flags & 1 != 0 {
        return Err(broken(format!("has the encrypted entry `{shown}`")));
    }
    if method != 0 || packed != length {
        let why = "PyTorch stores entries as they are";
        return Err(broken(format!("has the compressed entry `{shown}`; {why}")));
    }
    Ok((name, header, length))
}

/// Where the bytes of an entry begin, by the header before them.
fn data(
    file: &File,
    range: &Range<u64>,
    header: u64,
    directory: u64,
    shown: &str,
) -> Result<u64, Failure> {
    const HEADER: u64 = 30;
    let wrong = || broken(format!("has the entry `{shown}`, which is not where it should be"));
    let start = header.checked_add(HEADER).filter(|end| *end <= directory).ok_or_else(wrong)?;
    let bytes = content(file, &(range.start + header..range.start + start), HEADER)?;
    let mut fields = Fields(&bytes);
    if fields.bytes(4)? != b"PK\x03\x04" {
        return Err(wrong());
    }
    fields.bytes(22)?;
    Ok(start + fields.number(2)? + fields.number(2)?)
}
