//! The `engraft` command: a file a command, under `commands`.
//!
//! Libraries say what went wrong (`Diagnostic`); this crate says it to a person and turns it
//! into an exit code: 0 done, 1 a check failed, 2 usage, 3 bad input, 4 plugin at fault,
//! 5 limits (memory, disk, permissions), 70 our own bug, 130 interrupted.

mod args;
mod commands;
mod error;
mod forecast;
mod legacy;
mod load;
mod mapping;
mod output;
mod progress;
mod quant;
mod ranks;
mod scratch;

use clap::{Parser, Subcommand};
use ranks::World;
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

impl Command {
    /// As it is typed.
    fn name(&self) -> &'static str {
        match self {
            Command::Compile(_) => "compile",
            Command::Convert(_) => "convert",
            Command::Build(_) => "build",
            Command::Run(_) => "run",
            Command::Evaluate(_) => "evaluate",
            Command::Inspect(_) => "inspect",
            Command::Verify(_) => "verify",
            Command::Diff(_) => "diff",
            Command::Plugin(_) => "plugin",
        }
    }
}

fn main() -> ExitCode {
    ranks::be_quiet();
    let cli = match Cli::try_parse_from(args::normalized(std::env::args_os())) {
        Ok(cli) => cli,
        Err(e) if output::is_silent() => return ExitCode::from(e.exit_code() as u8),
        Err(e) => e.exit(),
    };
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
    let name = cli.command.name();
    let several = matches!(cli.command, Command::Run(_) | Command::Evaluate(_));
    let world = match World::join(name, several) {
        Ok(world) => world,
        Err(e) => return ExitCode::from(World::alone().fail(&e)),
    };
    let done = error::catching_panics(|| match cli.command {
        Command::Compile(command) => command.run(),
        Command::Convert(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Run(command) => command.run(&world),
        Command::Evaluate(command) => command.run(&world),
        Command::Inspect(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Diff(command) => command.run(),
        Command::Plugin(command) => command.run(),
    });
    match done {
        Ok(code) => {
            world.finish();
            code
        }
        Err(e) => ExitCode::from(world.fail(&e)),
    }
}
