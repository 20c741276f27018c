//! Reading every byte of an engine and comparing it with what was written.

use crate::error::EngineError;
use crate::format;
use crate::read::Engine;
use engraft_files::{FileError, interrupt};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes hashed between two looks at the interrupt flag.
const CHUNK: usize = 4 << 20;

/// What was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Tensors, those that fill holes among them.
    pub tensors: usize,
    /// Text files.
    pub files: usize,
    /// Bytes of the engine file.
    pub bytes: u64,
}

impl Engine {
    /// Compares every tensor and every text file with its digest, and the filling of holes with
    /// zero. The header was compared when the engine was opened, so each byte of the file has
    /// been looked at. `progress` is called with bytes done and bytes in all, from any thread.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] with the names of all that differ, text files and tensors that
    /// have no digest among them.
    pub fn verify(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified, EngineError> {
        self.prefetch();
        let done = AtomicU64::new(self.header.data_start);
        let entries: Vec<_> = self.header.tensors.iter().collect();
        let mut names = entries
            .par_iter()
            .map(|(name, entry)| {
                // Both fit: they were checked against the length of the file.
                let bytes = &self.map[entry.start as usize..entry.end as usize];
                let mut hasher = blake3::Hasher::new();
                let mut zero = true;
                for chunk in bytes.chunks(CHUNK) {
                    interrupt::check()?;
                    hasher.update(chunk);
                    zero = zero && chunk.iter().all(|b| *b == 0);
                    let length = chunk.len() as u64;
                    progress(done.fetch_add(length, Ordering::Relaxed) + length, self.bytes());
                }
                let whole = match name.starts_with(format::PADDING) {
                    true => zero,
                    false => {
                        self.digests.get(*name) == Some(&hasher.finalize().to_hex().to_string())
                    }
                };
                Ok((!whole).then(|| (*name).clone()))
            })
            .filter_map(Result::transpose)
            .collect::<Result<Vec<String>, FileError>>()?;
        for (name, digest) in &self.files {
            let bytes = self.text_file(name)?;
            let found = bytes.map(|b| blake3::hash(&b).to_hex().to_string());
            if found.as_ref() != Some(digest) {
                names.push(name.clone());
            }
        }
        if !names.is_empty() {
            return Err(EngineError::Damaged { path: self.path.clone(), names });
        }
        Ok(Verified { tensors: entries.len(), files: self.files.len(), bytes: self.bytes() })
    }
}
