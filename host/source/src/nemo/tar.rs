//! The directory of a tar archive that is not compressed: where each file's bytes are.
//!
//! Nothing is unpacked, so that names lead nowhere. Old, POSIX and GNU headers are read, with long
//! names in either of their ways.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 512;
/// The most files of an archive, and the longest name.
const MOST_FILES: usize = 1 << 16;
const LONGEST_NAME: u64 = 1 << 16;

/// Whether a file begins as an archive does.
pub(super) fn is(file: &File) -> bool {
    let mut block = [0; BLOCK as usize];
    file.read_exact_at(&mut block, 0).is_ok() && is_header(&block)
}

/// Whether the sum that a header says of itself is right.
fn is_header(block: &[u8; BLOCK as usize]) -> bool {
    let said = octal(&block[148..156]);
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        .sum();
    said == Some(sum)
}

/// A number in octal digits, or in binary where its first bit is set.
fn octal(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (high, low) = field.split_last_chunk::<8>()?;
        let is_small =
            high.iter().enumerate().all(|(i, byte)| *byte == if i == 0 { 0x80 } else { 0 });
        return is_small.then(|| u64::from_be_bytes(*low));
    }
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(if text.is_empty() { "0" } else { text }, 8).ok()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Why there is no listing: what the file system says, or what is wrong.
pub(super) enum Failure {
    Io(io::Error),
    Broken(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

/// The files of an archive in order: name without a leading `./`, and where its bytes are.
pub(super) fn files(file: &File) -> Result<Vec<(String, Range<u64>)>, Failure> {
    let size = file.metadata()?.len();
    let (mut at, mut files) = (0, Vec::new());
    let (mut long, mut long_size) = (None, None);
    while size - at >= BLOCK {
        let mut block = [0; BLOCK as usize];
        file.read_exact_at(&mut block, at)?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        if !is_header(&block) {
            return Err(Failure::Broken("has a malformed header"));
        }
        let start = at + BLOCK;
        let kind = block[156];
        let own = octal(&block[124..136]).ok_or(Failure::Broken("has a file without a size"))?;
        let is_file = matches!(kind, 0 | b'0' | b'7');
        let length = if is_file { long_size.take().unwrap_or(own) } else { own };
        let end = start.checked_add(length).filter(|end| *end <= size);
        let end = end.ok_or(Failure::Broken("is cut short"))?;
        let content = || -> Result<Vec<u8>, Failure> {
            if length > LONGEST_NAME {
                return Err(Failure::Broken("has too long a name"));
            }
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        };
        match kind {
            b'L' => long = Some(text(&content()?)),
            b'x' => {
                for (key, value) in records(&content()?) {
                    match key.as_str() {
                        "path" => long = Some(value),
                        "size" => long_size = value.parse().ok(),
                        _ => {}
                    }
                }
            }
            _ => {
                let prefix = if &block[257..263] == b"ustar\0" {
                    text(&block[345..500])
                } else {
                    String::new()
                };
                let short = match prefix.is_empty() {
                    true => text(&block[..100]),
                    false => format!("{prefix}/{}", text(&block[..100])),
                };
                let name = long.take().unwrap_or(short);
                if is_file {
                    files.push((name.trim_start_matches("./").to_owned(), start..end));
                }
            }
        }
        if files.len() > MOST_FILES {
            return Err(Failure::Broken("has too many files"));
        }
        at = end.div_ceil(BLOCK).checked_mul(BLOCK).map_or(size, |next| next.min(size));
    }
    Ok(files)
}

/// The records `LENGTH KEY=VALUE\n` of a header of POSIX's.
fn records(bytes: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(bytes);
    let record = |line: &str| {
        let (_, pair) = line.split_once(' ')?;
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(record).collect()
}
