//! A new plugin: its name, and the files of its crate.

use crate::embedded::{
    DEPENDENCIES, EDITION, LIB, LICENSE, LOCKED, PROFILE, README, RUST, SDK, SDK_README, VERSION,
};
use crate::error::GuestError;
use std::fs;
use std::path::{Path, PathBuf};

/// The SDK's crate, and the folder that has it.
const SDK_NAME: &str = "engraft-plugin-sdk";

/// The longest name that a plugin may have.
const LONGEST: usize = 64;

/// Words that are no crate's name, or that cargo keeps for itself.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// What was written.
#[derive(Debug)]
pub struct Created {
    /// The crate's folder.
    pub directory: PathBuf,
    /// The architecture that the plugin accepts, to be made the model's own.
    pub accepts: String,
}

/// Writes the crate of a new plugin into a folder that is empty or not there yet.
///
/// # Errors
/// [`GuestError::Name`], [`GuestError::Occupied`], [`GuestError::Io`]; then nothing is left.
pub fn create(name: &str, directory: &Path) -> Result<Created, GuestError> {
    check_name(name).map_err(|reason| {
        let instead = similar(name);
        GuestError::Name { name: name.to_owned(), reason, instead }
    })?;
    let occupied = || GuestError::Occupied { path: directory.to_owned() };
    let there = directory.symlink_metadata().is_ok();
    if there {
        let mut entries = fs::read_dir(directory).map_err(|_| occupied())?;
        if entries.next().is_some() {
            return Err(occupied());
        }
    }
    let written = files(name).into_iter().try_for_each(|(file, text)| {
        let path = directory.join(file);
        let folder = path.parent().unwrap_or(directory);
        fs::create_dir_all(folder).map_err(GuestError::io("make", folder))?;
        fs::write(&path, text).map_err(GuestError::io("write", &path))
    });
    if let Err(error) = written {
        // What cannot be taken away stays; the error that counts is the first.
        let _ = fs::remove_dir_all(directory);
        if there {
            let _ = fs::create_dir(directory);
        }
        return Err(error);
    }
    let accepts = format!("{}ForCausalLM", type_name(name));
    Ok(Created { directory: directory.to_owned(), accepts })
}

/// Why a name cannot be a plugin's, which is also its crate's and its file's.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > LONGEST {
        return Err(format!("it has {} bytes, and must have 1 to {LONGEST}", name.len()));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("it must begin with a small letter".into());
    }
    if !name.chars().all(plain) || name.ends_with('-') || name.contains("--") {
        return Err("it must be words of small letters and digits, with `-` between them".into());
    }
    if RESERVED.contains(&name) {
        return Err("Rust or cargo keep that word for themselves".into());
    }
    if name == SDK_NAME || locked().any(|locked| locked == name) {
        return Err("the SDK is built on a crate of that name".into());
    }
    Ok(())
}

/// The packages of the SDK's lock file.
fn locked() -> impl Iterator<Item = &'static str> {
    LOCKED.iter().map(|block| package(block))
}

/// The name in a block of a lock file.
fn package(block: &str) -> &str {
    block.split_once("name = \"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or(block)
}

/// A name like one that cannot be, if there is such.
fn similar(name: &str) -> Option<String> {
    let mut words = String::new();
    let mut before = ' ';
    for c in name.chars().take(LONGEST) {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            words.push('-');
        }
        words.push(if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        before = c;
    }
    let parts: Vec<&str> = words.split('-').filter(|part| !part.is_empty()).collect();
    let plain = parts.join("-");
    [plain.clone(), format!("{plain}-model")].into_iter().find(|name| check_name(name).is_ok())
}

/// `my-model` as a type: `MyModel`.
fn type_name(name: &str) -> String {
    name.split('-')
        .flat_map(|word| {
            let mut rest = word.chars();
            let first = rest.next().map(|c| c.to_ascii_uppercase());
            first.into_iter().chain(rest)
        })
        .collect()
}

/// Every file with its text.
fn files(name: &str) -> Vec<(String, String)> {
    let filled = |text: &str| {
        let text = text.replace("my-model", name).replace("MyModel", &type_name(name));
        text.replace("SDK_VERSION", VERSION)
    };
    let manifest = format!(
        "[package]\n\
         name = \"{name}\"\n\
         version = \"0.1.0\"\n\
         edition = \"{EDITION}\"\n\
         rust-version = \"{RUST}\"\n\
         description = \"An engraft plugin.\"\n\
         publish = false\n\
         \n\
         [lib]\n\
         crate-type = [\"cdylib\"]\n\
         \n\
         [dependencies]\n\
         {SDK_NAME} = {{ version = \"={VERSION}\", path = \"{SDK_NAME}\" }}\n\
         \n\
         # As the bundled plugins: small, the same on every machine, and with the names that error\n\
         # messages show.\n\
         [profile.release]\n\
         {PROFILE}\n\
         \n\
         # It stands by itself, wherever it lies.\n\
         [workspace]\n"
    );
    let sdk = format!(
        "[package]\n\
         name = \"{SDK_NAME}\"\n\
         version = \"{VERSION}\"\n\
         edition = \"{EDITION}\"\n\
         rust-version = \"{RUST}\"\n\
         license = \"{LICENSE}\"\n\
         description = \"What an engraft plugin is written on.\"\n\
         publish = false\n\
         \n\
         [dependencies]\n\
         {DEPENDENCIES}"
    );
    let own = [
        ("Cargo.toml".to_owned(), manifest),
        ("Cargo.lock".to_owned(), lock(name)),
        (".gitignore".to_owned(), format!("/target\n/{name}.wasm\n")),
        ("README.md".to_owned(), filled(README)),
        ("src/lib.rs".to_owned(), filled(LIB)),
        (format!("{SDK_NAME}/Cargo.toml"), sdk),
        (format!("{SDK_NAME}/README.md"), filled(SDK_README)),
    ];
    let sdk = SDK.iter().map(|(file, text)| (format!("{SDK_NAME}/{file}"), (*text).to_owned()));
    own.into_iter().chain(sdk).collect()
}

/// The lock file: all that the SDK is built on, and the new crate in its place among them.
fn lock(name: &str) -> String {
    let own = format!(
        "[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [\n \"{SDK_NAME}\",\n]"
    );
    let mut blocks: Vec<&str> = LOCKED.iter().copied().chain([own.as_str()]).collect();
    blocks.sort_by_key(|block| package(block));
    let head = "# This file is automatically @generated by Cargo.\n\
                # It is not intended for manual editing.\nversion = 4\n\n";
    format!("{head}{}\n", blocks.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_with_dashes_that_no_one_else_has() {
        for good in ["olmo3", "gpt-oss", "a", "my-model-2"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(65);
        for bad in [
            "",
            "3b",
            "My",
            "my_model",
            "my--model",
            "my-",
            "-my",
            "fn",
            "test",
            "wit-bindgen",
            "engraft-plugin-sdk",
            "../up",
            "a b",
            "naïve",
            &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(similar("MyModel").as_deref(), Some("my-model"));
        assert_eq!(similar("my_model").as_deref(), Some("my-model"));
        assert_eq!(similar("fn").as_deref(), Some("fn-model"));
        assert_eq!(similar("../up").as_deref(), Some("up"));
        assert_eq!(similar("3"), None);
    }

    #[test]
    fn nothing_of_the_template_is_left_and_nothing_points_into_a_tree() {
        let all = files("gpt-oss");
        for (file, text) in &all {
            for word in ["my-model", "MyModel", "SDK_VERSION", "../"] {
                assert!(!text.contains(word), "{file}: {word}");
            }
        }
        let of = |name: &str| &all.iter().find(|(file, _)| file == name).unwrap().1;
        assert!(of("src/lib.rs").contains("export!(GptOss);"));
        let lines = of("src/lib.rs").lines().filter(|line| !line.trim().is_empty());
        assert!(lines.count() <= 80);
        assert!(of("Cargo.toml").contains("version = \"=0.1.0\", path = \"engraft-plugin-sdk\""));
        assert!(of("engraft-plugin-sdk/Cargo.toml").contains("wit-bindgen = { version = \"="));
        assert!(of("engraft-plugin-sdk/src/lib.rs").contains("path: \"wit\""));
        assert!(all.iter().any(|(file, _)| file == "engraft-plugin-sdk/wit/world.wit"));
    }

    #[test]
    fn the_lock_file_is_sorted_and_has_both_crates() {
        let text = lock("my-model");
        let names: Vec<&str> = text.split("\n\n").skip(1).map(package).collect();
        assert!(names.is_sorted() && names.contains(&"my-model") && names.contains(&SDK_NAME));
        assert!(!names.contains(&"llama"));
        assert!(text.ends_with("]\n") || text.ends_with("\"\n"));
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "mine").unwrap();
        let refused = create("my-model", folder.path());
        assert!(matches!(refused, Err(GuestError::Occupied { .. })));
        let file = folder.path().join("mine");
        assert!(matches!(create("my-model", &file), Err(GuestError::Occupied { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let made = create("my-model", &folder.path().join("deep/new")).unwrap();
        assert_eq!(made.accepts, "MyModelForCausalLM");
        assert!(made.directory.join("src/lib.rs").is_file());
    }
}
