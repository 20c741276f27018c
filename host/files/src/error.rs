//! What can go wrong between us and a disk.

use std::io;
use std::path::{Path, PathBuf};

use engraft_diagnostic::{Code, Diagnostic, Fault};

/// An error of the machine's files: a path that is not there, a full disk, an interrupt.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused an action on a path.
    #[error("cannot {action} {}: {}", path.display(), reason(source))]
    Io {
        /// What was tried, as an infinitive: `read`, `create`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The person pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The same, where the work that is done was kept.
    #[error("interrupted; what is done so far is kept")]
    Paused,
    /// Another process is making the same output.
    #[error("{} is being written by another process", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
    /// An output directory holds something already.
    #[error("the output directory {} is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// An output file is there already.
    #[error("{} is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A directory is needed where there is something else.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// A directory that would have to be replaced is no output of ours.
    #[error("{} {reason} and so is no earlier output; it is not replaced", path.display())]
    NotOurs {
        /// The directory that was to be replaced.
        path: PathBuf,
        /// How that is known: what it holds, or does not hold.
        reason: String,
    },
    /// A path that has no last component to name an output with.
    #[error("`{}` does not name a directory to make", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// A file that is read whole is larger than anything sensible.
    #[error("{} has {size} bytes, more than the {limit} that such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        limit: u64,
    },
    /// A writer was used against its promise; our own fault.
    #[error("writing {}: {what}", path.display())]
    Misuse {
        /// The file being written.
        path: PathBuf,
        /// What was wrong with the call.
        what: String,
    },
}

/// The system's words for an error, without the number where a kind says it all.
fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => "there is no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        io::ErrorKind::StorageFull => "no space is left on the disk".to_owned(),
        io::ErrorKind::QuotaExceeded => "your disk quota is used up".to_owned(),
        io::ErrorKind::UnexpectedEof => "it ends before what it was said to hold".to_owned(),
        _ => source.to_string(),
    }
}

impl FileError {
    /// An adapter for `map_err`: what was tried, on what.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = path.to_owned();
        move |source| FileError::Io { action, path, source }
    }

    fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            FileError::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }
}

impl Diagnostic for FileError {
    fn code(&self) -> Code {
        use io::ErrorKind as Kind;
        Code(match self {
            FileError::Io { .. } => match self.kind() {
                Some(Kind::NotFound) => 11,
                Some(Kind::PermissionDenied | Kind::ReadOnlyFilesystem) => 12,
                Some(Kind::StorageFull | Kind::QuotaExceeded) => 13,
                _ => 10,
            },
            FileError::NotEmpty { .. } => 14,
            FileError::NotADirectory { .. } => 15,
            FileError::Exists { .. } => 21,
            FileError::NotOurs { .. } => 16,
            FileError::NoName { .. } => 17,
            FileError::TooLarge { .. } => 18,
            FileError::Interrupted | FileError::Paused => 19,
            FileError::Busy { .. } => 22,
            FileError::Misuse { .. } => 20,
        })
    }

    fn fault(&self) -> Fault {
        use io::ErrorKind as Kind;
        match self {
            FileError::Io { .. } => match self.kind() {
                Some(
                    Kind::NotFound | Kind::NotADirectory | Kind::IsADirectory | Kind::UnexpectedEof,
                ) => Fault::Input,
                _ => Fault::Limit,
            },
            FileError::Busy { .. }
            | FileError::NotEmpty { .. }
            | FileError::NotADirectory { .. }
            | FileError::NotOurs { .. }
            | FileError::Exists { .. }
            | FileError::NoName { .. } => Fault::Usage,
            FileError::TooLarge { .. } => Fault::Input,
            FileError::Interrupted | FileError::Paused => Fault::Interrupt,
            FileError::Misuse { .. } => Fault::Bug,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            FileError::Io { path, .. }
            | FileError::Busy { path }
            | FileError::NotEmpty { path }
            | FileError::NotADirectory { path }
            | FileError::Exists { path }
            | FileError::NotOurs { path, .. }
            | FileError::NoName { path }
            | FileError::TooLarge { path, .. }
            | FileError::Misuse { path, .. } => Some(path.display().to_string()),
            FileError::Interrupted | FileError::Paused => None,
        }
    }

    fn help(&self) -> Option<String> {
        use io::ErrorKind as Kind;
        let text = match self {
            FileError::Io { .. } => match self.kind()? {
                Kind::NotFound => "check the path",
                Kind::NotADirectory => "check the path: a file stands where a directory must be",
                Kind::IsADirectory => "give a file",
                Kind::UnexpectedEof => "see that nobody writes to the file meanwhile",
                Kind::PermissionDenied => {
                    "choose a path that you may use, or change its permissions"
                }
                Kind::ReadOnlyFilesystem => "choose a path on a disk that can be written",
                Kind::StorageFull => "free some space, or choose a path on another disk",
                Kind::QuotaExceeded => "free some of your space, or choose a path on another disk",
                _ => "check the disk, then try again",
            },
            FileError::NotEmpty { .. } => {
                "choose another directory, or pass --force to replace this one"
            }
            FileError::Exists { .. } => "choose another path, or pass --force to replace it",
            FileError::NotADirectory { .. } => "choose a path where a directory is, or nothing yet",
            FileError::NotOurs { .. } => "choose another directory, or remove this one yourself",
            FileError::NoName { .. } => "give the path of a directory, such as `out/model`",
            FileError::TooLarge { .. } => "check that this is the file you mean",
            FileError::Interrupted => return None,
            FileError::Paused => "run the same command again: it goes on where this one stopped",
            FileError::Busy { .. } => "wait until it is done, or choose another directory",
            FileError::Misuse { .. } => "report this: it is a mistake in engraft",
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io_error(kind: io::ErrorKind) -> FileError {
        FileError::io("write", Path::new("out/rank0.engine"))(kind.into())
    }

    #[test]
    fn a_full_disk_is_a_limit_and_says_so() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = io_error(kind);
            assert_eq!(error.code(), Code(13));
            assert_eq!(error.fault().exit_code(), 5);
            assert!(error.help().unwrap().contains("space"), "{:?}", error.help());
        }
        let text = io_error(io::ErrorKind::StorageFull).to_string();
        assert_eq!(text, "cannot write out/rank0.engine: no space is left on the disk");
        // What the kernel really says when a disk is full.
        let error = FileError::io("write", Path::new("x"))(io::Error::from_raw_os_error(28));
        assert_eq!(error.code(), Code(13));
    }

    #[test]
    fn a_missing_path_is_the_inputs_fault_and_a_forbidden_one_the_machines() {
        assert_eq!(io_error(io::ErrorKind::NotFound).fault(), Fault::Input);
        assert_eq!(io_error(io::ErrorKind::PermissionDenied).fault(), Fault::Limit);
        assert_eq!(io_error(io::ErrorKind::ReadOnlyFilesystem).code(), Code(12));
        assert_eq!(io_error(io::ErrorKind::Other).code(), Code(10));
        assert_eq!(io_error(io::ErrorKind::UnexpectedEof).fault(), Fault::Input);
    }
}
