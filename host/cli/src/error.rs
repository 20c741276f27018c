//! Errors to a person: code, what, where, help; and the exit code.

use engraft_diagnostic::{Code, Diagnostic, Fault};
use std::io::Write;

/// The command line asks for what does not exist or does not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Usage {
    what: String,
    help: Option<String>,
}

impl Usage {
    pub fn new(what: impl Into<String>) -> Usage {
        Usage { what: what.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Usage {
        self.help = Some(help.into());
        self
    }
}

impl Diagnostic for Usage {
    fn code(&self) -> Code {
        Code(90)
    }
    fn fault(&self) -> Fault {
        Fault::Usage
    }
    fn help(&self) -> Option<String> {
        self.help.clone()
    }
}

/// The rooms' error types: an `anyhow` chain is searched for the first of them.
macro_rules! find_diagnostic {
    ($cause:expr; $($ty:ty),* $(,)?) => {{
        let cause: &(dyn std::error::Error + 'static) = $cause;
        None$(.or_else(|| cause.downcast_ref::<$ty>().map(|e| e as &dyn Diagnostic)))*
    }};
}

fn diagnostic(e: &anyhow::Error) -> Option<&dyn Diagnostic> {
    e.chain().find_map(|cause| {
        find_diagnostic!(cause;
            Usage,
            Bug,
            engraft_convert::ConvertError,
            engraft_source::SourceError,
            engraft_plugin::FindError,
            engraft_plugin::LimitsError,
            engraft_plugin::PluginError,
            engraft_plugin::SettingsError,
            engraft_weights::WeightError,
            engraft_checkpoint::CheckpointError,
            engraft_compile::CompileError,
            engraft_engine::EngineError,
            engraft_runtime::RuntimeError,
            engraft_guest::GuestError,
            crate::commands::plugin::ReferenceError,
            engraft_files::FileError,
            engraft_files::HeaderError,
        )
    })
}

/// What to print of an error, and the process's exit code.
pub fn explained(e: &anyhow::Error) -> (String, u8) {
    // A reader that went away (`engraft inspect … | head`) is no error of ours.
    let gone = |c: &(dyn std::error::Error + 'static)| {
        c.downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if e.chain().any(gone) {
        return (String::new(), 0);
    }
    match diagnostic(e) {
        Some(d) => (render(d), d.fault().exit_code()),
        None => (format!("error: {e:#}"), Fault::Bug.exit_code()),
    }
}

/// One text for a person. Where nobody can be told any more, the exit code still says it.
pub fn to_stderr(text: &str) {
    if crate::output::is_silent() {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error as part of a report.
pub fn json(e: &anyhow::Error) -> serde_json::Value {
    let d = diagnostic(e);
    serde_json::json!({
        "code": d.map(|d| d.code().to_string()),
        "what": d.map_or_else(|| format!("{e:#}"), ToString::to_string),
        "where": d.and_then(|d| d.location()),
        "help": d.and_then(|d| d.help()),
    })
}

/// `error[EG0103]: what`, `  --> where`, `  help: what to do`.
fn render(d: &dyn Diagnostic) -> String {
    let mut text = format!("error[{}]: {d}", d.code());
    if let Some(location) = d.location() {
        text += &format!("\n  --> {location}");
    }
    if let Some(help) = d.help() {
        text += &format!("\n  help: {help}");
    }
    text
}

/// Our own failure: a panic, which has told its story on the way.
#[derive(Debug, thiserror::Error)]
#[error("engraft itself failed; this is a bug in engraft, not in your model")]
struct Bug;

impl Diagnostic for Bug {
    fn code(&self) -> Code {
        Code(99)
    }
    fn fault(&self) -> Fault {
        Fault::Bug
    }
    fn help(&self) -> Option<String> {
        Some("report the lines above with the command that you ran".into())
    }
}

/// Runs a command; a panic in it unwinds, so that temporary files go, and becomes an error.
pub fn catching_panics<T>(command: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(command))
        .unwrap_or_else(|_| Err(Bug.into()))
}
