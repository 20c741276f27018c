//! `engraft plugin check`: the conformance run of a plugin, by itself, with a model, and with
//! another implementation's logits.

use super::parity::Parity;
use super::reference::Reference;
use super::report::Report;
use super::{fields, graph, identity_json, mapping};
use crate::error::{self, Usage};
use crate::output;
use anyhow::Result;
use clap::Args;
use engraft_convert::Pipeline;
use engraft_diagnostic::{Fault, escape};
use engraft_ir::DType;
use engraft_plugin::{Limits, Plugin as Component, Shelf};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks a plugin: its contract; with a model, what it reads, needs and writes; with a reference,
/// its numbers.
///
/// A reference is a safetensors file with `prompt_K` (token ids: I32 or I64 [tokens]) and
/// `logits_K` (F32 [tokens, vocab_size]) for each prompt K, computed in f32 by another
/// implementation; `greedy_K` (ids of the greedy continuation) and `hidden_K` (F32 [blocks,
/// tokens, hidden_size]: what each block takes) where there are such. The model is compiled in a
/// temporary folder and run on the CPU in f32. Exits with 1 where the numbers are not the same.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Check {
    /// A component's file, or the name of a plugin that is found by name.
    #[arg(value_name = "FILE|NAME")]
    plugin: String,
    /// A model to describe: a HuggingFace directory or a GGUF file.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model_dir: Option<PathBuf>,
    /// What another implementation gives for the model.
    #[arg(long, value_name = "FILE.safetensors", requires = "model_dir")]
    reference: Option<PathBuf>,
    /// How far logits may be from the reference's: ‖ours − its‖ / ‖its‖.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1e-4,
        requires = "reference",
        allow_negative_numbers = true
    )]
    tolerance: f64,
    /// Print the whole graph, and not one block.
    #[arg(long, requires = "model_dir")]
    graph: bool,
    /// Report as JSON, with every parameter and the whole graph.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub fn run(self) -> Result<ExitCode> {
        if !(self.tolerance > 0.0 && self.tolerance.is_finite()) {
            return Err(Usage::new(format!("--tolerance {} is not above 0", self.tolerance))
                .help("take a small number, as 1e-4")
                .into());
        }
        if Path::new(&self.plugin).join("Cargo.toml").is_file() {
            return Err(Usage::new(format!("{} is a crate, and not a component", self.plugin))
                .help(format!(
                    "build it first: `engraft plugin build {}`",
                    output::word(Path::new(&self.plugin))
                ))
                .into());
        }
        // It is read first: nobody waits for a model to be told of a mistyped path.
        let reference = self.reference.as_deref().map(Reference::read).transpose()?;
        let path = Shelf::standard().find(&self.plugin)?;
        let plugin = Component::load(&path, &Limits::standard()?)?;
        let identity = plugin.identity();
        let head = format!(
            "{} {}: {}\n",
            escape(&identity.name),
            escape(&identity.version),
            escape(&identity.doc)
        );
        let mut report = Report::new(head, identity_json(&plugin));
        match self.checks(&plugin, &path, reference.as_ref(), &mut report) {
            Ok(()) => {
                let sound = report.is_sound();
                report.print(self.json, None)?;
                let fault = Fault::Check.exit_code();
                Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(fault) })
            }
            Err(e) => {
                report.print(self.json, Some(error::json(&e)))?;
                Err(e)
            }
        }
    }

    fn checks(
        &self,
        plugin: &Component,
        path: &Path,
        reference: Option<&Reference>,
        report: &mut Report,
    ) -> Result<()> {
        let size = output::bytes(plugin.size());
        report.passed(
            "contract",
            format!("speaks {} and imports nothing else; {size}", Component::CONTRACT),
        );
        let identity = plugin.identity();
        report.passed("accepts", escape(&identity.accepts.join(", ")));
        let mut session = plugin.session()?;
        for dialect in &identity.dialects {
            let fields = session.source_fields(dialect)?;
            let declared = format!("{}: reads {} fields", escape(dialect), fields.len());
            report.passed("declares", declared);
        }
        let own = session.fields()?.len();
        report.passed("declares", format!("{own} fields of its own in a checkpoint's config"));
        let Some(model) = &self.model_dir else {
            report.next(format!(
                "engraft plugin check {} --model_dir MODEL   to check fields, parameters and graph",
                output::word(path)
            ));
            return Ok(());
        };
        let pipeline = Pipeline::open_with(plugin, model, None)?;
        self.model(&pipeline, report)?;
        match reference {
            Some(reference) => compare((plugin, model), reference, self.tolerance, report),
            None => {
                report.next(format!(
                    "engraft plugin check {} --model_dir {} --reference REFERENCE.safetensors   \
                     to compare logits",
                    output::word(path),
                    output::word(model)
                ));
                Ok(())
            }
        }
    }

    fn model(&self, pipeline: &Pipeline, report: &mut Report) -> Result<()> {
        let whole = pipeline.graph();
        let blocks = whole.places.len().saturating_sub(2);
        let unread = pipeline.unread();
        let (text, details) = fields::section(pipeline)?;
        report.section("config", text, "config", details);
        match unread.len() {
            0 => report.passed("config", "every key is read, or says nothing about arithmetic"),
            n => report.warned("config", format!("{n} keys are read by nobody: see below")),
        }
        for rename in pipeline.idle_renames() {
            report.next(format!(
                "the manifest renames `{}`, of which this model has nothing",
                escape(rename)
            ));
        }
        for key in unread {
            report.next(format!(
                "config key `{}` is read by nobody: declare it, or turn down what it may say",
                escape(key)
            ));
        }
        for rename in pipeline.idle_renames() {
            report.warned(
                "manifest",
                format!("nothing of this model is renamed by {}", escape(rename)),
            );
        }
        report.passed(
            "parameters",
            format!(
                "{} in {blocks} blocks, {:.1} M numbers; every one has its source",
                whole.weights.len(),
                pipeline.parameters() as f64 / 1e6
            ),
        );
        let (mut text, details) = mapping::section(pipeline);
        let tensors = pipeline.source().tensors().len();
        let unused = pipeline.unused_tensors();
        report.passed(
            "tensors",
            match unused.len() {
                0 => format!("{tensors} in the source, every one used"),
                n => format!("{tensors} in the source; {n} left out, with a reason"),
            },
        );
        if !unused.is_empty() {
            text += "left out\n";
            for (name, reason) in unused {
                text += &format!("  {}: {}\n", escape(name), escape(reason));
            }
        }
        report.section("parameters", text, "parameters", details);
        let left_out = unused.iter().map(|(name, why)| json!({ "tensor": name, "reason": why }));
        let left_out: Value = left_out.collect();
        report.passed(
            "graph",
            format!("{} nodes, verified: {}", whole.schedule().count(), graph::operations(whole)),
        );
        let (heading, text) = match self.graph {
            true => ("graph".to_owned(), whole.to_string()),
            false => graph::summary(whole),
        };
        report.section(heading, text, "graph", json!(whole.to_string()));
        pipeline.check_determinism()?;
        report.passed("determinism", "asked again in another order, it says the same");
        pipeline.check_dialects()?;
        let dialects = pipeline.dialects().join(", ");
        report.passed("dialects", format!("the same parameters in {}", escape(&dialects)));
        let (found, text, details) = budgets(pipeline);
        report.passed("budgets", found);
        report.section(
            "budgets",
            text,
            "budgets",
            json!({ "used": details, "left_out": left_out }),
        );
        Ok(())
    }
}

/// What the plugin used up of what it may: one line, a table, JSON.
fn budgets(pipeline: &Pipeline) -> (String, String, Value) {
    let (limits, cost) = (pipeline.limits(), pipeline.cost());
    let used = cost.used;
    let counts: [(&str, &str, u64, u64); 6] = [
        ("fuel", "instructions", cost.fuel, limits.fuel),
        ("memory", "bytes of memory", cost.memory as u64, limits.memory as u64),
        ("operations", "operations in one place", used.operations.into(), limits.operations.into()),
        (
            "total_operations",
            "operations in all places",
            used.total_operations.into(),
            limits.total_operations.into(),
        ),
        (
            "call_bytes",
            "bytes of the largest answer",
            used.call_bytes as u64,
            limits.call_bytes as u64,
        ),
        (
            "kept_bytes",
            "bytes that describe parameters",
            used.kept_bytes as u64,
            limits.kept_bytes as u64,
        ),
    ];
    let share = |used: u64, limit: u64| used as f64 * 100.0 / limit.max(1) as f64;
    let most = counts.iter().map(|c| share(c.2, c.3)).fold(0.0, f64::max);
    let rows: Vec<_> = counts
        .iter()
        .map(|(_, what, used, limit)| {
            ((*what).to_owned(), format!("{used} of {limit} ({:.2} %)", share(*used, *limit)))
        })
        .collect();
    let details = counts
        .iter()
        .map(|(name, _, used, limit)| ((*name).to_owned(), json!({ "used": used, "limit": limit })))
        .collect::<serde_json::Map<_, _>>();
    let found = format!("at most {most:.1} % of any");
    (found, output::table(&rows), Value::Object(details))
}

/// Compares the model's numbers with a reference's.
fn compare(
    (plugin, model): (&Component, &Path),
    reference: &Reference,
    tolerance: f64,
    report: &mut Report,
) -> Result<()> {
    // As it would be compiled with `--dtype float32`.
    let pipeline = Pipeline::open_with(plugin, model, Some(DType::F32))?;
    let parity = Parity::measure(&pipeline, reference, tolerance)?;
    match parity.passed() {
        true => report.passed("parity", parity.found()),
        false => report.failed("parity", parity.found()),
    }
    let (mut text, details) = parity.section();
    if !reference.others.is_empty() {
        let others: Vec<_> = reference.others.iter().map(|name| escape(name)).collect();
        text += &format!("  not looked at: {}\n", others.join(", "));
    }
    report.section("parity, in f32 on the CPU", text, "parity", details);
    for advice in parity.advice() {
        report.next(advice);
    }
    if parity.passed() {
        let what = if plugin.manifest().is_some() { "manifest" } else { "component" };
        report.next(format!(
            "put the {what} into a folder that $ENGRAFT_PLUGINS names: it is then found by the \
             model's architecture"
        ));
    }
    Ok(())
}
