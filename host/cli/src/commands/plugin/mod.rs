//! `engraft plugin`: what plugins there are, making one, and whether one is sound.

mod build;
mod check;
mod fields;
mod graph;
mod list;
mod mapping;
mod new;
mod parity;
mod reference;
mod report;

pub use reference::ReferenceError;

use anyhow::Result;
use clap::Subcommand;
use engraft_diagnostic::escape;
use engraft_plugin::{Field, Plugin as Component};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Lists, makes and checks plugins.
#[derive(Subcommand)]
pub enum Plugin {
    List(list::List),
    New(new::New),
    Build(build::Build),
    Check(check::Check),
}

impl Plugin {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Plugin::List(command) => command.run(),
            Plugin::New(command) => command.run(),
            Plugin::Build(command) => command.run(),
            Plugin::Check(command) => command.run(),
        }
    }
}

/// What a plugin says of itself.
pub fn identity_json(plugin: &Component) -> Value {
    let identity = plugin.identity();
    json!({
        "name": identity.name,
        "version": identity.version,
        "doc": identity.doc,
        "accepts": identity.accepts,
        "dialects": identity.dialects,
        "contract": Component::CONTRACT,
        "sha256": plugin.sha256(),
        "bytes": plugin.size(),
        "stands_on": plugin.manifest().map(|_| &plugin.component().name),
        "manifest": plugin.manifest().map(engraft_plugin::Manifest::to_json),
    })
}

/// The fields that a plugin declares, as rows: path, then what it is.
pub fn field_rows(fields: &[Field]) -> Vec<(String, String)> {
    let row = |f: &Field| (escape(&f.path), format!("{}: {}", f.kind, escape(&f.doc)));
    fields.iter().map(row).collect()
}
