//! Runs the `engraft` command as a person does.

use crate::{fixtures, plugins};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn binary() -> PathBuf {
    let built = std::env::current_exe().expect("a path").with_file_name("../engraft");
    let path = std::env::var_os("ENGRAFT_BIN").map_or(built, PathBuf::from);
    assert!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", path.display());
    path
}

/// The command with these arguments, ready to start; it finds the plugins.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env("ENGRAFT_PLUGINS", plugins()).stdin(Stdio::null());
    command
}

/// What starts processes; none where engraft is built without MPI.
pub fn mpirun() -> Option<PathBuf> {
    std::env::var_os("ENGRAFT_MPIRUN").map(PathBuf::from)
}

/// The command as so many processes.
pub fn processes(mpirun: &Path, count: usize, arguments: &[&str]) -> Command {
    let engraft = command(arguments);
    let mut many = Command::new(mpirun);
    many.args(["--allow-run-as-root", "--oversubscribe", "-n", &count.to_string()]);
    many.arg(engraft.get_program()).args(engraft.get_args());
    for (name, value) in engraft.get_envs() {
        many.env(name, value.expect("a value"));
    }
    many.stdin(Stdio::null());
    many
}

/// Runs the command.
pub fn engraft(args: &[&str]) -> Output {
    command(args).output().expect("it runs")
}

/// What it printed.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What it said of itself and of errors.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Runs what must work; gives its standard output.
pub fn works(args: &[&str]) -> String {
    let output = engraft(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs what must fail: with this exit code, this error code, and these words.
pub fn fails(args: &[&str], exit: i32, code: &str, words: &[&str]) {
    let output = engraft(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {text}");
    assert!(text.contains(&format!("error[{code}]: ")), "{args:?}: {text}");
    assert!(text.contains("help: "), "{args:?} gives no help: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: no `{word}` in: {text}");
    }
}

/// Compiles a golden and gives the folder that has it under `engine`.
pub fn compiled(golden: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let out = folder.path().join("engine").to_string_lossy().into_owned();
    let model = fixtures().join("golden").join(golden).to_string_lossy().into_owned();
    works(&["compile", "--plugin", "llama.wasm", "--model_dir", &model, "--output_dir", &out]);
    (folder, out)
}
