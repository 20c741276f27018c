//! Building what runs on this machine: the `engraft` command and the benchmark.

use crate::{command, mpi};
use anyhow::Result;

/// What cargo is asked about, whatever it does with it: everything but xtask, with MPI where there
/// is one.
///
/// Features of shared dependencies are settled over the packages of a selection. With one
/// selection for demo, tests and benches each dependency is compiled once; with xtask in it, or
/// with MPI at one time and without it at another, some of wasmtime's would be compiled again.
pub fn selection() -> Vec<&'static str> {
    let mut selection = vec!["--workspace", "--exclude", "xtask"];
    if mpi::is_here() {
        selection.extend(["--features", "engraft/mpi"]);
    }
    selection
}

/// Builds a command (release profile).
pub fn build(name: &str) -> Result<()> {
    let build = ["build", "--release", "--bin", name];
    command::quietly(command::cargo().args(build).args(selection()))
}
