//! The cache: what was downloaded or derived from downloads, shared by all checkouts.
//!
//! Whoever holds a [`Cache`] holds its lock, so two tasks never fetch the same thing at once, and
//! what a task that was interrupted left half-written is swept away by the next. Nothing stands
//! under its final name before it is whole.

use anyhow::{Context, Result};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The cache folder, locked until this is dropped.
pub struct Cache {
    dir: PathBuf,
    _lock: File,
}

impl Cache {
    /// Opens `$ENGRAFT_CACHE`, else `$XDG_CACHE_HOME/engraft`, else `~/.cache/engraft`: makes it
    /// where it is missing, and waits for whoever has it.
    pub fn open() -> Result<Cache> {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = set("ENGRAFT_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("engraft")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/engraft")))
            .context("there is no place for the cache\n  help: set ENGRAFT_CACHE to a folder")?;
        Cache::at(&std::path::absolute(&dir)?)
    }

    /// Opens a folder of one's own as the cache.
    pub fn at(dir: &Path) -> Result<Cache> {
        let lock = dir.join(".lock");
        let file =
            fs::create_dir_all(dir).and_then(|()| File::create(&lock)).with_context(|| {
                let dir = dir.display();
                format!("cannot write into the cache {dir} (ENGRAFT_CACHE names another)")
            })?;
        file.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
        Ok(Cache { dir: dir.to_path_buf(), _lock: file })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where an entry is or will be.
    pub fn entry(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes an entry: `write` makes a file or a folder at the path that it is given, which then
    /// takes the entry's name, and the place of what had it. Nothing is left where it fails.
    pub fn place(&self, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.entry(name);
        let partial = self.entry(&format!(".{name}.part"));
        remove(&partial)?;
        let placed = write(&partial).and_then(|()| {
            remove(&path)?;
            fs::rename(&partial, &path).with_context(|| format!("cannot make {}", path.display()))
        });
        match placed {
            Ok(()) => Ok(path),
            Err(error) => remove(&partial).and(Err(error)),
        }
    }

    /// A folder for the time of `work`, empty at first.
    pub fn scratch<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let dir = self.entry(".scratch");
        remove(&dir)?;
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let done = work(&dir);
        remove(&dir)?;
        done
    }
}

/// Removes a file or a folder, if there is one.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("the cache").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_appears_whole_or_not_at_all() {
        let dir = env::temp_dir().join(format!("xtask-cache-{}", std::process::id()));
        let cache = Cache::at(&dir).expect("a cache");
        let failed = cache.place("model", |path| {
            fs::write(path, "half")?;
            bail!("the network is gone")
        });
        assert_eq!(failed.expect_err("it failed").to_string(), "the network is gone");
        assert_eq!(names(&dir), [".lock"]);

        fs::write(dir.join(".model.part"), "left by an interrupted task").expect("written");
        for text in ["whole", "newer"] {
            let path = cache.place("model", |path| Ok(fs::write(path, text)?)).expect("placed");
            assert_eq!(fs::read_to_string(path).expect("there"), text);
        }
        assert_eq!(names(&dir), [".lock", "model"]);
        fs::remove_dir_all(&dir).expect("removed");
    }
}
