//! One process that is measured, and the room on the disk that it needs.

use crate::command::{self, output};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One command that ran.
pub struct Ran {
    pub seconds: f64,
    /// The most memory that it had, in bytes.
    pub peak: u64,
}

/// Runs a command, leaves out what it prints, and looks at its memory meanwhile.
pub fn watched(command: &mut Command) -> Result<Ran> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let mut child =
        command.spawn().with_context(|| format!("cannot start {}", command::line(command)))?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait().context("cannot wait for a command")? {
            break ended;
        }
        peak = peak.max(peak_memory(&status));
        std::thread::sleep(Duration::from_millis(3));
    };
    let seconds = started.elapsed().as_secs_f64();
    if !ended.success() {
        bail!("`{}` failed", command::line(command));
    }
    Ok(Ran { seconds, peak })
}

/// The most memory that a process has had so far, by its status file; 0 once it has ended.
fn peak_memory(status: &Path) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map_or(0, |count: u64| count << 10)
}

/// Free bytes on the disk of a folder.
pub fn free(folder: &Path) -> Result<u64> {
    let mut df = Command::new("df");
    df.args(["--output=avail", "-B1"]).arg(folder);
    let out = output(&mut df)?.context("df is not there")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let number = text.lines().nth(1).and_then(|line| line.trim().parse().ok());
    number.with_context(|| format!("df says nothing of {}", folder.display()))
}

/// Removes a folder, if there is one.
pub fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}
