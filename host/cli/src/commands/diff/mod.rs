//! `engraft diff`: in what two checkpoints or engines differ.

mod report;
mod side;

use crate::error::Usage;
use crate::{output, progress};
use anyhow::Result;
use clap::Args;
use engraft_convert::build::Checkpoint;
use engraft_weights::{Named, Provider, Supply, distance};
use report::{Report, Row, Tensor};
use serde_json::Value;
use side::Side;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Compares two checkpoints or engines: config, graph, every tensor.
///
/// Numbers are compared as f32, whatever type they are stored in. Two that are spread over ranks
/// in different ways are compared as whole models; that difference alone makes them no other.
/// Exits with 0 where they are equal, and with 1 where they differ.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Diff {
    /// A checkpoint's or an engine's directory, or one rank's engine file.
    left: PathBuf,
    /// The other.
    right: PathBuf,
    /// List every tensor and every line that differs, not only the worst.
    #[arg(long)]
    all: bool,
    /// Report as JSON, with everything that differs.
    #[arg(long)]
    json: bool,
    /// The plugin that knows how a checkpoint of several ranks belongs together; without it,
    /// found by the architecture.
    #[arg(long, value_name = "NAME|FILE")]
    plugin: Option<String>,
}

/// What has tensors, and what stands before their names in the report.
struct Pair<'a> {
    prefix: String,
    left: Box<dyn Provider + 'a>,
    right: Box<dyn Provider + 'a>,
}

impl Diff {
    pub fn run(self) -> Result<ExitCode> {
        let (left, right) = (Side::open(&self.left)?, Side::open(&self.right)?);
        let mut report = Report::new(&left, &right)?;
        // Opened here, as what they hand out is borrowed.
        let (one, two);
        let mut pairs = Vec::new();
        if left.spread()? == right.spread()? {
            for rank in 0..left.ranks() {
                let prefix = match left.ranks() {
                    1 => String::new(),
                    _ => format!("rank{rank}: "),
                };
                let (left, right) = (left.provider(rank)?, right.provider(rank)?);
                pairs.push(Pair { prefix, left, right });
            }
        } else {
            (one, two) = (self.whole(&left)?, self.whole(&right)?);
            let left = Whole::provider(&one, &left)?;
            pairs.push(Pair { prefix: String::new(), left, right: Whole::provider(&two, &right)? });
        }
        self.compare(&pairs, &mut report)?;
        match self.json {
            true => output::json(&report.json())?,
            false => output::text(&report.text(self.all))?,
        }
        Ok(ExitCode::from(u8::from(!report.is_equal())))
    }

    /// A model of any mapping, put together.
    fn whole(&self, side: &Side) -> Result<Whole> {
        if side.ranks() == 1 {
            return Ok(Whole::AsItIs);
        }
        match side {
            Side::Checkpoint(reader) => {
                let opened = Checkpoint::open(reader.directory(), self.plugin.as_deref())?;
                Ok(Whole::Joined(Box::new(opened)))
            }
            Side::Engine { .. } => Err(Usage::new(format!(
                "{} and {} are spread over ranks in different ways, and an engine's ranks cannot \
                 be put together",
                self.left.display(),
                self.right.display()
            ))
            .help("compare the checkpoints that the engines were built of")
            .into()),
        }
    }

    /// Compares all tensors, each with all others at the same time.
    fn compare(&self, pairs: &[Pair<'_>], report: &mut Report) -> Result<()> {
        let mut jobs = Vec::new();
        for pair in pairs {
            let (left, right) = (supplies(&*pair.left), supplies(&*pair.right));
            for (&name, supply) in &left {
                let tensor = |supply: &Supply| Tensor::new(&pair.prefix, name, supply);
                match right.get(name) {
                    None => report.only_left.push(tensor(supply)),
                    Some(other) if other.shape() != supply.shape() => {
                        report.shapes.push((tensor(supply), tensor(other)));
                    }
                    Some(other) => {
                        jobs.push((pair, name, supply.bytes(), tensor(supply), tensor(other)))
                    }
                }
            }
            let others = right.iter().filter(|(name, _)| !left.contains_key(*name));
            report.only_right.extend(others.map(|(n, s)| Tensor::new(&pair.prefix, n, s)));
        }
        // The largest first, so that no core is left with one at the end.
        jobs.sort_by_key(|(_, _, bytes, _, _)| std::cmp::Reverse(*bytes));
        let total = jobs.iter().map(|(_, _, bytes, _, _)| bytes).sum();
        let bar = progress::Bytes::new("comparing");
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let failed = AtomicBool::new(false);
        let rows = Mutex::new(Vec::new());
        let work = || -> Result<()> {
            while !failed.load(Ordering::Relaxed) {
                let Some((pair, name, _, left, right)) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                else {
                    break;
                };
                let named = |provider| Named { provider, name };
                let passed = |bytes| {
                    bar.set(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
                };
                let distance = distance(named(&*pair.left), named(&*pair.right), &passed)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                let row = Row { left: left.clone(), right: right.clone(), distance };
                rows.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(row);
            }
            Ok(())
        };
        // Threads of our own: those of the pool work on pieces of what is streamed.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        report.rows = rows.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        report.sort();
        Ok(())
    }
}

/// A side as a whole model.
enum Whole {
    /// It is one already.
    AsItIs,
    /// A checkpoint whose ranks are put together.
    Joined(Box<Checkpoint>),
}

impl Whole {
    fn provider<'a>(&'a self, side: &'a Side) -> Result<Box<dyn Provider + 'a>> {
        match self {
            Whole::AsItIs => side.provider(0),
            Whole::Joined(checkpoint) => Ok(Box::new(side::Borrowed(checkpoint.weights()))),
        }
    }
}

fn supplies(provider: &dyn Provider) -> BTreeMap<&str, &Supply> {
    let names = provider.names().iter();
    names.filter_map(|name| Some((name.as_str(), provider.get(name)?))).collect()
}

/// Every value of a config by its dotted key.
fn leaves(value: &Value, key: &str, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                leaves(value, &key, found);
            }
        }
        other => {
            found.insert(key.to_owned(), other.clone());
        }
    }
}
