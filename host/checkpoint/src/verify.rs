//! Reading every byte of a checkpoint and comparing it with what was written.

use crate::{CONFIG_FILE, CheckpointError, Reader};
use engraft_diagnostic::escape;
use engraft_files::{FileError, TensorEntry, digest};
use engraft_weights::Listing;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// What of one rank's file was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// Its tensors.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Reader {
    /// The BLAKE3 digests (hex) that were noted when it was written, by tensor, a map a rank;
    /// nothing of a checkpoint that another tool wrote.
    pub fn digests(&self) -> &[BTreeMap<String, String>] {
        self.record().map_or(&[], |record| &record.ranks)
    }

    /// Keys of config.json, and files besides the weights, that are not as they were written.
    fn changed_texts(&self) -> Vec<String> {
        let Some(record) = self.record() else { return Vec::new() };
        let now = self.config().to_json();
        let keys = |config: &Value| -> BTreeSet<String> {
            config.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect()
        };
        let mut changed = Vec::new();
        let written = record.config.as_ref().unwrap_or(&now);
        for key in keys(written).union(&keys(&now)) {
            let show = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
            let (was, is) = (written.get(key), now.get(key));
            if was != is {
                changed.push(escape(&format!(
                    "`{CONFIG_FILE}`: `{key}` is {}, and was {}",
                    show(is),
                    show(was)
                )));
            }
        }
        for (name, noted) in &record.files {
            match self.text_files().get(name) {
                Some(bytes) if digest::blake3_hex(bytes) == *noted => {}
                Some(_) => changed.push(format!("`{}`", escape(name))),
                None => changed.push(format!("`{}` is gone", escape(name))),
            }
        }
        changed
    }

    /// Computes the digest of every tensor again, on all cores; what there was, by rank.
    /// `progress` is called with bytes done and bytes in all, from any thread.
    ///
    /// # Errors
    /// All tensors that changed, were added or are gone since the checkpoint was written, in one
    /// error; a checkpoint without digests.
    pub fn verify(
        &self,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Vec<Verified>, CheckpointError> {
        let files = self.files();
        if self.record().is_none() {
            return Err(CheckpointError::NoDigests { path: files.directory.clone() });
        }
        let tensors: Vec<(usize, &String, &TensorEntry)> = files
            .ranks
            .iter()
            .enumerate()
            .flat_map(|(rank, file)| file.tensors.iter().map(move |(n, entry)| (rank, n, entry)))
            .collect();
        let total = tensors.iter().map(|(_, _, entry)| entry.end - entry.start).sum();
        let done = AtomicU64::new(0);
        // One piece a thread is in memory.
        let piece = (files.piece / rayon::current_num_threads().max(1)).max(1 << 16);
        let digests: Vec<String> = tensors
            .par_iter()
            .map(|(rank, _, entry)| {
                let mut hasher = blake3::Hasher::new();
                files.ranks[*rank].pieces(entry, piece, |_, bytes| {
                    hasher.update(bytes);
                    let length = bytes.len() as u64;
                    progress(done.fetch_add(length, Ordering::Relaxed) + length, total);
                    Ok::<(), FileError>(())
                })?;
                Ok(hasher.finalize().to_hex().to_string())
            })
            .collect::<Result<_, FileError>>()?;
        let mut changed = self.changed_texts();
        let none = BTreeMap::new();
        for ((rank, name, _), digest) in tensors.iter().zip(&digests) {
            let at = files.at(*rank);
            match self.digests().get(*rank).unwrap_or(&none).get(*name) {
                Some(noted) if noted == digest => {}
                Some(_) => changed.push(format!("{at}`{name}`")),
                None => changed.push(format!("{at}`{name}` was added")),
            }
        }
        for (rank, noted) in self.digests().iter().enumerate() {
            let gone = |name: &&String| {
                files.ranks.get(rank).is_none_or(|file| !file.tensors.contains_key(*name))
            };
            let at = files.at(rank);
            changed.extend(noted.keys().filter(gone).map(|n| format!("{at}`{n}` is gone")));
        }
        if !changed.is_empty() {
            return Err(CheckpointError::Changed {
                path: files.place(),
                tensors: Listing(changed),
            });
        }
        Ok(files
            .ranks
            .iter()
            .map(|file| Verified {
                path: file.path.clone(),
                tensors: file.tensors.len(),
                bytes: file.tensors.values().map(|entry| entry.end - entry.start).sum(),
            })
            .collect())
    }
}
