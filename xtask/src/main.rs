//! `cargo xtask`: the tasks of this repository.
//!
//! It is the first thing that a fresh machine compiles, so it depends on little, and of the
//! repository's own crates on the one that makes plugins alone: what the others build, it runs.

mod bench;
mod cache;
mod command;
mod demo;
mod examples;
mod fixtures;
mod host;
mod model;
mod mpi;
mod paths;
mod plugins;
mod python;
mod test;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Tasks of this repository. Each installs or builds what it needs and does nothing twice.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Demo(demo::Args),
    Test(test::Args),
    /// Build the plugins (WebAssembly components) into target/plugins.
    Plugins {
        /// Another folder for them.
        #[arg(long = "out_dir", alias = "out-dir", value_name = "DIR")]
        out_dir: Option<PathBuf>,
    },
    Examples(examples::Args),
    /// Find MPI, or install it; fails where there is none. With it, engraft is built with its
    /// feature `mpi` by all other tasks.
    Mpi,
    /// Measure engraft beside its peers.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Plugins { out_dir } => {
            plugins::build(&out_dir.unwrap_or_else(paths::plugins)).map(|_| ())
        }
        Task::Examples(args) => examples::run(&args),
        Task::Mpi if mpi::is_here() => Ok(()),
        Task::Mpi => return ExitCode::FAILURE,
        Task::Bench(bench) => bench::run(&bench),
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    eprintln!("\nerror: {error:#}");
    let code = error.downcast_ref::<command::Failed>().map_or(1, |failed| failed.code);
    ExitCode::from(code)
}
