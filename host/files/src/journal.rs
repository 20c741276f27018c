//! What an interrupted run has done already, so that the next need not do it again.
//!
//! A file `.journal` in the directory of an output in the making: a line of JSON with the
//! fingerprint of all that decides about the bytes, then a line a finished tensor,
//! `[file, tensor, digest]`. Lines are added only after what they speak of is durable, some
//! tensors at a time; the last line may be cut short, and then does not count. Whoever resumes
//! reads the bytes again and compares digests, so the worst that a wrong line does is work.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::{FileError, SafetensorsWriter, read};

/// The name of the journal in its directory.
pub const JOURNAL: &str = ".journal";

/// What was in the directory when the journal was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No earlier run's work.
    Nothing,
    /// That of a run which was about something else. It is gone now.
    Other,
    /// So many finished tensors of the same run.
    Tensors(usize),
}

/// The journal of an output in the making. Tensors are noted by several threads.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    found: Found,
    /// Digests by file name and tensor.
    done: BTreeMap<(String, String), String>,
    /// Lines are added once so many bytes are finished.
    batch: u64,
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    /// Bytes of the tensors that are finished, and not yet noted: file name, tensor, digest.
    pending: Vec<[String; 3]>,
    bytes: u64,
}

impl Journal {
    /// Opens the journal of `directory`, which is one that only we write to. What a run with
    /// another fingerprint left there, or one that left no journal, is removed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(directory: &Path, fingerprint: &str, batch: u64) -> Result<Journal, FileError> {
        let path = directory.join(JOURNAL);
        let text = match read::whole(&path, read::TEXT_LIMIT) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                None
            }
            Err(error) => return Err(error),
        };
        // What stands behind the last line end was never finished.
        let whole = text.as_deref().and_then(|text| text.rsplit_once('\n')).map(|(whole, _)| whole);
        let first = json!({ "engraft": env!("CARGO_PKG_VERSION"), "fingerprint": fingerprint });
        let first = first.to_string();
        let mut lines = whole.unwrap_or_default().split('\n');
        let (found, done) = if lines.next() == Some(first.as_str()) {
            let done: BTreeMap<_, _> = lines
                .filter_map(|line| serde_json::from_str::<[String; 3]>(line).ok())
                .map(|[file, tensor, digest]| ((file, tensor), digest))
                .collect();
            (Found::Tensors(done.len()), done)
        } else {
            clear(directory)?;
            let found = if text.is_some() { Found::Other } else { Found::Nothing };
            (found, BTreeMap::new())
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).append(true);
        let file = options.open(&path).map_err(FileError::io("create", &path))?;
        let kept = whole.filter(|_| matches!(found, Found::Tensors(_))).map_or(0, |w| w.len() + 1);
        file.set_len(kept as u64).map_err(FileError::io("write", &path))?;
        let log = Mutex::new(Log { file, pending: Vec::new(), bytes: 0 });
        let journal = Journal { path, found, done, batch, log };
        if kept == 0 {
            journal.append(&format!("{first}\n"))?;
        }
        Ok(journal)
    }

    /// What was there.
    pub fn found(&self) -> Found {
        self.found
    }

    /// The digest of a tensor that an earlier run finished; its bytes may have changed since.
    pub fn done(&self, file: &SafetensorsWriter, tensor: &str) -> Option<&str> {
        let digest = self.done.get(&(name(file.path()), tensor.to_owned()));
        digest.map(String::as_str)
    }

    /// Notes tensors of any of `files` that are finished, by number of file and name; `bytes`
    /// long together. Now and then makes all that is noted durable.
    ///
    /// # Errors
    /// What the file system says.
    pub fn note<'a>(
        &self,
        files: &[SafetensorsWriter],
        tensors: impl Iterator<Item = (usize, &'a str)>,
        bytes: u64,
    ) -> Result<(), FileError> {
        let pending = {
            let mut log = self.lock();
            for (number, tensor) in tensors {
                let file = &files[number];
                let digest = file.digest(tensor).unwrap_or_default();
                log.pending.push([name(file.path()), tensor.to_owned(), digest]);
            }
            log.bytes = log.bytes.saturating_add(bytes);
            if log.bytes < self.batch {
                return Ok(());
            }
            log.bytes = 0;
            std::mem::take(&mut log.pending)
        };
        self.settle(files, &pending)
    }

    /// Makes all that was noted durable.
    ///
    /// # Errors
    /// What the file system says.
    pub fn flush(&self, files: &[SafetensorsWriter]) -> Result<(), FileError> {
        let pending = std::mem::take(&mut self.lock().pending);
        self.settle(files, &pending)
    }

    /// Tensors first, then the lines that speak of them.
    fn settle(
        &self,
        files: &[SafetensorsWriter],
        pending: &[[String; 3]],
    ) -> Result<(), FileError> {
        for file in files {
            let own = name(file.path());
            if pending.iter().any(|[name, ..]| *name == own) {
                file.sync()?;
            }
        }
        let lines: String = pending.iter().map(|line| format!("{}\n", json!(line))).collect();
        self.append(&lines)
    }

    fn append(&self, lines: &str) -> Result<(), FileError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut log = self.lock();
        log.file
            .write_all(lines.as_bytes())
            .and_then(|()| log.file.sync_data())
            .map_err(FileError::io("write", &self.path))
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Removes the files of a directory; folders in it are somebody else's work, who knows what of it
/// is good.
pub(crate) fn clear(directory: &Path) -> Result<(), FileError> {
    let listing = fs::read_dir(directory).map_err(FileError::io("list", directory))?;
    for entry in listing {
        let path = entry.map_err(FileError::io("list", directory))?.path();
        if path.is_dir() {
            continue;
        }
        fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_ir::DType;

    /// Opens the journal and one file with four tensors of a byte.
    fn open(directory: &Path, fingerprint: &str) -> (Journal, [SafetensorsWriter; 1]) {
        let journal = Journal::open(directory, fingerprint, 2).unwrap();
        let tensors = ["a", "b", "c", "d"].map(|name| (name.to_owned(), DType::U8, vec![1]));
        let path = directory.join("rank0.safetensors");
        let file = SafetensorsWriter::reopen(&path, BTreeMap::new(), tensors.into(), 1).unwrap();
        (journal, [file])
    }

    fn finish(journal: &Journal, files: &[SafetensorsWriter], tensor: &str) {
        files[0].put(tensor, &[7]).unwrap();
        journal.note(files, std::iter::once((0, tensor)), 1).unwrap();
    }

    #[test]
    fn what_is_noted_is_found_again_by_the_same_run_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, files) = open(directory.path(), "one");
        assert_eq!(journal.found(), Found::Nothing);
        for tensor in ["a", "b", "c"] {
            finish(&journal, &files, tensor);
        }
        drop((journal, files));
        // Two make a batch; the third was not durable yet.
        let (journal, files) = open(directory.path(), "one");
        assert_eq!(journal.found(), Found::Tensors(2));
        let digest = journal.done(&files[0], "b").unwrap();
        assert!(files[0].keep("b", digest).unwrap());
        assert_eq!(journal.done(&files[0], "c"), None);
        finish(&journal, &files, "c");
        journal.flush(&files).unwrap();
        drop((journal, files));
        assert_eq!(open(directory.path(), "one").0.found(), Found::Tensors(3));
        assert_eq!(open(directory.path(), "two").0.found(), Found::Other);
        assert_eq!(open(directory.path(), "two").0.found(), Found::Tensors(0));
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, files) = open(directory.path(), "one");
        for tensor in ["a", "b", "c", "d"] {
            finish(&journal, &files, tensor);
        }
        drop((journal, files));
        let path = directory.path().join(JOURNAL);
        let text = fs::read(&path).unwrap();
        for cut in 0..text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            let lines = text[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (journal, files) = open(directory.path(), "one");
            let expected = match lines {
                0 => Found::Other,
                lines => Found::Tensors(lines - 1),
            };
            assert_eq!(journal.found(), expected, "{cut}");
            finish(&journal, &files, "d");
            journal.flush(&files).unwrap();
            drop((journal, files));
            let (journal, files) = open(directory.path(), "one");
            assert!(journal.done(&files[0], "d").is_some(), "{cut}");
        }
    }

    #[test]
    fn what_has_no_journal_is_nobodys_work() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("rank0.safetensors"), "half").unwrap();
        let journal = Journal::open(directory.path(), "one", 1).unwrap();
        assert_eq!(journal.found(), Found::Nothing);
        assert!(!directory.path().join("rank0.safetensors").exists());
    }
}
