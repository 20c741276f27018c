//! The CPU as a device: a plan made at load, one run of the thread pool a step, or one for each
//! stretch between two meetings with other ranks.

mod collective;
mod exec;
mod machine;
mod matrix;
mod memory;
mod mixture;
mod plan;
#[cfg(test)]
mod reference;
mod rope_tables;

pub(crate) use machine::{default_threads, free_memory};

use collective::Luggage;

use crate::device::{Batch, Device, Limits, Program};
use crate::error::RuntimeError;
use crate::ranks::Ranks;
use cranelift_entity::PrimaryMap;
use engraft_ir::{Graph, Op, Rotary, StateData};
use engraft_kernels_cpu::{Arena, Executor, Isa, KvCache, Span};
use exec::Inputs;
use plan::Plan;
use rope_tables::GrowingTable;
use std::sync::Arc;

/// Tokens in a block of the cache are a multiple of it: so many keys lie side by side.
pub(crate) const BLOCK_MULTIPLE: usize = KvCache::BLOCK;

/// Bytes that one token takes in the caches of all attentions.
pub(crate) fn cache_bytes_of_token(graph: &Graph) -> u64 {
    let bytes = graph.states.values().map(|state| match *state {
        StateData::Cache { key_heads, head_width, keys_only } => {
            KvCache::token_bytes(key_heads, head_width, keys_only)
        }
        StateData::Convolution { .. } | StateData::Recurrence { .. } => 0,
    });
    bytes.fold(0, u64::saturating_add)
}

/// Token ids below it are in every embedding; none where there is none.
pub(crate) fn token_limit(graph: &Graph) -> Option<u64> {
    let rows = graph.schedule().filter_map(|(_, node)| match graph.nodes[node].op {
        Op::Embedding { stretch: Some(stretch), .. } => Some(stretch.of),
        Op::Embedding { table, .. } => graph.weights[table].shape().first().copied(),
        _ => None,
    });
    rows.min()
}

/// How a program is put on the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) threads: usize,
    pub(crate) isa: Option<Isa>,
    /// How wide the model's logits are.
    pub(crate) vocabulary: usize,
}

/// A program on the CPU.
pub(crate) struct Cpu {
    program: Arc<dyn Program>,
    ranks: Ranks,
    luggage: Luggage,
    /// What the last stage computed, where this is another.
    received: Vec<f32>,
    limits: Limits,
    vocabulary: usize,
    token_limit: usize,
    plan: Plan,
    tables: PrimaryMap<Rotary, GrowingTable>,
    caches: Vec<KvCache>,
    arena: Arena,
    executor: Executor,
}

impl Cpu {
    /// Reads the graph and reserves memory; reads no matrix and touches no memory it reserves.
    ///
    /// # Errors
    /// A graph or weights that cannot run, more memory than is free, no such instruction set, or
    /// no threads to be had.
    pub(crate) fn prepare(
        program: Arc<dyn Program>,
        ranks: Ranks,
        setup: Setup,
    ) -> Result<Cpu, RuntimeError> {
        let Setup { limits, threads, isa, vocabulary } = setup;
        let isa = isa.unwrap_or_else(Isa::detect);
        if !isa.is_available() {
            return Err(RuntimeError::NoIsa { isa: isa.to_string() });
        }
        let plan = Plan::new(&*program, &limits)?;
        let graph = program.graph();
        let cached = (limits.blocks as u64)
            .saturating_mul(limits.tokens_per_block as u64)
            .saturating_mul(cache_bytes_of_token(graph));
        let values = (plan.arena as u64).saturating_mul(size_of::<f32>() as u64);
        let free = free_memory() / u64::from(ranks.neighbours());
        let needed = cached.saturating_add(values);
        if needed > free {
            return Err(RuntimeError::OutOfMemory {
                what: "the cache and the values of a step",
                needed: needed >> 20,
                available: free >> 20,
            });
        }
        let mut tables = PrimaryMap::new();
        for rotary in graph.rotaries.values() {
            tables.push(GrowingTable::new(rotary.clone()));
        }
        let cache = |heads: u32, width: u32, keys_only: bool| {
            let new = if keys_only { KvCache::keys_only } else { KvCache::new };
            new(limits.blocks, limits.tokens_per_block, heads as usize, width as usize)
        };
        let caches = graph.states.values().filter_map(|state| match *state {
            StateData::Cache { key_heads, head_width, keys_only } => {
                Some(cache(key_heads, head_width, keys_only))
            }
            StateData::Convolution { .. } | StateData::Recurrence { .. } => None,
        });
        let caches = caches.collect();
        let executor = Executor::new(isa, threads)
            .map_err(|e| RuntimeError::NoThreads { threads, reason: e.to_string() })?;
        // Zeroed memory comes from the system page by page as it is used.
        let arena = Arena::new(plan.arena);
        let token_limit = token_limit(graph).and_then(|limit| usize::try_from(limit).ok());
        let token_limit = token_limit.unwrap_or(usize::MAX);
        let (luggage, received) = (Luggage::default(), Vec::new());
        Ok(Cpu {
            program,
            ranks,
            luggage,
            received,
            limits,
            vocabulary,
            token_limit,
            plan,
            tables,
            caches,
            arena,
            executor,
        })
    }

    /// The logits of the last batch that ran, which was this one.
    pub(crate) fn logits(&self, batch: &Batch) -> &[f32] {
        match self.plan.logits {
            Some(slot) => {
                let rows = slot.rows(batch.tokens.len(), batch.outputs.len());
                &self.arena[rows.start..][..rows.rows * rows.width]
            }
            None => &self.received,
        }
    }

    /// Runs one step, together with all other ranks.
    ///
    /// # Errors
    /// As [`Device::step`].
    pub(crate) fn run(&mut self, batch: &Batch) -> Result<(), RuntimeError> {
        self.check(batch)?;
        let positions = batch.spans.iter().map(|s| s.start + s.rows.len()).max().unwrap_or(0);
        self.tables.values_mut().for_each(|table| table.reach(positions));
        let spans: Vec<Span<'_>> = batch
            .spans
            .iter()
            .map(|span| Span {
                first_row: span.rows.start,
                rows: span.rows.len(),
                position: span.start,
                pages: &span.blocks,
                reach: span.reach,
            })
            .collect();
        let slots: Vec<u32> = batch.spans.iter().map(|span| span.slot).collect();
        let inputs = Inputs {
            program: &*self.program,
            plan: &self.plan,
            tables: &self.tables,
            batch,
            spans: &spans,
            slots: &slots,
        };
        let mut next = 0;
        for (before, meeting) in &self.plan.meetings {
            let steps = inputs.steps(next..*before)?;
            next = *before;
            if !steps.is_empty() {
                self.executor.run(&mut self.arena, &mut self.caches, &steps);
            }
            meeting.run(&mut self.ranks, &mut self.arena, batch, &mut self.luggage)?;
        }
        let steps = inputs.steps(next..self.plan.calls.len())?;
        if !steps.is_empty() {
            self.executor.run(&mut self.arena, &mut self.caches, &steps);
        }
        match self.plan.logits {
            Some(slot) => {
                let rows = slot.rows(batch.tokens.len(), batch.outputs.len());
                let logits = &mut self.arena[rows.start..][..rows.rows * rows.width];
                self.ranks.take_from_last(logits)
            }
            None => {
                self.received.resize(batch.outputs.len() * self.vocabulary, 0.0);
                self.ranks.take_from_last(&mut self.received)
            }
        }
    }

    /// What the kernels insist on: a batch that breaks it is our mistake, and no panic.
    fn check(&self, batch: &Batch) -> Result<(), RuntimeError> {
        let Limits { max_batch_size, max_num_tokens, max_outputs, .. } = self.limits;
        let Limits { tokens_per_block, blocks, .. } = self.limits;
        let rows = batch.tokens.len();
        let mut next = 0;
        let mut fits = rows <= max_num_tokens && batch.outputs.len() <= max_outputs;
        fits &= batch.tokens.iter().all(|&token| (token as usize) < self.token_limit);
        fits &= batch.outputs.iter().all(|&row| (row as usize) < rows);
        for span in &batch.spans {
            fits &= span.rows.start == next && span.rows.end >= next;
            next = span.rows.end;
            let end = span.start.saturating_add(span.rows.len());
            fits &= end <= self.plan.positions;
            fits &= end.div_ceil(tokens_per_block) <= span.blocks.len();
            fits &= span.blocks.iter().all(|&block| (block as usize) < blocks);
        }
        fits &= next == rows;
        let mut slots: Vec<u32> = batch.spans.iter().map(|span| span.slot).collect();
        slots.sort_unstable();
        fits &= slots.windows(2).all(|pair| pair[0] != pair[1]);
        fits &= slots.last().is_none_or(|&slot| (slot as usize) < max_batch_size);
        match fits {
            true => Ok(()),
            false => Err(RuntimeError::Bug { reason: "a batch that breaks its limits".into() }),
        }
    }
}

impl Device for Cpu {
    fn step(&mut self, batch: &Batch) -> Result<&[f32], RuntimeError> {
        self.run(batch)?;
        Ok(self.logits(batch))
    }

    fn interrupted(&mut self) -> Result<bool, RuntimeError> {
        self.ranks.any(engraft_files::interrupt::requested())
    }

    fn describe(&self) -> String {
        let threads = self.executor.pool().threads();
        let plural = if threads == 1 { "" } else { "s" };
        let isa = self.executor.isa();
        format!("cpu, {threads} thread{plural}, {isa}")
    }
}
