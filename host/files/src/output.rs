//! Directories that appear under their final name whole, or not at all.
//!
//! All is written into a hidden sibling, `.NAME.partial`, which is on the same file system, so
//! that one rename makes it the output, and which is locked, so that no two processes share it. An
//! output that is given up is removed by its destructor; one that may be resumed stays where a
//! person interrupted it, or where the process was killed, and its [`crate::Journal`] says what of
//! it is done. Where the final path is a mount point, nothing can be renamed onto it; then the
//! hidden directory is inside of it, and its files are moved up at the end, the `config.json` that
//! makes a directory usable last.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::journal::{JOURNAL, clear};
use crate::{FileError, interrupt};

/// The file without which a directory is no checkpoint, engine or model.
const KEY_FILE: &str = "config.json";

/// A directory in the making.
#[derive(Debug)]
pub struct OutputDir {
    target: PathBuf,
    partial: PathBuf,
    /// Whether the target may be replaced.
    force: bool,
    /// Whether the target is a mount point.
    mounted: bool,
    /// Whether an interrupted output stays, to be resumed.
    resumable: bool,
    committed: bool,
    /// The hidden directory, locked as long as this is open.
    _lock: fs::File,
}

impl OutputDir {
    /// Begins the output that is to stand at `target`. Parents are made; `force` allows to
    /// replace what an earlier run left there.
    ///
    /// # Errors
    /// Before any work: [`FileError::NotEmpty`], [`FileError::NotADirectory`] for a file,
    /// [`FileError::NotOurs`] for a directory that no run of ours made, [`FileError::NoName`],
    /// [`FileError::Busy`], and what the file system says where it cannot be written.
    pub fn create(target: &Path, force: bool) -> Result<OutputDir, FileError> {
        let output = OutputDir::open(target, force)?;
        clear(&output.partial)?;
        Ok(output)
    }

    /// The same, but what an interrupted run left is still there, unless by `force`: for whoever
    /// writes with a [`crate::Journal`], which tells what of it is good.
    ///
    /// # Errors
    /// As [`OutputDir::create`].
    pub fn resume(target: &Path, force: bool) -> Result<OutputDir, FileError> {
        let mut output = OutputDir::open(target, force)?;
        output.resumable = true;
        if force {
            clear(&output.partial)?;
        }
        Ok(output)
    }

    fn open(target: &Path, force: bool) -> Result<OutputDir, FileError> {
        let target = resolve(target)?;
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(FileError::NoName { path: target });
        };
        let mut mounted = false;
        if let Some(found) = metadata(&target)? {
            if !found.is_dir() {
                return Err(FileError::NotADirectory { path: target });
            }
            mounted = metadata(parent)?.is_some_and(|parent| parent.dev() != found.dev());
        } else {
            fs::create_dir_all(parent).map_err(FileError::io("create", parent))?;
        }
        let place = if mounted { &target } else { parent };
        let partial = place.join(format!(".{}.partial", name.to_string_lossy()));
        if target.exists() {
            may_replace(&target, force, &partial)?;
        }
        let lock = locked(&partial, &target)?;
        let (resumable, committed) = (false, false);
        Ok(OutputDir { target, partial, force, mounted, resumable, committed, _lock: lock })
    }

    /// The directory to write into until it is committed.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Removes what an earlier run left: for whoever writes without a journal.
    ///
    /// # Errors
    /// What the file system says.
    pub fn clear(&self) -> Result<(), FileError> {
        clear(&self.partial)
    }

    /// The path at which the output will stand.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes all that was written durable, and gives it its final name.
    ///
    /// # Errors
    /// What the file system says, or [`FileError::NotEmpty`] when someone else was faster.
    pub fn commit(mut self) -> Result<(), FileError> {
        let journal = self.partial.join(JOURNAL);
        match fs::remove_file(&journal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::io("remove", &journal)(error));
            }
            _ => {}
        }
        for entry in entries(&self.partial)? {
            sync(&entry)?;
        }
        sync(&self.partial)?;
        if metadata(&self.target)?.is_some() {
            may_replace(&self.target, self.force, &self.partial)?;
        }
        if self.mounted {
            self.move_up()?;
        } else {
            self.swap()?;
        }
        self.committed = true;
        sync(self.target.parent().unwrap_or(&self.target))
    }

    /// Renames the hidden directory to the target, and removes what stood there before.
    fn swap(&self) -> Result<(), FileError> {
        let (partial, target) = (&self.partial, &self.target);
        if self.force && metadata(target)?.is_some() {
            // In one step, where the file system can.
            if renameat_with(CWD, partial, CWD, target, RenameFlags::EXCHANGE).is_ok() {
                // What is now under the hidden name is the old output.
                return fs::remove_dir_all(partial).map_err(FileError::io("remove", partial));
            }
            fs::remove_dir_all(target).map_err(FileError::io("remove", target))?;
        }
        // Replaces an empty directory; fails on any other.
        fs::rename(partial, target).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => FileError::NotEmpty { path: target.clone() },
            _ => FileError::io("create", target)(error),
        })
    }

    /// Moves the files into the directory around them, after what stood there is gone.
    fn move_up(&self) -> Result<(), FileError> {
        let is_key = |path: &PathBuf| path.file_name().is_some_and(|name| name == KEY_FILE);
        let mut old = entries(&self.target)?;
        old.retain(|path| *path != self.partial);
        old.sort_by_key(|path| !is_key(path));
        for path in old {
            fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
        }
        let mut new = entries(&self.partial)?;
        new.sort_by_key(is_key);
        for path in new {
            let target = self.target.join(path.file_name().unwrap_or_default());
            fs::rename(&path, &target).map_err(FileError::io("create", &target))?;
        }
        sync(&self.target)?;
        fs::remove_dir(&self.partial).map_err(FileError::io("remove", &self.partial))
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        // A journal, or a folder of whoever worked before there was one.
        let is_work = |path: &PathBuf| path.is_dir() || path.ends_with(JOURNAL);
        let has_work = || entries(&self.partial).is_ok_and(|all| all.iter().any(is_work));
        let kept = self.resumable && interrupt::requested() && has_work();
        if !self.committed && !kept {
            // Nobody is left to tell; what remains is hidden and carries our name.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// The path with its links followed as far as it exists, and without `.` and `..`.
fn resolve(path: &Path) -> Result<PathBuf, FileError> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link to nothing: no directory can be made under its name.
            if path.is_symlink() {
                return Err(FileError::NotADirectory { path: path.to_owned() });
            }
            let Some(name) = path.file_name() else {
                return Err(FileError::NoName { path: path.to_owned() });
            };
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => resolve(parent)?,
                _ => std::env::current_dir().map_err(FileError::io("use", Path::new(".")))?,
            };
            Ok(parent.join(name))
        }
        Err(error) => Err(FileError::io("use", path)(error)),
    }
}

/// What is at `path`, or `None`.
fn metadata(path: &Path) -> Result<Option<fs::Metadata>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::io("use", path)(error)),
    }
}

/// The paths of all that is in a directory, sorted.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .and_then(|listing| listing.map(|entry| entry.map(|e| e.path())).collect())
        .map_err(FileError::io("list", directory))?;
    paths.sort();
    Ok(paths)
}

/// Whether the directory `target` may give way, not counting `ours` in it. We write files and
/// no directories, one of them with a rank's weights; a directory that is otherwise is someone's
/// project, home or model, and `--force` was a slip.
fn may_replace(target: &Path, force: bool, ours: &Path) -> Result<(), FileError> {
    let not_ours = |reason| FileError::NotOurs { path: target.to_owned(), reason };
    let mut found = entries(target)?;
    found.retain(|path| path != ours);
    if found.is_empty() {
        return Ok(());
    }
    if !force {
        return Err(FileError::NotEmpty { path: target.to_owned() });
    }
    let mut ranks = false;
    for path in found {
        let kind = fs::symlink_metadata(&path).map_err(FileError::io("use", &path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind.is_dir() {
            return Err(not_ours(format!("holds the directory `{name}`")));
        }
        ranks |= is_rank(&name);
    }
    if ranks { Ok(()) } else { Err(not_ours("holds no rank0.engine or rank0.safetensors".into())) }
}

/// Whether a file's name is that of a rank's part of an engine or a checkpoint.
fn is_rank(name: &str) -> bool {
    let stem = name.strip_suffix(".engine").or_else(|| name.strip_suffix(".safetensors"));
    let digits = stem.and_then(|stem| stem.strip_prefix("rank"));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// The hidden directory, made if need be, and locked. Where the file system has no locks, two
/// processes are not kept apart.
fn locked(partial: &Path, target: &Path) -> Result<fs::File, FileError> {
    loop {
        match fs::create_dir(partial) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let place = partial.parent().unwrap_or(partial);
                return Err(FileError::io("write into", place)(error));
            }
            _ => {}
        }
        let lock = match fs::File::open(partial) {
            Ok(lock) => lock,
            // Another process finished between the two.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io("use", partial)(error)),
        };
        // A file system without locks has none to hold.
        if let Err(rustix::io::Errno::WOULDBLOCK) =
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
        {
            return Err(FileError::Busy { path: target.to_owned() });
        }
        // The name may stand for another directory by now.
        let ours = lock.metadata().map_err(FileError::io("use", partial))?;
        if metadata(partial)?.is_some_and(|found| found.ino() == ours.ino()) {
            return Ok(lock);
        }
    }
}

/// Makes a file or a directory durable.
fn sync(path: &Path) -> Result<(), FileError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(FileError::io("write", path))
}

#[cfg(test)]
mod tests;
