//! `engraft plugin`: what plugins there are, and whether one is sound.

use crate::output;
use anyhow::Result;
use clap::{Args, Subcommand};
use engraft_convert::{Options, Pipeline};
use engraft_diagnostic::escape;
use engraft_plugin::{Field, Limits, Plugin as Component, Shelf};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;

/// Lists and checks plugins.
#[derive(Subcommand)]
pub enum Plugin {
    List(List),
    Check(Check),
}

/// Lists the plugins that are found by name.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct List {
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks a plugin: its contract, budgets and answers; with a model, all the way to the graph.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Check {
    /// A path, or a bundled plugin's name.
    plugin: String,
    /// A model to describe: a HuggingFace directory or a GGUF file.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model_dir: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

impl Plugin {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Plugin::List(command) => command.run(),
            Plugin::Check(command) => command.run(),
        }
    }
}

impl List {
    fn run(self) -> Result<ExitCode> {
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
    })
}

/// The fields that a plugin declares, as rows: path, then what it is.
pub fn field_rows(fields: &[Field]) -> Vec<(String, String)> {
    let row = |f: &Field| (escape(&f.path), format!("{}: {}", f.kind, escape(&f.doc)));
    fields.iter().map(row).collect()
}

impl Check {
    fn run(self) -> Result<ExitCode> {
        let limits = Limits::standard()?;
        let path = Shelf::standard().find(&self.plugin)?;
        let plugin = Component::load(&path, &limits)?;
        let identity = plugin.identity().clone();
        let mut report = Report::new(&plugin);
        report
            .passed("contract", format!("speaks {} and imports nothing else", Component::CONTRACT));
        let mut session = plugin.session()?;
        for dialect in &identity.dialects {
            let fields = session.source_fields(dialect)?;
            report.passed("config", format!("{dialect}: reads {} fields", fields.len()));
        }
        report.passed("fields", format!("{} fields of its own", session.fields()?.len()));
        match self.model_dir.clone() {
            Some(model) => check_model(&mut report, path.display().to_string(), model, &limits)?,
            None => report.next(
                "pass --model_dir with a model to check parameters, graph, determinism and dialects"
                    .into(),
            ),
        }
        report.print(self.json)
    }
}

fn check_model(report: &mut Report, plugin: String, model: PathBuf, limits: &Limits) -> Result<()> {
    let options = Options { model, plugin: Some(plugin), dtype: None };
    let pipeline = Pipeline::open(&options)?;
    let graph = pipeline.graph();
    let blocks = graph.places.len().saturating_sub(2);
    report.passed(
        "parameters",
        format!(
            "{} in {blocks} blocks, {:.1} M numbers; every one has its source",
            graph.weights.len(),
            pipeline.parameters() as f64 / 1e6
        ),
    );
    let tensors = pipeline.source().tensors().len();
    let unused = pipeline.unused_tensors().len();
    report.passed("tensors", format!("{tensors} in the source, {unused} explained as unused"));
    report.passed("graph", format!("{} nodes; verified", graph.schedule().count()));
    pipeline.check_determinism()?;
    report.passed("determinism", "asked again in another order, it says the same".into());
    pipeline.check_dialects()?;
    let dialects = pipeline.dialects().join(", ");
    report.passed("dialects", format!("the same parameters in {}", escape(&dialects)));
    let (fuel, memory) = pipeline.cost();
    report.passed(
        "budgets",
        format!(
            "{fuel} instructions ({:.1} % of what is allowed), {} of memory ({:.1} %)",
            fuel as f64 * 100.0 / limits.fuel as f64,
            output::bytes(memory as u64),
            memory as f64 * 100.0 / limits.memory as f64
        ),
    );
    for key in pipeline.unread() {
        let key = escape(key);
        report.next(format!(
            "config key `{key}` is read by nobody: declare it, or refuse what it says"
        ));
    }
    report.next(
        "compile the model and compare its logits with the reference: `engraft evaluate logits`"
            .into(),
    );
    Ok(())
}

/// What was checked, and what a plugin's author would do next.
struct Report {
    head: String,
    identity: Value,
    passed: Vec<(String, String)>,
    next: Vec<String>,
}

impl Report {
    fn new(plugin: &Component) -> Report {
        let identity = plugin.identity();
        let head = format!(
            "{} {}: {}\n",
            escape(&identity.name),
            escape(&identity.version),
            escape(&identity.doc)
        );
        Report { head, identity: identity_json(plugin), passed: Vec::new(), next: Vec::new() }
    }

    fn passed(&mut self, what: &str, how: String) {
        self.passed.push((what.to_string(), how));
    }

    fn next(&mut self, what: String) {
        self.next.push(what);
    }

    fn print(self, as_json: bool) -> Result<ExitCode> {
        if as_json {
            let passed =
                self.passed.iter().map(|(what, how)| json!({ "check": what, "found": how }));
            output::json(&json!({
                "plugin": self.identity,
                "passed": passed.collect::<Vec<_>>(),
                "next": self.next,
            }))?;
        } else {
            let mut text = self.head;
            let rows: Vec<_> =
                self.passed.into_iter().map(|(what, how)| (format!("ok {what}"), how)).collect();
            text += &output::table(&rows);
            for next in self.next {
                text += &format!("next: {next}\n");
            }
            output::text(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
