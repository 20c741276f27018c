//! `engraft plugin build`: a crate to a component that loads.

use crate::error::Usage;
use crate::output;
use anyhow::Result;
use clap::Args;
use engraft_diagnostic::escape;
use engraft_files::{FileError, OutputFile};
use engraft_guest::{Compiled, GuestError, Toolchain};
use engraft_plugin::{Limits, Plugin as Component};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Compiles a plugin's crate to a component, and checks that it loads.
///
/// Cargo compiles it for WebAssembly, in the release profile; what it has to say stands as it says
/// it. The same sources give the same bytes wherever they lie: paths of this machine and flags of
/// its environment (RUSTFLAGS) stay out.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Build {
    /// The crate's folder.
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    /// The component's file. By default NAME.wasm in the crate's folder.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Install a compiler for WebAssembly where there is none: by rustup, or Debian's packages.
    #[arg(long)]
    install: bool,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Build {
    pub fn run(self) -> Result<ExitCode> {
        if !self.directory.is_dir() {
            let at = self.directory.display();
            return Err(Usage::new(format!("{at} is no folder"))
                .help("give the folder of a plugin's crate; `engraft plugin new` writes one")
                .into());
        }
        if let Some(output) = &self.output {
            check_replaceable(output)?;
        }
        let toolchain = match Toolchain::find(&self.directory) {
            Some(toolchain) => toolchain,
            None if self.install => Toolchain::install(&self.directory, &mut shown)?,
            None => return Err(GuestError::NoToolchain { tried: None }.into()),
        };
        let Compiled { name, component } = engraft_guest::compile(toolchain, &self.directory)?;
        let output = self.output.unwrap_or_else(|| self.directory.join(format!("{name}.wasm")));
        check_replaceable(&output)?;
        let plugin = Component::from_bytes(&name, &component, &Limits::standard()?)?;
        replace(&output, &component)?;
        let identity = plugin.identity();
        if self.json {
            let mut json = super::identity_json(&plugin);
            json["path"] = serde_json::json!(output);
            output::json(&json)?;
        } else {
            output::text(&format!(
                "wrote {}: {}, {} {} for {}\n\
                 next: engraft plugin check {} --model_dir MODEL\n",
                output.display(),
                output::bytes(plugin.size()),
                escape(&identity.name),
                escape(&identity.version),
                escape(&identity.accepts.join(", ")),
                output::word(&output),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a command that installs something, and shows it.
fn shown(command: &mut Command) -> std::result::Result<(), String> {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let line = line.join(" ");
    crate::error::to_stderr(&format!("$ {line}"));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{line}` failed: {status}")),
        Err(e) => Err(format!("`{line}`: {e}")),
    }
}

/// A component is built again and again; anything else in its place was meant to stay.
fn check_replaceable(path: &Path) -> Result<()> {
    let other = match fs::metadata(path) {
        Ok(found) if found.is_dir() => true,
        Ok(found) if found.len() == 0 => false,
        Ok(_) => !begins_as_wasm(path)?,
        Err(_) => false,
    };
    match other {
        true => Err(Usage::new(format!("{} is there, and is no plugin", path.display()))
            .help("choose another --output, or take it away")
            .into()),
        false => Ok(()),
    }
}

fn begins_as_wasm(path: &Path) -> Result<bool> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(FileError::io("open", path))?;
    file.take(4).read_to_end(&mut head).map_err(FileError::io("read", path))?;
    Ok(head == b"\0asm")
}

/// Writes a file whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let out = OutputFile::create(path, true)?;
    fs::write(out.path(), bytes).map_err(FileError::io("write", path))?;
    Ok(out.commit()?)
}
