//! Measures plugins: what loading one costs, and what it costs to ask it about a large model.
//!
//! Each plugin describes a golden model of its own whose layers were made as many as asked. A
//! round goes through all plugins, so that a change of the machine's pace meets all of them;
//! one JSON line a plugin has the figures of every round.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use engraft_ir::DType;
use engraft_plugin::{Found, Limits, Plugin, Setting, Shelf, Value, nest, resolve};
use engraft_source::Source;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Times every plugin of a folder; prints one JSON line for each.
#[derive(Parser)]
struct Args {
    /// The plugins' folder.
    #[arg(long)]
    plugins: PathBuf,
    /// A folder of models, small ones that are described as larger.
    #[arg(long)]
    models: PathBuf,
    /// How many layers a model is given.
    #[arg(long, default_value_t = 80)]
    layers: u32,
    /// Rounds that count; one goes before them.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// One plugin, the model that it is asked about, and what was measured.
struct Subject {
    found: Found,
    plugin: Plugin,
    settings: Vec<Setting>,
    dialect: String,
    model: String,
    /// Of each round, in milliseconds: load, instantiate, describe.
    rounds: Vec<[f64; 3]>,
    fuel: u64,
    memory: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let limits = Limits::standard()?;
    let mut models: Vec<PathBuf> = std::fs::read_dir(&args.models)
        .with_context(|| format!("no folder {}", args.models.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    models.sort();
    let mut subjects = Vec::new();
    for found in Shelf::new([args.plugins]).all() {
        subjects.push(subject(found, &models, args.layers, &limits)?);
    }
    for round in 0..=args.rounds {
        for subject in &mut subjects {
            let times = measure(subject, args.layers, &limits)?;
            // The first brings files and code into memory.
            if round > 0 {
                subject.rounds.push(times);
            }
        }
    }
    for Subject { found, plugin, model, rounds, fuel, memory, .. } in subjects {
        let figures = |at: usize| rounds.iter().map(|times| times[at]).collect::<Vec<f64>>();
        let line = json!({
            "plugin": found.name,
            "model": model,
            "bytes": plugin.size(),
            "load": figures(0),
            "instantiate": figures(1),
            "describe": figures(2),
            "fuel": fuel,
            "memory": memory,
        });
        println!("{line}");
    }
    Ok(())
}

/// Finds a model for a plugin and gives it more layers.
fn subject(found: Found, models: &[PathBuf], layers: u32, limits: &Limits) -> Result<Subject> {
    let plugin = Plugin::load(&found.path, limits)?;
    for model in models {
        let source = Source::open(model)?;
        if source.architectures().first().is_some_and(|name| plugin.accepts(name)) {
            let settings = settings(&plugin, &source, layers)
                .with_context(|| format!("{} on {}", found.name, model.display()))?;
            let dialect = source.dialect().to_owned();
            let model = name(model);
            return Ok(Subject {
                found,
                plugin,
                settings,
                dialect,
                model,
                rounds: Vec::new(),
                fuel: 0,
                memory: 0,
            });
        }
    }
    bail!("no model for the plugin {}", found.name)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the plugin makes of a source's config, with another number of layers.
fn settings(plugin: &Plugin, source: &Source, layers: u32) -> Result<Vec<Setting>> {
    let mut session = plugin.session()?;
    let fields = session.source_fields(source.dialect())?;
    let has_tensor = |name: &str| source.tensors().contains_key(name);
    let (read, _) = resolve(&fields, source.config(), &has_tensor)?;
    let mut settings = session.configure(source.dialect(), &read)??;
    let own = session.fields()?;
    let json = serde_json::Value::Object(nest(&settings));
    let (defaults, _) = resolve(&own, &json, &|_| false)?;
    settings.retain(|setting| own.iter().all(|field| field.path != setting.path));
    settings.extend(defaults);
    let depth = settings.iter().find(|setting| setting.path == "num_hidden_layers");
    let Some(Value::Integer(before)) = depth.and_then(|setting| setting.value.clone()) else {
        bail!("`configure` sets no num_hidden_layers");
    };
    for Setting { path, value } in &mut settings {
        match value {
            Some(Value::Integer(count)) if path == "num_hidden_layers" => *count = layers.into(),
            Some(Value::Integers(list)) => longer(list, before, layers),
            Some(Value::Numbers(list)) => longer(list, before, layers),
            Some(Value::Texts(list)) => longer(list, before, layers),
            _ => {}
        }
    }
    Ok(settings)
}

/// A list with an entry for each layer goes round until it has as many as there are layers now.
fn longer<T: Clone>(list: &mut Vec<T>, before: i64, layers: u32) {
    if list.len() as i64 == before {
        *list = list.iter().cycle().take(layers as usize).cloned().collect();
    }
}

/// Loads a plugin, starts it, and has it describe its model: milliseconds of each.
fn measure(subject: &mut Subject, layers: u32, limits: &Limits) -> Result<[f64; 3]> {
    let mut mark = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        (now - std::mem::replace(&mut mark, now)).as_secs_f64() * 1e3
    };
    let plugin = Plugin::load(&subject.found.path, limits)?;
    let load = lap();
    let mut session = plugin.session()?;
    let instantiate = lap();
    session.open(&subject.settings)??;
    let outline = session.outline()?;
    for place in outline.places() {
        session.parameters(place, &subject.dialect)?;
    }
    let graph = session.write(&|_, _| DType::BF16)?;
    let describe = lap();
    ensure!(graph.places.len() == layers as usize + 2, "it wrote {} places", graph.places.len());
    (subject.fuel, subject.memory) = (session.fuel_used(), session.memory_peak());
    Ok([load, instantiate, describe])
}
