//! What can go wrong while a plugin is made.

use crate::toolchain::{PACKAGES, TARGET};
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use std::io;
use std::path::{Path, PathBuf};

/// A plugin that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No name for a plugin.
    #[error("`{}` cannot be a plugin's name: {reason}", escape(name))]
    Name {
        /// What was asked for.
        name: String,
        /// A clause.
        reason: String,
        /// A name like it that can be.
        instead: Option<String>,
    },
    /// Something is where the crate is to be written.
    #[error("{} is not empty", path.display())]
    Occupied {
        /// The folder, or the file in its place.
        path: PathBuf,
    },
    /// Nothing compiles for WebAssembly.
    #[error("there is no compiler for WebAssembly, which plugins are compiled to{}", why(tried))]
    NoToolchain {
        /// Why it could not be installed, where that was tried.
        tried: Option<String>,
    },
    /// A program is missing or does not start.
    #[error("cannot start `{program}`: {source}")]
    CannotStart {
        /// Its name.
        program: String,
        /// What the system says.
        source: io::Error,
    },
    /// Cargo said why.
    #[error("cargo could not build the plugin; it says why above")]
    Cargo {
        /// The crate's folder.
        directory: PathBuf,
    },
    /// The folder is no crate that a plugin can be made of.
    #[error("{reason}")]
    NoPlugin {
        /// The crate's folder.
        directory: PathBuf,
        /// A sentence.
        reason: String,
        /// What to do about it.
        help: &'static str,
    },
    /// The module is none that speaks the contract.
    #[error("the crate compiles, and what comes out is no plugin: {reason}")]
    NotTheContract {
        /// What is wrong.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn why(tried: &Option<String>) -> String {
    tried.as_ref().map_or(String::new(), |why| format!(" ({why})"))
}

impl GuestError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GuestError {
        let path = path.to_owned();
        move |source| GuestError::Io { action, path, source }
    }
}

impl Diagnostic for GuestError {
    fn code(&self) -> Code {
        Code(match self {
            GuestError::Name { .. } => 901,
            GuestError::Occupied { .. } => 902,
            GuestError::NoToolchain { .. } => 903,
            GuestError::CannotStart { .. } => 904,
            GuestError::Cargo { .. } => 905,
            GuestError::NoPlugin { .. } => 906,
            GuestError::NotTheContract { .. } => 907,
            GuestError::Io { .. } => 908,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            GuestError::Name { .. } | GuestError::Occupied { .. } | GuestError::NoPlugin { .. } => {
                Fault::Usage
            }
            GuestError::NoToolchain { .. }
            | GuestError::CannotStart { .. }
            | GuestError::Io { .. } => Fault::Limit,
            GuestError::Cargo { .. } | GuestError::NotTheContract { .. } => Fault::Plugin,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            GuestError::Cargo { directory } | GuestError::NoPlugin { directory, .. } => {
                Some(directory.display().to_string())
            }
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            GuestError::Name { instead: Some(instead), .. } => format!("take `{instead}`"),
            GuestError::Name { .. } => "take a name like `my-model`".into(),
            GuestError::Occupied { .. } => {
                "choose another folder with `--path`, or empty this one".into()
            }
            GuestError::NoToolchain { .. } => format!(
                "either `rustup target add {TARGET}`,\n        or, on Debian, `apt-get install {}` \
                 as root;\n        `engraft plugin build --install` does what of it can be done",
                PACKAGES.join(" ")
            ),
            GuestError::CannotStart { program, .. } if program == "cargo" => {
                "install Rust with cargo: https://rustup.rs, or `apt-get install cargo`".into()
            }
            GuestError::CannotStart { .. } => "install it, or put it on the PATH".into(),
            GuestError::Cargo { .. } => "correct what cargo shows and build again".into(),
            GuestError::NoPlugin { help, .. } => (*help).into(),
            GuestError::NotTheContract { .. } => {
                "write it on the plugin SDK and end it with `export!(…)`, without crates that want \
                 files, clocks or random numbers; `engraft plugin new` shows how"
                    .into()
            }
            GuestError::Io { .. } => "check the path, its permissions and the space on it".into(),
        })
    }
}
