//! What the tests need beside the repository: SmolLM2 as people have it, in every form we read;
//! Gemma 3 270M; and the goldens as GGUF files and in PyTorch's forms.
//!
//! SmolLM2's forms are derived once into the cache from the one downloaded file, by a tool of the
//! tests (`tests/tools/fetch_smollm2.py`), and again when the tool changes. The goldens' files are
//! of this checkout, and small: they are written into the target folder every time.

use crate::cache::Cache;
use crate::command::{self, output};
use crate::{model, paths, python};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The dtypes of the HuggingFace directories: as the tool calls them.
const DTYPES: [&str; 3] = ["bf16", "f16", "f32"];

/// Says which tool and which model a directory was made from; hidden, so that no reader of model
/// directories takes it for a part of the model.
const STAMP: &str = ".made-from";

/// Environment variables for the tests: name and path.
pub fn prepare(cache: &Cache) -> Result<Vec<(String, PathBuf)>> {
    let gguf = model::smollm2(cache)?;
    let mut variables = Vec::new();
    for dtype in DTYPES {
        let dir = smollm2(cache, &gguf, dtype)?;
        variables.push((format!("ENGRAFT_SMOLLM2_HF_{}", dtype.to_uppercase()), dir));
    }
    variables.push(("ENGRAFT_SMOLLM2_GGUF".to_owned(), gguf));
    variables.push(("ENGRAFT_GEMMA3_GGUF".to_owned(), model::gemma3(cache)?));
    variables.push(("ENGRAFT_GOLDEN_GGUFS".to_owned(), golden_ggufs(cache)?));
    variables.push(("ENGRAFT_GOLDEN_TORCH".to_owned(), golden_torch()?));
    let python = python::environment(cache, "gguf", python::GGUF_TOOLS)?;
    variables.push(("ENGRAFT_PYTHON".to_owned(), python));
    Ok(variables)
}

/// SmolLM2 as a HuggingFace directory of a dtype, made of its GGUF file at the first call.
pub fn smollm2(cache: &Cache, gguf: &Path, dtype: &str) -> Result<PathBuf> {
    let tool = paths::root().join("tests/tools/fetch_smollm2.py");
    let stamp = format!("{}\n{}\n", model::sha256(&tool)?, model::SMOLLM2_SHA256);
    let name = format!("SmolLM2-135M-Instruct-hf-{dtype}");
    let dir = cache.entry(&name);
    if fs::read_to_string(dir.join(STAMP)).unwrap_or_default() == stamp {
        return Ok(dir);
    }
    let python = python::environment(cache, "tests", &[python::NUMPY])?;
    println!("making {} once, from {}", dir.display(), gguf.display());
    cache.place(&name, |path| {
        let mut make = Command::new(&python);
        make.arg(&tool).arg("--wheel").arg(gguf);
        make.arg("--out").arg(path).args(["--dtype", dtype]);
        let out = output(&mut make)?.context("the tests' Python is gone")?;
        if !out.status.success() {
            bail!("{} failed:\n{}", tool.display(), python::indented(&out.stderr));
        }
        Ok(fs::write(path.join(STAMP), &stamp)?)
    })
}

/// The folder of the goldens in PyTorch's forms.
fn golden_torch() -> Result<PathBuf> {
    let python = python::find()?;
    written_goldens(Path::new(python), "write_torch.py", "golden-torch")
}

/// The folder of the goldens as GGUF files.
fn golden_ggufs(cache: &Cache) -> Result<PathBuf> {
    let python = python::environment(cache, "gguf", python::GGUF_TOOLS)?;
    written_goldens(&python, "write_ggufs.py", "golden-ggufs")
}

/// The folder that a tool of the tests writes of the goldens.
fn written_goldens(python: &Path, tool: &str, folder: &str) -> Result<PathBuf> {
    let out = paths::target().join(folder);
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    let mut write = Command::new(python);
    write.arg(paths::root().join("tests/tools").join(tool));
    write.arg("--goldens").arg(paths::root().join("tests/fixtures/golden")).arg("--out").arg(&out);
    command::quietly(&mut write)?;
    Ok(out)
}
