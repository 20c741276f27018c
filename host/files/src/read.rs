//! Small files, read whole, but only up to a bound: a config of ten gigabytes is no config.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::FileError;

/// A bound that suits a config or a tokenizer, in bytes.
pub const TEXT_LIMIT: u64 = 256 << 20;

/// The content of the file at `path`, which may have `limit` bytes at most.
///
/// # Errors
/// What the file system says, or [`FileError::TooLarge`].
pub fn whole(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file which grows is noticed.
    let count = file
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(FileError::io("read", path))?;
    if count as u64 > limit {
        let size = size.max(count as u64);
        return Err(FileError::TooLarge { path: path.to_owned(), size, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_above_the_bound_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(whole(&path, 5).unwrap(), b"12345");
        assert!(matches!(whole(&path, 4), Err(FileError::TooLarge { size: 5, limit: 4, .. })));
    }
}
