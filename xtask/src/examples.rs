//! `cargo xtask examples`: the plugins that are written in C and in Python, as components.
//!
//! Each is built from this repository and its own language's tools: C by Debian's clang and lld
//! with the headers of wasi-libc, whose allocator and string functions import nothing; Python by
//! componentize-py, whose interpreter goes into the component. A tool that is missing is installed
//! (clang as root by apt-get, componentize-py from PyPI into the cache).

use crate::cache::Cache;
use crate::{command, paths, python};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose bindings the example is written for.
const COMPONENTIZE: &str = "componentize-py==0.25.0";

/// What Debian calls clang, its linker and the library without a system.
const PACKAGES: [&str; 4] = ["clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"];

/// How long componentize-py may take; it takes fifteen seconds where it is not held up.
const MINUTES: u32 = 10;

/// A language that an example is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    C,
    Python,
}

/// Build the example plugins in C and Python into target/examples.
#[derive(clap::Args)]
pub struct Args {
    /// Only this one.
    #[arg(long)]
    only: Option<Language>,
}

/// Builds what was asked for.
pub fn run(args: &Args) -> Result<()> {
    for language in [Language::C, Language::Python] {
        if args.only.is_none_or(|only| only == language) {
            let path = build(language)?;
            println!("{}: {} bytes", paths::shown(&path), fs::metadata(&path)?.len());
        }
    }
    Ok(())
}

/// Builds all and gives their folder.
pub fn build_all() -> Result<PathBuf> {
    run(&Args { only: None })?;
    Ok(folder())
}

fn folder() -> PathBuf {
    paths::target().join("examples")
}

/// The component of one example, built where anything is newer than it.
fn build(language: Language) -> Result<PathBuf> {
    let out_dir = folder();
    fs::create_dir_all(&out_dir).with_context(|| format!("cannot make {}", out_dir.display()))?;
    let examples = paths::root().join("plugins/examples");
    let (source, out) = match language {
        Language::C => (examples.join("c"), out_dir.join("gpt2-c.wasm")),
        Language::Python => (examples.join("python"), out_dir.join("llama-python.wasm")),
    };
    let inputs = [source.clone(), paths::root().join("wit/v0.1")];
    if is_newer(&out, &inputs)? {
        return Ok(out);
    }
    match language {
        Language::C => from_c(&source, &out)?,
        Language::Python => from_python(&source, &out)?,
    }
    Ok(out)
}

/// Whether a file is newer than all files in some folders.
fn is_newer(file: &Path, folders: &[PathBuf]) -> Result<bool> {
    let Ok(made) = fs::metadata(file).and_then(|file| file.modified()) else { return Ok(false) };
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            if entry?.metadata()?.modified()? >= made {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn from_c(source: &Path, out: &Path) -> Result<()> {
    let clang = clang()?;
    let module = out.with_extension("module.wasm");
    let mut compile = Command::new(clang);
    compile.current_dir(source);
    // No start file: the functions are the exports, and nothing runs before they are called.
    compile.args(["--target=wasm32-wasi", "-O2", "-Wall", "-Wextra", "-Werror", "-nostartfiles"]);
    compile.args(["-mexec-model=reactor", "-Wl,--no-entry", "-Wl,--strip-debug", "-o"]);
    compile.arg(&module).args(["gpt2.c", "plugin.c", "plugin_component_type.o"]);
    command::run(&mut compile)?;
    let bytes = fs::read(&module)?;
    fs::write(out, engraft_guest::component(&bytes).context("the example in C")?)?;
    Ok(fs::remove_file(&module)?)
}

/// Debian's clang with everything that it needs, installed where it is not.
fn clang() -> Result<&'static str> {
    let works = || {
        let mut version = Command::new("clang");
        let libc = Path::new("/usr/include/wasm32-wasi/stdlib.h").exists();
        libc && command::succeeds(version.arg("--version"))
            && command::succeeds(Command::new("wasm-ld").arg("--version"))
    };
    if works() {
        return Ok("clang");
    }
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        command::run(apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let install = ["install", "--yes", "--no-install-recommends"];
    let install: Vec<&str> = install.into_iter().chain(PACKAGES).collect();
    let tried = apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)));
    if works() {
        return Ok("clang");
    }
    let why = tried.err().map_or(String::new(), |e| format!("\n  the last try: {e}"));
    bail!(
        "no clang with wasi-libc, which the example in C is compiled by{why}\n  \
         help: on Debian, `apt-get install {}` as root",
        PACKAGES.join(" ")
    )
}

fn from_python(source: &Path, out: &Path) -> Result<()> {
    // Its interpreter leaves byte code beside what it reads.
    let copy = out.with_extension("source");
    fs::create_dir_all(&copy).with_context(|| format!("cannot make {}", copy.display()))?;
    for module in ["llama.py", "architecture.py"] {
        fs::copy(source.join(module), copy.join(module))?;
    }
    let python = python::environment(&Cache::open()?, "componentize", &[COMPONENTIZE])?;
    let mut make = Command::new("timeout");
    make.arg(MINUTES.to_string() + "m").arg(python.with_file_name("componentize-py"));
    make.arg("-d").arg(paths::root().join("wit/v0.1")).args(["-w", "plugin"]);
    // The interpreter asks for a system that a plugin has not: what it asks for traps instead.
    make.args(["componentize", "--stub-wasi", "-p"]).arg(&copy).arg("-o").arg(out).arg("llama");
    command::run(&mut make)
}
