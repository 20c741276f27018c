//! MPI, which ranks as processes need: found, or installed as root on Debian, or done without.

use crate::command;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// Debian's packages: the library with its headers, what starts processes, what reads headers.
const PACKAGES: [&str; 3] = ["openmpi-bin", "libopenmpi-dev", "libclang-dev"];

/// Whether engraft is built with MPI here. Decided once; where not, a line says so.
pub fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| found() || install())
}

fn found() -> bool {
    command::succeeds(Command::new("mpicc").arg("--version"))
        && command::succeeds(Command::new("mpirun").arg("--version"))
        && libclang()
}

/// Where libclang is: named by a variable, or in one of the folders where it is looked for.
fn libclang() -> bool {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let mut folders: Vec<PathBuf> =
        ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu"]
            .map(PathBuf::from)
            .into();
    let versions = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versions = versions.filter(|e| e.file_name().to_string_lossy().starts_with("llvm-"));
    folders.extend(versions.map(|entry| entry.path().join("lib")));
    folders.iter().any(|folder| has_libclang(folder))
}

fn has_libclang(folder: &Path) -> bool {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).any(|name| {
        let rest = name.strip_prefix("libclang").unwrap_or_default();
        rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so"))
    })
}

fn install() -> bool {
    let root = command::output(Command::new("id").arg("-u"));
    let root = matches!(root, Ok(Some(out)) if out.stdout.trim_ascii() == b"0");
    if root && command::succeeds(Command::new("apt-get").arg("--version")) {
        println!("There is no MPI yet, which ranks as processes need; trying to install one.");
        let apt = |arguments: &[&str]| {
            let mut apt = Command::new("apt-get");
            command::run(apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
        };
        let install = ["install", "--yes", "--no-install-recommends"];
        let install: Vec<&str> = install.into_iter().chain(PACKAGES).collect();
        // What comes of it is looked at next.
        let _ = apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)));
        if found() {
            return true;
        }
    }
    println!(
        "engraft is built without MPI: ranks as processes need {} (all else works, and so does \
         --ranks_in_process)",
        PACKAGES.join(", ")
    );
    false
}
