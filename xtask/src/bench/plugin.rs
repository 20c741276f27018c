//! `cargo xtask bench plugin`: what plugins cost, each by itself.
//!
//! A build pays for a plugin once: it is read, counted, compiled and linked ("load"), started
//! ("start"), and asked for all parameters and the graph of the model ("describe"), here one of 80
//! layers. The sum is what a person waits for before the first byte of a weight is read.

use super::{busy, figures_median, processor};
use crate::command::output;
use crate::{host, paths, plugins, python};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::Command;

/// Milliseconds that a plugin may cost, all in all.
const BOUND: f64 = 150.0;

/// Flags of `bench plugin`.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds, each through all plugins; medians are over them.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Layers of the model that each describes.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    layers: u32,
}

/// Measures every shipped plugin and prints a table; fails where one is over the bound.
pub fn run(args: &Args) -> Result<()> {
    let plugins_dir = plugins::build(&paths::plugins())?;
    host::build("engraft-bench-plugin")?;
    let others = busy();
    let mut command = Command::new(paths::target().join("release/engraft-bench-plugin"));
    command.arg("--plugins").arg(&plugins_dir);
    command.arg("--models").arg(paths::root().join("tests/fixtures/golden"));
    command.args(["--rounds", &args.rounds.to_string(), "--layers", &args.layers.to_string()]);
    let out = output(&mut command)?.context("engraft-bench-plugin is not there")?;
    if !out.status.success() {
        bail!("engraft-bench-plugin failed:\n{}", python::indented(&out.stderr));
    }
    let text = String::from_utf8(out.stdout).context("engraft-bench-plugin printed no text")?;
    println!(
        "{} layers, {}; medians of {} alternating rounds, in milliseconds\n",
        args.layers,
        processor(),
        args.rounds
    );
    println!(
        "{:<14}{:>9}{:>9}{:>8}{:>10}{:>8}{:>13}",
        "plugin", "kB", "load", "start", "describe", "sum", "instructions"
    );
    let mut slow = Vec::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).context("a line that is no JSON")?;
        let name = value["plugin"].as_str().unwrap_or_default();
        let [load, start, describe] =
            ["load", "instantiate", "describe"].map(|key| figures_median(&value[key]));
        let sum = load + start + describe;
        println!(
            "{name:<14}{:>9.1}{load:>9.1}{start:>8.2}{describe:>10.1}{sum:>8.1}{:>11.1} M{}",
            value["bytes"].as_f64().unwrap_or(f64::NAN) / 1e3,
            value["fuel"].as_f64().unwrap_or(f64::NAN) / 1e6,
            if sum > BOUND { "  over the bound" } else { "" },
        );
        if sum > BOUND {
            slow.push(name.to_owned());
        }
    }
    if others > 0.2 {
        println!("\nthe machine is busy ({others:.1} cores): do not trust these figures");
    }
    if !slow.is_empty() && others <= 0.2 {
        bail!("over {BOUND} ms: {}", slow.join(", "));
    }
    Ok(())
}
