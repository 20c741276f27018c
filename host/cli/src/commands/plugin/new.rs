//! `engraft plugin new`: the crate of a new plugin.

use crate::output;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Writes the crate of a new plugin, which builds as it stands.
///
/// It is a whole decoder of Llama's kind, to be changed where the architecture differs. The plugin
/// SDK is written beside it, at this engraft's version, so the crate can lie anywhere.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct New {
    /// The plugin's name, as `my-model`: words of small letters and digits with dashes between.
    name: String,
    /// The crate's folder: empty, or not there yet. By default NAME, here.
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl New {
    pub fn run(self) -> Result<ExitCode> {
        let directory = self.path.unwrap_or_else(|| PathBuf::from(&self.name));
        let made = engraft_guest::create(&self.name, &directory)?;
        let at = made.directory.display();
        if self.json {
            output::json(&json!({
                "name": self.name,
                "directory": made.directory,
                "accepts": [made.accepts],
                "sdk": engraft_guest::SDK_VERSION,
            }))?;
        } else {
            output::text(&format!(
                "wrote {at}: a plugin for `{}`, on the SDK {} beside it\n\
                 next: say in {at}/src/lib.rs what the architecture is (`README.md` there says how)\n\
                 next: engraft plugin build {}\n",
                made.accepts,
                engraft_guest::SDK_VERSION,
                output::word(&made.directory),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
