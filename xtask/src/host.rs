//! Building the `engraft` command.

use crate::command;
use anyhow::Result;

/// Builds `engraft` (release profile, as tests and benches do: one set of artifacts for all).
pub fn build() -> Result<()> {
    command::quietly(command::cargo().args(["build", "--release", "--package", "engraft"]))
}
