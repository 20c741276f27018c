//! Plugins: each crate under `plugins/` but the SDK, as a component in one folder.
//!
//! The same sources give the same bytes wherever they lie: one codegen unit, no debug information,
//! and no path of this machine in what is compiled. Where nothing has changed, nothing is built.

use crate::model::hex;
use crate::{command, paths};
use anyhow::{Context, Result, bail};
use engraft_diagnostic::Diagnostic;
use engraft_guest::Toolchain;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The file that says what the components in a folder were made of.
const RECORD: &str = ".made-of";

/// Builds every plugin into a folder and returns it.
pub fn build(out_dir: &Path) -> Result<PathBuf> {
    let out_dir = std::path::absolute(out_dir)?;
    let names = names()?;
    let inputs = inputs()?;
    if record(&out_dir, &names, &inputs).is_ok_and(|made| read(&out_dir) == Some(made)) {
        return Ok(out_dir);
    }
    let toolchain = toolchain()?;
    let target = paths::target().join("guests");
    let workspace = paths::root().join("plugins");
    let mut cargo = command::cargo();
    toolchain.build_with(&mut cargo);
    cargo.current_dir(&workspace).env("CARGO_TARGET_DIR", &target).arg("--locked");
    println!("\n$ {} (in plugins/)", command::line(&cargo));
    toolchain.hide_paths(&mut cargo, &paths::root(), "engraft")?;
    command::quietly(&mut cargo)?;
    fs::create_dir_all(&out_dir).with_context(|| format!("cannot make {}", out_dir.display()))?;
    for name in &names {
        let file = format!("{}.wasm", name.replace('-', "_"));
        let module = target.join(engraft_guest::TARGET).join("release").join(file);
        let module = fs::read(&module).with_context(|| format!("no {}", module.display()))?;
        let component =
            engraft_guest::component(&module).with_context(|| format!("the plugin `{name}`"))?;
        let path = out_dir.join(format!("{name}.wasm"));
        if fs::read(&path).is_ok_and(|old| old == component) {
            println!("{} is as it was", paths::shown(&path));
            continue;
        }
        replace(&path, &component)?;
        println!("{}: {} bytes", paths::shown(&path), component.len());
    }
    let made = record(&out_dir, &names, &inputs)?;
    replace(&out_dir.join(RECORD), made.as_bytes())?;
    Ok(out_dir)
}

/// Finds a toolchain; installs one where there is none.
fn toolchain() -> Result<Toolchain> {
    let root = paths::root();
    if let Some(ready) = Toolchain::find(&root) {
        return Ok(ready);
    }
    println!("There is no compiler for WebAssembly yet; trying to install one.");
    let mut run = |command: &mut _| command::run(command).map_err(|e| e.to_string());
    Toolchain::install(&root, &mut run).or_else(|e| match e.help() {
        Some(help) => bail!("{e}\n  help: {help}"),
        None => bail!("{e}"),
    })
}

/// The crates under `plugins/` that are plugins.
fn names() -> Result<Vec<String>> {
    let dir = paths::root().join("plugins");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "sdk" && entry.path().join("Cargo.toml").is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A digest over all that a plugin is made of.
fn inputs() -> Result<String> {
    let root = paths::root();
    let mut files = BTreeMap::new();
    for dir in ["plugins", "wit", "xtask/src/plugins.rs", "host/guest/src"] {
        collect(&root, &root.join(dir), &mut files)?;
    }
    let mut digest = Sha256::new();
    for (name, path) in files {
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update(Sha256::digest(fs::read(path)?));
    }
    Ok(hex(&digest.finalize()))
}

/// Files below a folder, by their paths relative to the root.
fn collect(root: &Path, path: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    if path.is_file() {
        let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
        files.insert(name, path.to_owned());
        return Ok(());
    }
    if path.file_name().is_some_and(|name| name == "target") {
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        collect(root, &entry?.path(), files)?;
    }
    Ok(())
}

/// What the record says of the components that lie in a folder now.
fn record(out_dir: &Path, names: &[String], inputs: &str) -> Result<String> {
    let mut text = format!("inputs {inputs}\n");
    for name in names {
        let component = fs::read(out_dir.join(format!("{name}.wasm")))?;
        text += &format!("{name} {}\n", hex(&Sha256::digest(component)));
    }
    Ok(text)
}

fn read(out_dir: &Path) -> Option<String> {
    fs::read_to_string(out_dir.join(RECORD)).ok()
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension(format!("part{}", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_but_the_sdk_is_built() {
        let names = names().expect("the folder is there");
        assert!(names.contains(&"llama".to_owned()));
        assert!(!names.contains(&"sdk".to_owned()));
    }
}
