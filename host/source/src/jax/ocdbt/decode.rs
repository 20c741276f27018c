//! Numbers, columns and wrappings of the OCDBT format.

use std::borrow::Cow;

use super::{DataFile, LIMIT};
use crate::jax::{JaxError, crc32c};
use crate::source::grid::store::unzstd;

/// What is inside of a manifest or a node: without header and checksum, unpacked.
pub(super) fn unwrapped<'a>(
    bytes: &'a [u8],
    magic: u32,
    of: &str,
) -> Result<Cow<'a, [u8]>, JaxError> {
    let wrong = |what: &str| Err(JaxError::Database { what: format!("{of}: {what}") });
    let Some((head, _)) = bytes.split_first_chunk::<12>() else {
        return wrong("it ends inside of its header");
    };
    let (first, length) = head.split_at(4);
    if first != magic.to_be_bytes() {
        return wrong("it does not begin as one");
    }
    if length != (bytes.len() as u64).to_le_bytes() {
        return wrong("it has another length than it says");
    }
    let Some(checked) = crc32c::checked(bytes) else {
        return wrong("its checksum is not that of its bytes");
    };
    match checked[12..] {
        [0, 0, ..] => Ok(Cow::Borrowed(&checked[14..])),
        [0, 1, ..] => match unzstd(&checked[14..], LIMIT) {
            Ok(body) => Ok(Cow::Owned(body)),
            Err(error) => wrong(&format!("it does not unpack: {error}")),
        },
        [0, method, ..] => {
            Err(JaxError::DatabaseKind { what: format!("{of} is packed by method {method}") })
        }
        [version, ..] => {
            Err(JaxError::DatabaseKind { what: format!("{of} is of version {version}") })
        }
        [] => wrong("it ends inside of its header"),
    }
}

/// Reads values one after another.
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
    of: &'static str,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(rest: &'a [u8], of: &'static str) -> Decoder<'a> {
        Decoder { rest, of }
    }

    pub(super) fn wrong(&self, what: &str) -> JaxError {
        JaxError::Database { what: format!("{}: {what}", self.of) }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], JaxError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.wrong("it ends early"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, JaxError> {
        Ok(self.bytes(1)?[0])
    }

    /// Seven bits a byte, the lowest first.
    pub(super) fn varint(&mut self) -> Result<u64, JaxError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 127);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number does not fit 64 bits"))
    }

    pub(super) fn varints(&mut self, count: usize) -> Result<Vec<u64>, JaxError> {
        (0..count).map(|_| self.varint()).collect()
    }

    /// How many things follow, of at least a byte each.
    pub(super) fn count(&mut self, what: &str) -> Result<usize, JaxError> {
        let count = self.varint()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() => Ok(count),
            _ => Err(self.wrong(&format!("it claims {count} {what}"))),
        }
    }

    /// Texts of which each begins as the one before it does.
    pub(super) fn prefixed(
        &mut self,
        prefixes: &[u64],
        suffixes: &[u64],
    ) -> Result<Vec<Vec<u8>>, JaxError> {
        let mut all: Vec<Vec<u8>> = Vec::with_capacity(suffixes.len());
        let mut total = 0;
        for (i, suffix) in suffixes.iter().enumerate() {
            let suffix = self.bytes(usize::try_from(*suffix).unwrap_or(usize::MAX))?;
            let shared = i.checked_sub(1).map_or(Some(&[][..]), |before| {
                all[before].get(..usize::try_from(prefixes[before]).ok()?)
            });
            let Some(shared) = shared else {
                return Err(self.wrong("a text shares more with the one before than that has"));
            };
            let text = [shared, suffix].concat();
            total += text.len() as u64;
            if total > LIMIT {
                return Err(self.wrong("its texts are too long"));
            }
            all.push(text);
        }
        Ok(all)
    }

    /// The table of data files of a node that is in one with paths below `base`.
    pub(super) fn data_files(&mut self, base: &[u8]) -> Result<Vec<DataFile>, JaxError> {
        let count = self.count("data files")?;
        let prefixes = self.varints(count.saturating_sub(1))?;
        let suffixes = self.varints(count)?;
        let bases = self.varints(count)?;
        let paths = self.prefixed(&prefixes, &suffixes)?;
        let mut files = Vec::with_capacity(count);
        for (path, length) in paths.iter().zip(bases) {
            let Some(own) = usize::try_from(length).ok().and_then(|end| path.get(..end)) else {
                return Err(self.wrong("a base path is longer than the path"));
            };
            files.push(DataFile { base: [base, own].concat(), path: [base, path].concat() });
        }
        Ok(files)
    }

    pub(super) fn data_file(&self, files: &[DataFile], number: u64) -> Result<DataFile, JaxError> {
        let found = usize::try_from(number).ok().and_then(|number| files.get(number));
        found.cloned().ok_or_else(|| self.wrong("it names a data file that it does not list"))
    }
}
