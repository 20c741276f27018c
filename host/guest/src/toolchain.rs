//! A toolchain that compiles guests, by either of the two ways there are: rustup's target, or
//! Debian's packages, whose compiler builds the standard library from its own sources.

use crate::GuestError;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of every guest: it has no system interface to import.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's packages that compile for it.
pub const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld-22"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-22";

/// What compiles guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The `rustc` on the PATH, with rustup's target.
    Rustup,
    /// Debian's compiler, linker and sources.
    Debian,
}

impl Toolchain {
    /// The toolchain that compiles what lies in a folder, if there is one.
    pub fn find(directory: &Path) -> Option<Toolchain> {
        [Toolchain::Rustup, Toolchain::Debian].into_iter().find(|way| way.is_there(directory))
    }

    /// Installs one where it can: rustup's target, or as root Debian's packages. `run` runs a
    /// command and says why it failed.
    ///
    /// # Errors
    /// [`GuestError::NoToolchain`]
    pub fn install(
        directory: &Path,
        run: &mut dyn FnMut(&mut Command) -> Result<(), String>,
    ) -> Result<Toolchain, GuestError> {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]).current_dir(directory);
        if run(&mut rustup).is_ok() && Toolchain::Rustup.is_there(directory) {
            return Ok(Toolchain::Rustup);
        }
        let refused = install_packages(run);
        match Toolchain::Debian.is_there(directory) {
            true => Ok(Toolchain::Debian),
            false => Err(GuestError::NoToolchain { tried: refused.err() }),
        }
    }

    /// Makes of a `cargo` one that builds guests: `build --release --target …`.
    pub fn build_with(self, cargo: &mut Command) {
        cargo.args(["build", "--release", "--target", TARGET]);
        if self == Toolchain::Debian {
            cargo.arg("-Zbuild-std=std,panic_abort");
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
        }
    }

    /// Takes this machine's folders out of what is compiled in `root`, which becomes `name`; so
    /// the same sources give the same bytes wherever they lie. Flags of the environment, which are
    /// for this machine's own programs, go with it.
    ///
    /// # Errors
    /// [`GuestError::CannotStart`] where there is no `rustc`.
    pub fn hide_paths(
        self,
        cargo: &mut Command,
        root: &Path,
        name: &str,
    ) -> Result<(), GuestError> {
        let home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
        let sources = match self {
            Toolchain::Rustup => sysroot(root)?.join("lib/rustlib/src/rust"),
            Toolchain::Debian => DEBIAN_SOURCES.into(),
        };
        let mut folders = vec![(root.to_owned(), format!("/{name}"))];
        folders.extend(home.map(|home| (home, "/cargo".to_owned())));
        folders.push((sources, "/rust".to_owned()));
        let mut flags = OsString::new();
        for (from, to) in folders {
            if !flags.is_empty() {
                flags.push("\u{1f}");
            }
            flags.push("--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags).env_remove("RUSTFLAGS");
        Ok(())
    }

    fn is_there(self, directory: &Path) -> bool {
        match self {
            Toolchain::Rustup => {
                let target = format!("lib/rustlib/{TARGET}/lib");
                sysroot(directory).is_ok_and(|sysroot| sysroot.join(target).is_dir())
            }
            Toolchain::Debian => {
                [DEBIAN_RUSTC, DEBIAN_LINKER, DEBIAN_SOURCES].iter().all(|p| Path::new(p).exists())
            }
        }
    }
}

/// The folder of the compiler that is used in a folder.
fn sysroot(directory: &Path) -> Result<PathBuf, GuestError> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(directory).stdin(Stdio::null());
    let fails = |source| GuestError::CannotStart { program: "rustc".into(), source };
    let printed = rustc.output().map_err(fails)?;
    match printed.status.success() {
        true => Ok(String::from_utf8_lossy(&printed.stdout).trim().into()),
        false => {
            let why = String::from_utf8_lossy(&printed.stderr).trim().to_owned();
            Err(fails(std::io::Error::other(why)))
        }
    }
}

/// Installs Debian's packages; asks for the list of packages only where it is too old.
fn install_packages(run: &mut dyn FnMut(&mut Command) -> Result<(), String>) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can install packages".into());
    }
    let mut apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut apt)
    };
    let install = ["install", "--yes", "--no-install-recommends"];
    let install: Vec<&str> = install.into_iter().chain(PACKAGES).collect();
    apt(&install).or_else(|_| {
        apt(&["update"])?;
        apt(&install)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(way: Toolchain) -> String {
        let mut cargo = Command::new("cargo");
        way.build_with(&mut cargo);
        format!("{cargo:?}")
    }

    #[test]
    fn debian_builds_its_own_standard_library() {
        assert!(arguments(Toolchain::Debian).contains("-Zbuild-std=std,panic_abort"));
        assert!(!arguments(Toolchain::Rustup).contains("-Z"));
    }

    #[test]
    fn no_folder_of_this_machine_is_left_in_a_plugin() {
        let mut cargo = Command::new("cargo");
        Toolchain::Debian.hide_paths(&mut cargo, Path::new("/home/me/mine"), "mine").unwrap();
        let flags = cargo.get_envs().find(|(name, _)| *name == "CARGO_ENCODED_RUSTFLAGS").unwrap();
        let flags = flags.1.unwrap().to_string_lossy().into_owned();
        assert!(flags.contains("--remap-path-prefix=/home/me/mine=/mine"), "{flags}");
        assert!(flags.contains("--remap-path-prefix=/usr/lib/rustlib/src/rust=/rust"), "{flags}");
    }

    #[test]
    fn where_nothing_can_be_installed_the_error_says_both_ways() {
        let mut tried = Vec::new();
        let refused = Toolchain::install(Path::new("/nowhere"), &mut |command| {
            tried.push(command.get_program().to_string_lossy().into_owned());
            Err("no network".into())
        });
        assert_eq!(tried[0], "rustup");
        if let Err(error) = refused {
            let help = engraft_diagnostic::Diagnostic::help(&error).unwrap();
            assert!(
                help.contains("rustup target add") && help.contains("apt-get install"),
                "{help}"
            );
        }
    }
}
