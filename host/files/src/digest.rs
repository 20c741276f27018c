//! Hashes as lower-case hex. Files are read in chunks, never mapped: a map would count as our
//! memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{FileError, interrupt};

const CHUNK: usize = 8 << 20;

/// The SHA-256 of `bytes`, 64 hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The BLAKE3 of `bytes`, 64 hex digits.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The BLAKE3 of a file's content, 64 hex digits.
///
/// # Errors
/// What the file system says, or [`FileError::Interrupted`].
pub fn blake3_file(path: &Path) -> Result<String, FileError> {
    blake3_head(path, u64::MAX)
}

/// The BLAKE3 of a file's first `bytes`, or of all where it has no more, 64 hex digits.
///
/// # Errors
/// As [`blake3_file`].
pub fn blake3_head(path: &Path, bytes: u64) -> Result<String, FileError> {
    let mut left = bytes;
    let mut file = File::open(path).map_err(FileError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = Vec::new();
    while left > 0 {
        interrupt::check()?;
        let wanted = left.min(CHUNK as u64) as usize;
        chunk.resize(wanted, 0);
        let count = fill(&mut file, &mut chunk).map_err(FileError::io("read", path))?;
        hasher.update_rayon(&chunk[..count]);
        left = if count < wanted { 0 } else { left - count as u64 };
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Reads until `chunk` is full or the file ends; how many bytes it got.
fn fill(file: &mut File, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < chunk.len() {
        match file.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_digest_is_that_of_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for size in [0, 1, CHUNK, CHUNK + 1] {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(blake3_file(&path).unwrap(), blake3_hex(&bytes), "{size} bytes");
            for head in [0, 1, CHUNK] {
                let first = &bytes[..head.min(size)];
                assert_eq!(blake3_head(&path, head as u64).unwrap(), blake3_hex(first));
            }
        }
    }

    #[test]
    fn sha256_of_nothing_is_the_published_one() {
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), expected);
    }
}
