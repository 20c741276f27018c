//! Running other programs: shown as a person could type them, with their exit codes passed on.

use anyhow::{Context, Result};
use std::env;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A program that ran and failed; it has said why itself, so we exit with its code.
#[derive(Debug)]
pub struct Failed {
    /// The command line.
    pub line: String,
    /// Its exit code; 128 + the signal where a signal ended it.
    pub code: u8,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed with exit code {}", self.line, self.code)
    }
}

impl std::error::Error for Failed {}

/// The cargo that runs us, at the repository's root, with the same target folder.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::paths::root()).env("CARGO_TARGET_DIR", crate::paths::target());
    command
}

/// Prints the command, then runs it with our own input and output.
pub fn run(command: &mut Command) -> Result<()> {
    println!("\n$ {}", line(command));
    quietly(command)
}

/// Runs the command with our own input and output.
pub fn quietly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if status.success() {
        return Ok(());
    }
    Err(Failed { line: line(command), code: code(status) }.into())
}

/// Runs the command without input and collects what it prints. `None` where it is not installed.
pub fn output(command: &mut Command) -> Result<Option<Output>> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Ok(Some(output)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| cannot_start(command)),
    }
}

/// Whether the command is installed and succeeds.
pub fn succeeds(command: &mut Command) -> bool {
    matches!(output(command), Ok(Some(output)) if output.status.success())
}

/// The command as typed in a shell: environment set for it first, paths relative to here.
pub fn line(command: &Command) -> String {
    let env = command.get_envs().filter(|(name, _)| *name != "CARGO_TARGET_DIR");
    let env = env.filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quoted(&value?.to_string_lossy())))
    });
    let program = Path::new(command.get_program());
    let program = match program.file_name() {
        Some(name) if name == "cargo" => "cargo".to_owned(),
        _ => crate::paths::shown(program),
    };
    let arguments = command.get_args().map(|a| quoted(&a.to_string_lossy()));
    env.chain([quoted(&program)]).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// One word of a command line, in single quotes where the shell would read it otherwise.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start {}", command.get_program().to_string_lossy())
}

fn code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_would_read_it() {
        let mut command = Command::new("engraft");
        command.args(["run", "--input_text", "What's new?"]).env("ENGRAFT_PLUGINS", "a b");
        assert_eq!(
            line(&command),
            r"ENGRAFT_PLUGINS='a b' engraft run --input_text 'What'\''s new?'"
        );
    }

    #[test]
    fn the_exit_code_of_a_failed_program_is_kept() {
        let error = quietly(Command::new("sh").args(["-c", "exit 3"])).expect_err("it failed");
        assert_eq!(error.downcast_ref::<Failed>().map(|f| f.code), Some(3));
    }

    #[test]
    fn a_missing_program_is_no_output() {
        let missing = output(&mut Command::new("/nowhere/at/all")).expect("not an error");
        assert!(missing.is_none());
    }
}
