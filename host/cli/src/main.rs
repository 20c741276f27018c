//! The `engraft` command: a file a command, under `commands`.
//!
//! Libraries say what went wrong (`Diagnostic`); this crate says it to a person and turns it
//! into an exit code: 0 done, 1 a check failed, 2 usage, 3 bad input, 4 plugin at fault,
//! 5 limits (memory, disk, permissions), 70 our own bug, 130 interrupted.

mod args;
mod commands;
mod error;
mod load;
mod output;
mod progress;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Compiles a language model's checkpoint into an engine that runs anywhere.
///
/// What an architecture is comes from a sandboxed WebAssembly plugin; flags carry
/// TensorRT-LLM's names, and `_` and `-` in them are the same.
#[derive(Parser)]
#[command(name = "engraft", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(commands::compile::Compile),
    Convert(commands::convert::Convert),
    Build(commands::build::Build),
    Run(commands::run::Run),
    #[command(subcommand)]
    Evaluate(commands::evaluate::Evaluate),
    Inspect(commands::inspect::Inspect),
    Verify(commands::verify::Verify),
    Diff(commands::diff::Diff),
    #[command(subcommand)]
    Plugin(commands::plugin::Plugin),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(args::normalized(std::env::args_os()));
    // The first interrupt lets work stop at the next piece and clean up after itself; the
    // second does not wait.
    let handler = ctrlc::set_handler(|| {
        if engraft_files::interrupt::requested() {
            std::process::exit(130);
        }
        engraft_files::interrupt::request();
    });
    if let Err(e) = handler {
        error::to_stderr(&format!("warning: Ctrl-C will not clean up: {e}"));
    }
    let done = error::catching_panics(|| match cli.command {
        Command::Compile(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Evaluate(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Plugin(command) => command.run(),
    });
    match done {
        Ok(code) => code,
        Err(e) => error::report(&e),
    }
}
