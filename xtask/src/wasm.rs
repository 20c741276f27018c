//! A toolchain that compiles guests, by either of the two ways there are: rustup's target, or
//! Debian's packages, whose compiler builds the standard library from its own sources.

use crate::command;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of every guest: it has no system interface to import.
pub const TARGET: &str = "wasm32-unknown-unknown";

const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "lld-22"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust";
const DEBIAN_LINKER: &str = "/usr/bin/wasm-ld-22";

/// What compiles guests.
#[derive(Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// The toolchain that runs us, with rustup's target.
    Rustup,
    /// Debian's compiler, linker and sources.
    Debian,
}

impl Toolchain {
    /// `cargo build --release` for guests, without flags that only a task knows.
    pub fn cargo_build(&self) -> Command {
        let mut cargo = command::cargo();
        cargo.args(["build", "--release", "--target", TARGET]);
        if *self == Toolchain::Debian {
            cargo.arg("-Zbuild-std=std,panic_abort");
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", DEBIAN_LINKER);
        }
        cargo
    }

    /// Where the standard library's sources are, whose paths must not reach a guest.
    pub fn sources(&self) -> Result<PathBuf> {
        Ok(match self {
            Toolchain::Rustup => sysroot()?.join("lib/rustlib/src/rust"),
            Toolchain::Debian => DEBIAN_SOURCES.into(),
        })
    }

    fn is_there(&self) -> bool {
        match self {
            Toolchain::Rustup => {
                let target = format!("lib/rustlib/{TARGET}/lib");
                sysroot().is_ok_and(|sysroot| sysroot.join(target).is_dir())
            }
            Toolchain::Debian => {
                [DEBIAN_RUSTC, DEBIAN_LINKER, DEBIAN_SOURCES].iter().all(|p| Path::new(p).exists())
            }
        }
    }
}

/// The folder of the compiler that runs us.
fn sysroot() -> Result<PathBuf> {
    let printed = command::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    match printed.filter(|printed| printed.status.success()) {
        Some(printed) => Ok(String::from_utf8_lossy(&printed.stdout).trim().into()),
        None => bail!("`rustc --print sysroot` does not work"),
    }
}

/// Finds a toolchain; installs one where there is none.
pub fn toolchain() -> Result<Toolchain> {
    let ways = [Toolchain::Rustup, Toolchain::Debian];
    if let Some(ready) = ways.into_iter().find(Toolchain::is_there) {
        return Ok(ready);
    }
    println!("There is no compiler for WebAssembly yet; trying to install one.");
    if command::run(Command::new("rustup").args(["target", "add", TARGET])).is_ok()
        && Toolchain::Rustup.is_there()
    {
        return Ok(Toolchain::Rustup);
    }
    let refused = install_packages();
    if Toolchain::Debian.is_there() {
        return Ok(Toolchain::Debian);
    }
    let why = refused.err().map_or(String::new(), |e| format!("\n  the last try: {e}"));
    bail!(
        "no compiler for WebAssembly, which plugins are compiled to{why}\n  \
         help: either `rustup target add {TARGET}`,\n  \
         or, on Debian, `apt-get install {}` as root",
        PACKAGES.join(" ")
    )
}

/// Installs Debian's packages; asks for the list of packages only where it is too old.
fn install_packages() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can install packages");
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        command::run(&mut apt)
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

    #[test]
    fn debian_builds_its_own_standard_library() {
        let line = command::line(&Toolchain::Debian.cargo_build());
        assert!(line.contains("-Zbuild-std=std,panic_abort"), "{line}");
        assert!(!command::line(&Toolchain::Rustup.cargo_build()).contains("-Z"));
    }
}
