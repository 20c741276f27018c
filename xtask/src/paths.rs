//! Where things lie: the repository, cargo's target folder and what is in it.
//!
//! The target folder holds what this checkout made (plugins, demo engines) and goes with it; what
//! was downloaded is in the [cache](crate::cache).

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root: the folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Cargo's target folder, absolute: `$CARGO_TARGET_DIR`, else `target` in the root.
pub fn target() -> PathBuf {
    let chosen = env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty());
    chosen.map_or_else(
        || root().join("target"),
        |dir| std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(&dir)),
    )
}

/// The built `engraft` command (release profile).
pub fn engraft() -> PathBuf {
    target().join("release/engraft")
}

/// Where `cargo xtask plugins` puts the plugins unless told otherwise.
pub fn plugins() -> PathBuf {
    target().join("plugins")
}

/// `path` as shown to a person: relative where it lies below the current folder.
pub fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}
