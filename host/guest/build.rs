//! Embeds the SDK, the contract and the new plugin's template, so that the command can write a
//! crate that builds wherever it lies, with no path into this repository.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the SDK finds the contract here, and where it does in a new plugin.
const CONTRACT: [&str; 2] = ["path: \"../../wit/v0.1\"", "path: \"wit\""];

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.join("../..").canonicalize().expect("the repository");
    let mut files = Vec::new();
    for (from, to) in [("plugins/sdk/src", "src"), ("wit/v0.1", "wit")] {
        collect(&root.join(from), to, &mut files);
    }
    files.push(("LICENSE".into(), read(&root.join("LICENSE"))));
    let mut moved = 0;
    for (_, text) in files.iter_mut().filter(|(name, _)| name.ends_with(".rs")) {
        moved += text.matches(CONTRACT[0]).count();
        *text = text.replace(CONTRACT[0], CONTRACT[1]);
    }
    assert_eq!(moved, 1, "the SDK says once where the contract is");

    let workspace = read(&root.join("plugins/Cargo.toml"));
    let lock = read(&root.join("plugins/Cargo.lock"));
    let said = |key: &str| value(section(&workspace, "[workspace.package]"), key);
    let dependencies = section(&read(&root.join("plugins/sdk/Cargo.toml")), "[dependencies]")
        .lines()
        .filter_map(|line| line.strip_suffix(".workspace = true"))
        .map(|name| {
            format!("{name} = {}\n", value(section(&workspace, "[workspace.dependencies]"), name))
        })
        .collect::<String>();
    let kept = lock
        .split("\n\n")
        .filter(|block| block.starts_with("[[package]]"))
        .filter(|block| {
            block.contains("\nsource = ") || block.contains("\"engraft-plugin-sdk\"\nversion")
        })
        .map(str::trim_end);

    let mut out = String::new();
    let mut constant = |name: &str, doc: &str, value: String| {
        writeln!(out, "/// {doc}\npub(crate) const {name}: &str = {value:?};").expect("memory");
    };
    constant("VERSION", "The SDK's version.", unquoted(&said("version")));
    constant("EDITION", "The edition that plugins are written in.", unquoted(&said("edition")));
    constant("RUST", "The oldest Rust that compiles it.", unquoted(&said("rust-version")));
    constant("LICENSE", "The SDK's license.", unquoted(&said("license")));
    constant("DEPENDENCIES", "What the SDK is built on.", dependencies);
    let profile = section(&workspace, "[profile.release]").trim_end().to_owned();
    constant("PROFILE", "How plugins are compiled.", profile);
    let template = |name: &str| read(&here.join("template").join(name));
    constant("LIB", "A new plugin's `src/lib.rs`.", template("src/lib.rs"));
    constant("README", "A new plugin's `README.md`.", template("README.md"));
    constant("SDK_README", "The `README.md` beside the SDK.", template("SDK.md"));
    let kept: Vec<&str> = kept.collect();
    writeln!(
        out,
        "/// Packages of a lock file, sorted.\npub(crate) const LOCKED: &[&str] = &{kept:?};"
    )
    .expect("memory");
    writeln!(out, "/// The SDK's files.\npub(crate) const SDK: &[(&str, &str)] = &{files:?};")
        .expect("memory");
    let embedded =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("embedded.rs");
    fs::write(embedded, out).expect("the target folder is writable");
    for path in ["plugins/sdk", "plugins/Cargo.toml", "plugins/Cargo.lock", "wit/v0.1", "LICENSE"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-changed={}", here.join("template").display());
    println!("cargo:rerun-if-changed=build.rs");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of a folder by the names that they get.
fn collect(from: &Path, to: &str, files: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let name = format!("{to}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        match path.is_dir() {
            true => collect(&path, &name, files),
            false => files.push((name, read(&path))),
        }
    }
}

/// The lines of a table in a manifest, up to the next one.
fn section<'a>(manifest: &'a str, name: &str) -> &'a str {
    let (_, rest) =
        manifest.split_once(&format!("{name}\n")).unwrap_or_else(|| panic!("no {name}"));
    rest.split("\n[").next().unwrap_or(rest)
}

fn value(section: &str, key: &str) -> String {
    let lines = section.lines().filter_map(|line| line.split_once(" = "));
    let found = lines.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).next();
    found.unwrap_or_else(|| panic!("plugins/Cargo.toml does not say `{key}`"))
}

fn unquoted(text: &str) -> String {
    text.trim_matches('"').to_owned()
}
