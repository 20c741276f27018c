//! Single files that appear under their final name whole, or not at all.

use crate::FileError;
use std::fs;
use std::path::{Path, PathBuf};

/// A file in the making, beside its final path.
#[derive(Debug)]
pub struct OutputFile {
    target: PathBuf,
    partial: PathBuf,
}

impl OutputFile {
    /// Begins the file that is to stand at `target`; `force` allows to replace one that does.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::NoName`], and what the file system says where the
    /// folder cannot be made.
    pub fn create(target: &Path, force: bool) -> Result<OutputFile, FileError> {
        let Some(name) = target.file_name() else {
            return Err(FileError::NoName { path: target.to_owned() });
        };
        if !force && fs::symlink_metadata(target).is_ok() {
            return Err(FileError::Exists { path: target.to_owned() });
        }
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(FileError::io("create", folder))?;
        let partial = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        Ok(OutputFile { target: target.to_owned(), partial: folder.join(partial) })
    }

    /// The path to write to until it is committed.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives what was written its final name.
    ///
    /// # Errors
    /// What the file system says.
    pub fn commit(self) -> Result<(), FileError> {
        fs::rename(&self.partial, &self.target).map_err(FileError::io("create", &self.target))
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // After a commit it is not there any more.
        let _ = fs::remove_file(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new/logits");
        let file = OutputFile::create(&target, false).unwrap();
        fs::write(file.path(), "half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 0);

        let file = OutputFile::create(&target, false).unwrap();
        fs::write(file.path(), "whole").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
        assert!(matches!(OutputFile::create(&target, false), Err(FileError::Exists { .. })));
        OutputFile::create(&target, true).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "whole");
    }
}
