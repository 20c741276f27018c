//! `engraft plugin list`: the plugins that are found by name.

use super::identity_json;
use crate::output;
use anyhow::Result;
use clap::Args;
use engraft_diagnostic::escape;
use engraft_plugin::{Limits, Plugin as Component, Shelf};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Lists the plugins that are found by name.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct List {
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl List {
    pub fn run(self) -> Result<ExitCode> {
        let limits = Limits::standard()?;
        let mut rows = Vec::new();
        let mut listed = Vec::new();
        for found in Shelf::standard().all() {
            match Component::load(&found.path, &limits) {
                Ok(plugin) => {
                    let identity = plugin.identity();
                    rows.push((
                        format!("{} {}", escape(&identity.name), escape(&identity.version)),
                        format!(
                            "{} [{}]",
                            escape(&identity.doc),
                            escape(&identity.accepts.join(", "))
                        ),
                    ));
                    let mut entry = identity_json(&plugin);
                    entry["path"] = json!(found.path);
                    listed.push(entry);
                }
                Err(e) => {
                    rows.push((found.name.clone(), format!("cannot be loaded: {e}")));
                    listed.push(json!({ "path": found.path, "error": e.to_string() }));
                }
            }
        }
        if self.json {
            output::json(&Value::Array(listed))?;
        } else if rows.is_empty() {
            output::text(
                "no plugins: `cargo xtask plugins` builds the bundled ones, and $ENGRAFT_PLUGINS \
                 names folders with others\n",
            )?;
        } else {
            output::text(&output::table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
