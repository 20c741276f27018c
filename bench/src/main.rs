//! Measures one engine: one JSON line with a prefill and a decode rate, and the read bandwidth.
//!
//! One process measures once, so that rounds of it alternate with rounds of a peer's process and
//! a change of the machine's pace meets both. What is timed is what `llama-bench` calls `pp` and
//! `tg`: a prompt in one step with logits for its last token, and tokens one at a time from an
//! empty cache; the tokens are given, so no sampling is timed.

use anyhow::{Context, Result};
use clap::Parser;
use engraft_engine::Engine;
use engraft_kernels_cpu::{Isa, Pool, bandwidth};
use engraft_runtime::{Batcher, LoadOptions, Model, Step};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Times prefill and decode of an engine; prints one JSON line.
#[derive(Parser)]
struct Args {
    /// The engine's directory.
    #[arg(long = "engine_dir")]
    engine_dir: PathBuf,
    /// Threads that compute.
    #[arg(long)]
    threads: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode.
    #[arg(long, default_value_t = 128)]
    generate: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let before = read_bandwidth(args.threads)?;
    let started = Instant::now();
    let engine = Engine::open(&args.engine_dir)
        .with_context(|| format!("cannot open {}", args.engine_dir.display()))?;
    let length = args.prompt.max(args.generate + 1);
    let options = LoadOptions {
        threads: Some(args.threads),
        max_batch_size: Some(1),
        max_num_tokens: Some(args.prompt),
        max_seq_len: Some(length),
        ..LoadOptions::default()
    };
    let mut model = Model::load(Arc::new(engine), &options)?;
    let load = started.elapsed();

    // The first of each brings weights and code into memory.
    prefill(&mut model, args.prompt)?;
    let prefill = prefill(&mut model, args.prompt)?;
    decode(&mut model, args.generate.min(8))?;
    let decode = decode(&mut model, args.generate)?;
    let device = model.describe();
    drop(model);
    let after = read_bandwidth(args.threads)?;
    let line = json!({
        "device": device,
        "load_ms": load.as_secs_f64() * 1e3,
        "prefill": prefill,
        "decode": decode,
        "read_bandwidth": f64::midpoint(before, after),
    });
    println!("{line}");
    Ok(())
}

/// Token `at` of a text that repeats nothing and stays in any vocabulary of ours.
fn token(model: &Model, at: usize) -> u32 {
    let words = u32::try_from(model.vocabulary()).unwrap_or(u32::MAX).max(1);
    (at as u32).wrapping_mul(7919).wrapping_add(301) % words
}

/// Tokens a second of reading a prompt, to the logits of its last token.
fn prefill(model: &mut Model, tokens: usize) -> Result<f64> {
    let prompt: Vec<u32> = (0..tokens).map(|at| token(model, at)).collect();
    let mut batcher = Batcher::new(model);
    batcher.join(&prompt, tokens - 1, 0)?;
    let started = Instant::now();
    while !batcher.is_idle() {
        batcher.step(|_, _, _| Ok(Step::Leave))?;
    }
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

/// Tokens a second of one request that goes on token by token.
fn decode(model: &mut Model, tokens: usize) -> Result<f64> {
    let text: Vec<u32> = (0..tokens).map(|at| token(model, at)).collect();
    let mut batcher = Batcher::new(model);
    batcher.join(&text[..1], 0, tokens)?;
    let mut steps = 0;
    let started = Instant::now();
    while !batcher.is_idle() {
        batcher.step(|_, position, _| {
            Ok(text.get(position + 1).map_or(Step::Leave, |&t| Step::Append(t)))
        })?;
        steps += 1;
    }
    Ok(f64::from(steps) / started.elapsed().as_secs_f64())
}

/// Bytes a second that as many threads read, from a buffer that no cache holds.
fn read_bandwidth(threads: usize) -> Result<f64> {
    Ok(bandwidth::read(&Pool::new(threads)?, Isa::detect(), 512 << 20, 3))
}
