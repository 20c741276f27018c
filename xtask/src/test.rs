//! `cargo xtask test`: everything that tests need, then all tests.
//!
//! Tests find what was built and fetched through environment variables: `ENGRAFT_BIN` (the
//! command), `ENGRAFT_PLUGINS` and `ENGRAFT_EXAMPLES` (folders; the latter only where the tools for
//! other languages can be installed), `ENGRAFT_MPIRUN` (the program that starts ranks; only where
//! engraft is built with MPI), `ENGRAFT_PYTHON` (one that has numpy), `ENGRAFT_SMOLLM2_GGUF` and `ENGRAFT_GEMMA3_GGUF` (files),
//! `ENGRAFT_SMOLLM2_HF_BF16`, `_F16`, `_F32`, `ENGRAFT_GOLDEN_GGUFS` and `ENGRAFT_GOLDEN_TORCH`
//! (directories). Under a bare `cargo test`, tests that need one that is missing say to run this.

use crate::cache::Cache;
use crate::command::{self, cargo};
use crate::{examples, fixtures, host, mpi, paths, plugins};
use anyhow::Result;

/// All tests of the repository, with what they need: engraft, plugins, real models.
///
/// With arguments after `--`, only what they select, by cargo-nextest where it is installed, else
/// by `cargo test`.
#[derive(clap::Args)]
pub struct Args {
    /// Passed on to `cargo nextest run` (or `cargo test`).
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Prepares and runs the tests; their exit code becomes ours.
pub fn run(args: &Args) -> Result<()> {
    // What can be missing comes first: nobody waits for a build to be told so.
    let mut variables = fixtures::prepare(&Cache::open()?)?;
    let plugins_dir = plugins::build(&paths::plugins())?;
    host::build("engraft")?;
    variables.push(("ENGRAFT_BIN".to_owned(), paths::engraft()));
    variables.push(("ENGRAFT_PLUGINS".to_owned(), plugins_dir));
    match examples::build_all() {
        Ok(dir) => variables.push(("ENGRAFT_EXAMPLES".to_owned(), dir)),
        Err(why) => println!("the plugins in C and Python are not tested here: {why:#}"),
    }
    if mpi::is_here() {
        variables.push(("ENGRAFT_MPIRUN".to_owned(), "mpirun".into()));
    }
    let test = |arguments: &[&[&str]]| {
        let mut command = cargo();
        command.args(arguments.concat());
        println!("\n$ {}", command::line(&command));
        command::quietly(command.envs(variables.iter().map(|(name, path)| (name, path))))
    };

    let selection = host::selection();
    let nextest = command::succeeds(cargo().args(["nextest", "--version"]));
    if !args.args.is_empty() {
        let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
        let chosen: Vec<&str> = args.args.iter().map(String::as_str).collect();
        let packages = chosen.iter().any(|a| a.starts_with("-p") || a.starts_with("--package"));
        let selection = if packages { &[] } else { selection.as_slice() };
        return test(&[runner, &["--release"], selection, &chosen]);
    }
    test(&[&["test", "--quiet", "--release", "--package", "xtask"]])?;
    test(&[&["test", "--quiet", "--release", "--doc"], &selection])?;
    // The largest part last: its summary is the last thing to read.
    if nextest {
        test(&[&["nextest", "run", "--release"], &selection])
    } else {
        test(&[&["test", "--release", "--tests"], &selection])
    }
}
