//! What a device must be able to do: take a program, then run steps over packed batches.
//!
//! A device knows rows, positions and pages. It knows nothing of requests, sampling or text, and
//! it promises that the logits of a row depend on the tokens of its own span alone, to the bit.

use crate::error::RuntimeError;
use engraft_ir::{Graph, Weight};
use std::ops::Range;
use std::sync::Arc;

/// A graph and the bytes of its weights: what an engine is to a device.
pub trait Program: Send + Sync {
    /// What is computed.
    fn graph(&self) -> &Graph;
    /// The little-endian elements of a weight, outermost axis first; a tied one's are those of
    /// the weight it is tied to. Aligned to 64 bytes at least.
    fn weight(&self, weight: Weight) -> &[u8];
}

impl Program for engraft_engine::Engine {
    fn graph(&self) -> &Graph {
        engraft_engine::Engine::graph(self)
    }

    fn weight(&self, weight: Weight) -> &[u8] {
        engraft_engine::Engine::weight(self, weight)
    }
}

/// The sizes that a device prepares for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that run at a time.
    pub max_batch_size: usize,
    /// Tokens of one step, of all requests.
    pub max_num_tokens: usize,
    /// Rows of one step whose logits are asked for.
    pub max_outputs: usize,
    /// Tokens of one prompt that is to be answered.
    pub max_input_len: usize,
    /// Tokens of one request, prompt and answer.
    pub max_seq_len: usize,
    /// Tokens in a block of the cache.
    pub tokens_per_block: usize,
    /// Blocks of the cache.
    pub blocks: usize,
}

/// The rows of one request in a batch: consecutive tokens of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which rows of the batch.
    pub rows: Range<usize>,
    /// The position of the first of them in the request; all before it are in the cache.
    pub start: usize,
    /// The request's blocks in order: position `p` is in `blocks[p / tokens_per_block]`.
    pub blocks: Arc<[u32]>,
    /// Where what is kept of the request besides is; less than `max_batch_size`, another for
    /// each request that runs, and the same for as long as it does.
    pub slot: u32,
    /// Tokens that the request may ever come to; the same in all its spans. Rotary embeddings
    /// may depend on it.
    pub reach: usize,
}

/// The tokens of one step, of all its requests, without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// Which request each belongs to: their rows follow each other and cover all tokens.
    pub spans: Vec<Span>,
    /// The rows whose logits are asked for, ascending.
    pub outputs: Vec<u32>,
}

impl Batch {
    /// Makes it empty, and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.spans.clear();
        self.outputs.clear();
    }
}

/// A processor with a program on it and a cache.
pub trait Device: Send {
    /// Runs one step: every token's keys and values join the cache, and the logits of
    /// `batch.outputs` come back, row after row.
    ///
    /// # Errors
    /// Where the batch breaks the limits that the device was prepared for.
    fn step(&mut self, batch: &Batch) -> Result<&[f32], RuntimeError>;

    /// Whether somebody pressed Ctrl-C, here or on any other rank: all are told the same.
    ///
    /// # Errors
    /// Where another rank failed.
    fn interrupted(&mut self) -> Result<bool, RuntimeError>;

    /// What it is, for people: `cpu, 2 threads, avx512`.
    fn describe(&self) -> String;
}
