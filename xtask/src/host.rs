//! Building what runs on this machine: the `engraft` command and the benchmark.

use crate::command;
use anyhow::Result;

/// What cargo is asked about, whatever it does with it: everything but xtask.
///
/// Features of shared dependencies are settled over the packages of a selection. With one
/// selection for demo, tests and benches each dependency is compiled once; with xtask in it, some
/// of wasmtime's would be compiled again for features that only xtask wants.
pub const SELECTION: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// Builds a command (release profile).
pub fn build(name: &str) -> Result<()> {
    let build = ["build", "--release", "--bin", name];
    command::quietly(command::cargo().args(build).args(SELECTION))
}
