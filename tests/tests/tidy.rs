//! Promises about the tree itself: what depends on what, what is named where, what is documented.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Files with this ending below a folder of the tree, with their text.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        let mut entries: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} below {folder}");
    found
}

#[test]
fn every_module_begins_with_what_it_promises() {
    for folder in ["host", "kernels", "plugins", "tests", "xtask", "bench"] {
        for (path, text) in files(folder, ".rs") {
            assert!(text.starts_with("//!"), "{} does not begin with its doc", path.display());
        }
    }
}

#[test]
fn files_hold_one_idea() {
    for folder in ["host", "kernels", "plugins", "tests", "xtask", "bench"] {
        for (path, text) in files(folder, ".rs") {
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines: what is the second idea?", path.display());
        }
    }
}

#[test]
fn plugins_are_small() {
    for (path, text) in files("plugins", "lib.rs") {
        let lines = text.lines().count();
        let sdk = path.to_string_lossy().contains("plugins/sdk/");
        assert!(sdk || lines <= 150, "{} has {lines} lines", path.display());
    }
}

/// The rooms that a room may build on, directly; from ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("diagnostic", &[]),
    ("calibrate", &["diagnostic", "ir", "files", "weights", "quant", "runtime", "kernels-cpu"]),
    ("guest", &["diagnostic"]),
    ("ir", &["diagnostic"]),
    ("files", &["diagnostic", "ir"]),
    ("source", &["diagnostic", "ir", "files"]),
    ("texts", &["diagnostic", "files"]),
    ("weights", &["diagnostic", "ir", "files", "source"]),
    ("plugin", &["diagnostic", "ir", "files", "weights"]),
    ("quant", &["diagnostic", "ir", "files", "weights", "kernels-cpu"]),
    ("checkpoint", &["diagnostic", "ir", "files", "weights", "quant"]),
    ("engine", &["diagnostic", "ir", "files"]),
    ("compile", &["diagnostic", "ir", "files", "weights", "quant", "checkpoint", "engine"]),
    (
        "convert",
        &[
            "diagnostic",
            "ir",
            "files",
            "source",
            "weights",
            "plugin",
            "quant",
            "checkpoint",
            "engine",
            "compile",
            "runtime",
            "calibrate",
            "texts",
        ],
    ),
    ("runtime", &["diagnostic", "ir", "files", "engine", "kernels-cpu"]),
];

#[test]
fn rooms_depend_in_one_direction() {
    for (room, allowed) in ALLOWED {
        let manifest = root().join("host").join(room).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        let normal = text.split("[dev-dependencies]").next().unwrap();
        for line in normal.lines() {
            if let Some(rest) = line.strip_prefix("engraft-") {
                let name = rest.split(['.', ' ', '=']).next().unwrap();
                assert!(allowed.contains(&name), "{room} may not build on {name}");
            }
        }
    }
    for (path, text) in files("kernels", "Cargo.toml") {
        assert!(!text.contains("\nengraft-"), "{}: kernels know no room", path.display());
    }
}

#[test]
fn every_dependency_is_used() {
    for folder in ["host", "kernels", "plugins", "tests", "xtask", "bench"] {
        for (manifest, text) in files(folder, "Cargo.toml") {
            let mut listed = Vec::new();
            let mut inside = false;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                if line.starts_with('[') {
                    inside = line.ends_with("dependencies]") && !line.contains("workspace");
                } else if inside && !line.is_empty() {
                    let name = line.split(['.', ' ', '=']).next().unwrap();
                    listed.push(name.replace('-', "_"));
                }
            }
            if listed.is_empty() {
                continue;
            }
            let code = files(manifest.parent().unwrap().to_str().unwrap(), ".rs");
            let words: BTreeSet<&str> = code
                .iter()
                .flat_map(|(_, text)| text.split(|c: char| !c.is_alphanumeric() && c != '_'))
                .collect();
            for name in listed {
                let path = manifest.display();
                assert!(words.contains(name.as_str()), "{path}: nothing uses {name}");
            }
        }
    }
}

#[test]
fn only_the_plugin_room_names_wasmtime() {
    for folder in ["host", "kernels"] {
        for (path, text) in files(folder, "Cargo.toml") {
            let plugin = path.to_string_lossy().contains("host/plugin/");
            assert!(plugin || !text.contains("wasmtime"), "{} names wasmtime", path.display());
        }
    }
}

/// A word of an architecture's name in the host would mean that the host knows it. Names of
/// formulas (`llama3` rope scaling), of llama.cpp, and in tests and docs are something else.
#[test]
fn the_host_knows_no_architecture() {
    let names =
        ["LlamaForCausalLM", "SmolLM3ForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"];
    for folder in ["host", "kernels"] {
        for (path, text) in files(folder, ".rs") {
            if path.ends_with("tests.rs") || path.to_string_lossy().contains("/tests/") {
                continue;
            }
            let code = text.split("#[cfg(test)]").next().unwrap();
            for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
                for name in names {
                    assert!(!line.contains(name), "{}: {line}", path.display());
                }
            }
        }
    }
}

/// The numbers in the bodies of `fn code(&self) -> Code`.
fn codes_in(text: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for body in text.split("fn code(&self) -> Code {").skip(1) {
        let end = body.find("\n    }").unwrap();
        for word in body[..end].split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if (2..=3).contains(&word.len())
                && let Ok(number) = word.parse()
            {
                found.insert(number);
            }
        }
    }
    found
}

#[test]
fn every_error_code_is_in_the_catalogue() {
    let mut used: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for (path, text) in files("host", ".rs") {
        for code in codes_in(&text) {
            if let Some(other) = used.insert(code, path.clone()) {
                assert_eq!(other, path, "EG{code:04} stands in two files");
            }
        }
    }
    let catalogue = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let listed: BTreeSet<u32> =
        catalogue.lines().filter_map(|l| l.strip_prefix("| EG")?.get(..4)?.parse().ok()).collect();
    let used: BTreeSet<u32> = used.into_keys().collect();
    let missing: Vec<_> = used.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&used).collect();
    assert!(missing.is_empty() && stale.is_empty(), "not listed: {missing:?}; not used: {stale:?}");
}

#[test]
fn unsafe_code_lives_in_kernels_and_mappings() {
    for (path, text) in files("host", ".rs") {
        let allowed = path.ends_with("engine/src/read.rs");
        let uses = text.lines().any(|l| l.contains("unsafe {") || l.contains("unsafe fn"));
        assert!(allowed || !uses, "{} has unsafe code", path.display());
    }
}
