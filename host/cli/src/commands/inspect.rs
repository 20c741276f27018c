//! `engraft inspect`: what a path holds.

use crate::commands::plugin::{field_rows, identity_json};
use crate::error::Usage;
use crate::output::{self, bytes, table};
use anyhow::Result;
use clap::Args;
use engraft_convert::{Options, Pipeline, build::Checkpoint};
use engraft_diagnostic::escape;
use engraft_engine::{Engine, format::ENGINE_FILE};
use engraft_ir::{Graph, display_axes};
use engraft_plugin::{Limits, Plugin};
use engraft_source::Source;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Shows what a path holds: a model, a plugin, a checkpoint or an engine.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Inspect {
    /// A model's directory or GGUF file, a plugin, a checkpoint's or an engine's directory.
    path: PathBuf,
    /// Report as JSON, with every tensor.
    #[arg(long)]
    json: bool,
    /// Print the graph's text. For models and checkpoints, a plugin writes it.
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    /// The plugin that writes the graph; without it, found by the architecture.
    #[arg(long, value_name = "NAME|FILE", requires = "graph")]
    plugin: Option<String>,
}

/// What is at a path, by what lies there.
enum Kind {
    Engine,
    Plugin,
    Checkpoint,
    Model,
}

fn kind_of(path: &Path) -> Kind {
    let ends = |ending: &str| path.extension().is_some_and(|e| e == ending);
    if ends("engine") || path.join(ENGINE_FILE).exists() {
        Kind::Engine
    } else if ends("wasm") || engraft_plugin::is_manifest(path) {
        Kind::Plugin
    } else if path.join(engraft_checkpoint::WEIGHTS_FILE).exists() {
        Kind::Checkpoint
    } else {
        Kind::Model
    }
}

impl Inspect {
    pub fn run(self) -> Result<ExitCode> {
        match kind_of(&self.path) {
            Kind::Engine => self.engine()?,
            Kind::Plugin => self.plugin()?,
            Kind::Checkpoint => self.checkpoint()?,
            Kind::Model => self.model()?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A heading with rows, or the JSON.
    fn show(&self, what: &str, rows: Vec<(String, String)>, json: Value) -> Result<()> {
        match self.json {
            true => output::json(&json),
            false => output::text(&format!("{}: {what}\n{}", self.path.display(), table(&rows))),
        }
    }

    fn engine(&self) -> Result<()> {
        let engine = Engine::open(&self.path)?;
        if self.graph {
            return output::text(engine.graph_text());
        }
        let config = engine.config();
        let graph = engine.graph();
        let tensors: Vec<Value> = graph
            .weights
            .values()
            .filter(|w| w.tied.is_none())
            .map(|w| {
                json!({
                    "name": w.name, "dtype": w.dtype.to_string(), "axes": display_axes(&w.axes),
                    "bytes": w.bytes(), "blake3": engine.digests().get(&w.name),
                })
            })
            .collect();
        let limits = &config.build_config;
        let mut rows = model_rows(&config.pretrained_config);
        rows.extend(graph_rows(graph));
        let rank = engine.rank();
        if rank.mapping.is_split() {
            rows.push(row(
                "rank",
                format!("{} of {}: {}", rank.number, rank.mapping.world_size(), rank.mapping),
            ));
        }
        rows.push(row(
            "file",
            format!("{}, format {}", bytes(engine.bytes()), engraft_engine::format::VERSION),
        ));
        rows.push(row("target", &limits.target));
        rows.push(row(
            "limits",
            format!(
                "max_batch_size {}, max_seq_len {}, max_num_tokens {}, tokens_per_block {}",
                limits.max_batch_size,
                limits.max_seq_len,
                limits.max_num_tokens,
                limits.tokens_per_block
            ),
        ));
        rows.extend(provenance_rows(engine.provenance()));
        let files: Vec<_> = engine.text_files().collect();
        rows.extend(beside(&files));
        let json = json!({
            "kind": "engine",
            "format": engraft_engine::format::VERSION,
            "rank": rank.number,
            "config": config,
            "provenance": engine.provenance(),
            "bytes": engine.bytes(),
            "tensors": tensors,
            "files": files,
        });
        self.show("an engine", rows, json)
    }

    fn plugin(&self) -> Result<()> {
        if self.graph {
            return Err(Usage::new("a plugin alone has no graph")
                .help("inspect a model: `engraft inspect MODEL --graph --plugin FILE`")
                .into());
        }
        let plugin = Plugin::load(&self.path, &Limits::standard()?)?;
        let identity = plugin.identity().clone();
        let mut session = plugin.session()?;
        let mut rows = vec![
            row("name", format!("{} {}", escape(&identity.name), escape(&identity.version))),
            row("doc", escape(&identity.doc)),
            row("accepts", escape(&identity.accepts.join(", "))),
            row("dialects", escape(&identity.dialects.join(", "))),
            row("contract", Plugin::CONTRACT),
            row("component", bytes(plugin.size())),
            row("sha256", plugin.sha256()),
        ];
        if plugin.manifest().is_some() {
            rows.extend(manifest_rows(&plugin));
        }
        let mut json = identity_json(&plugin);
        json["kind"] = json!("plugin");
        for dialect in &identity.dialects {
            let fields = session.source_fields(dialect)?;
            json["reads"][dialect] = fields_json(&fields);
            rows.push(row(&format!("reads of {}", escape(dialect)), ""));
            rows.extend(field_rows(&fields).into_iter().map(|(a, b)| (format!("  {a}"), b)));
        }
        let own = session.fields()?;
        json["fields"] = fields_json(&own);
        rows.push(row("own fields of a checkpoint", ""));
        rows.extend(field_rows(&own).into_iter().map(|(a, b)| (format!("  {a}"), b)));
        self.show("a plugin", rows, json)
    }

    fn checkpoint(&self) -> Result<()> {
        if self.graph {
            let checkpoint = Checkpoint::open(&self.path, self.plugin.as_deref())?;
            return output::text(&checkpoint.graph().to_string());
        }
        let reader = engraft_checkpoint::Reader::open(&self.path)?;
        let config = reader.config().to_json();
        let tensors: Vec<(String, String, Vec<u64>, u64)> = reader
            .names()
            .iter()
            .filter_map(|name| Some((name, reader.get(name)?)))
            .map(|(name, supply)| {
                (name.clone(), supply.dtype.to_string(), supply.shape(), supply.bytes())
            })
            .collect();
        let mut rows = model_rows(&config);
        rows.push(row("dtype", reader.config().dtype.config_name()));
        let size = tensors.iter().map(|t| t.3).sum();
        rows.push(row("tensors", format!("{} of {}", tensors.len(), bytes(size))));
        if let Some(provenance) = reader.provenance() {
            rows.extend(provenance_rows(provenance));
        }
        let json = json!({
            "kind": "checkpoint",
            "config": config,
            "provenance": reader.provenance(),
            "tensors": tensors_json(&tensors),
        });
        self.show("a checkpoint", rows, json)
    }

    fn model(&self) -> Result<()> {
        if self.graph {
            let options = Options {
                model: self.path.clone(),
                plugin: self.plugin.clone(),
                ..Options::default()
            };
            return output::text(&Pipeline::open(&options)?.graph().to_string());
        }
        let source = Source::open(&self.path)?;
        let tensors: Vec<(String, String, Vec<u64>, u64)> = source
            .tensors()
            .iter()
            .map(|(name, t)| (name.clone(), t.stored.clone(), t.shape.clone(), t.stored_bytes()))
            .collect();
        let count: u64 = tensors.iter().map(|t| t.2.iter().product::<u64>()).sum();
        let mut kinds: std::collections::BTreeMap<&str, usize> = Default::default();
        for t in &tensors {
            *kinds.entry(&t.1).or_default() += 1;
        }
        let kinds: Vec<_> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let size = tensors.iter().map(|t| t.3).sum();
        let mut rows = vec![
            row("dialect", source.dialect()),
            row("architecture", escape(&source.architectures().join(", "))),
            row("dtype", format!("{} (what --dtype auto takes)", source.dtype().config_name())),
            row("numbers", format!("{:.1} M in tensors of {}", count as f64 / 1e6, bytes(size))),
            row("tensors", kinds.join(", ")),
        ];
        let files: Vec<_> = source.text_files().keys().map(String::as_str).collect();
        rows.extend(beside(&files));
        let json = json!({
            "kind": "model",
            "dialect": source.dialect(),
            "architectures": source.architectures(),
            "dtype": source.dtype().config_name(),
            "config": source.config(),
            "tensors": tensors_json(&tensors),
            "files": source.text_files().keys().collect::<Vec<_>>(),
        });
        self.show("a model", rows, json)
    }
}

fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_string(), value.into())
}

/// What a manifest says of the plugin that it stands on.
fn manifest_rows(plugin: &Plugin) -> Vec<(String, String)> {
    let component = plugin.component();
    let Some(manifest) = plugin.manifest() else { return Vec::new() };
    let mut rows = vec![
        row("stands on", format!("{} {}", escape(&component.name), escape(&component.version))),
        row("as", escape(manifest.architecture())),
        row("manifest", format!("sha256 {}", manifest.sha256())),
    ];
    let renamed = |(known, called): (&str, &str)| row("renames", escape_both(known, called));
    rows.extend(manifest.renamed_fields().map(renamed));
    rows.extend(manifest.renames().iter().map(|one| renamed((one.known(), one.called()))));
    for (field, value) in manifest.constants() {
        rows.push(row(
            "always",
            format!("{} is {}", escape(field), escape(&value.to_json().to_string())),
        ));
    }
    rows
}

fn escape_both(known: &str, called: &str) -> String {
    format!("{} is `{}`", escape(known), escape(called))
}

/// The files that lie beside, where there are such.
fn beside(files: &[&str]) -> Option<(String, String)> {
    (!files.is_empty()).then(|| row("beside", files.join(", ")))
}

/// The numbers by which a model is known, out of a checkpoint's config.
fn model_rows(config: &Value) -> Vec<(String, String)> {
    let of = |key: &str| match &config[key] {
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    };
    let mut rows = vec![
        row("architecture", of("architecture")),
        row(
            "shape",
            format!(
                "{} layers, hidden {}, intermediate {}, {} heads of {}, {} key-value heads, vocabulary {}",
                of("num_hidden_layers"),
                of("hidden_size"),
                of("intermediate_size"),
                of("num_attention_heads"),
                of("head_size"),
                of("num_key_value_heads"),
                of("vocab_size"),
            ),
        ),
        row("context", of("max_position_embeddings")),
    ];
    let quantisation = &config["quantization"];
    if let Some(scheme) = quantisation["quant_algo"].as_str() {
        let group = quantisation["group_size"].as_u64().unwrap_or_default();
        let groups = match scheme.ends_with("_AWQ") || scheme.ends_with("_GPTQ") {
            true => format!(", groups of {group}"),
            false => String::new(),
        };
        rows.push(row("quantised", format!("{}{groups}", escape(scheme))));
    }
    rows
}

fn graph_rows(graph: &Graph) -> Vec<(String, String)> {
    let own = graph.weights.values().filter(|w| w.tied.is_none());
    let (mut numbers, mut dtypes) = (0u64, std::collections::BTreeSet::new());
    for weight in own {
        numbers += weight.shape().iter().product::<u64>();
        dtypes.insert(weight.dtype.to_string());
    }
    let dtypes: Vec<_> = dtypes.into_iter().collect();
    vec![
        row(
            "weights",
            format!(
                "{}, {:.1} M numbers in {}",
                graph.weights.len(),
                numbers as f64 / 1e6,
                dtypes.join(", ")
            ),
        ),
        row(
            "graph",
            format!(
                "{} nodes in {} places (--graph shows it)",
                graph.schedule().count(),
                graph.places.len()
            ),
        ),
    ]
}

fn provenance_rows(provenance: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| escape(value.as_str().unwrap_or("?"));
    let plugin_text = |plugin: &Value| {
        let [name, version, sha256] = ["name", "version", "sha256"].map(|key| text(&plugin[key]));
        format!("{name} {version}, sha256 {sha256}")
    };
    let mut rows = vec![row("plugin", plugin_text(&provenance["plugin"]))];
    let component = &provenance["plugin"]["stands_on"];
    if component.is_object() {
        rows.push(row("stands on", plugin_text(component)));
    }
    for file in provenance["source"]["files"].as_array().into_iter().flatten() {
        rows.push(row(
            "made of",
            format!("{}, blake3 {}", text(&file["name"]), text(&file["blake3"])),
        ));
    }
    rows.push(row("by", format!("engraft {}", text(&provenance["engraft"]))));
    rows
}

fn fields_json(fields: &[engraft_plugin::Field]) -> Value {
    let one = |f: &engraft_plugin::Field| json!({ "path": f.path, "kind": f.kind.to_string(), "doc": f.doc });
    fields.iter().map(one).collect()
}

fn tensors_json(tensors: &[(String, String, Vec<u64>, u64)]) -> Value {
    let one = |(name, dtype, shape, bytes): &(String, String, Vec<u64>, u64)| json!({ "name": name, "dtype": dtype, "shape": shape, "bytes": bytes });
    tensors.iter().map(one).collect()
}
