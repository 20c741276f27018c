//! The CPU as a device: a plan made at load, one run of the thread pool a step.

mod exec;
mod machine;
mod memory;
mod mixture;
mod plan;
#[cfg(test)]
mod reference;
mod rope_tables;

pub(crate) use machine::{default_threads, free_memory};

use crate::device::{Batch, Device, Limits, Program};
use crate::error::RuntimeError;
use cranelift_entity::PrimaryMap;
use engraft_ir::{Graph, Rotary, StateData};
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

/// A program on the CPU.
pub(crate) struct Cpu {
    program: Arc<dyn Program>,
    limits: Limits,
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
        limits: Limits,
        threads: usize,
        isa: Option<Isa>,
    ) -> Result<Cpu, RuntimeError> {
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
        let (needed, free) = (cached.saturating_add(values), free_memory());
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
        Ok(Cpu { program, limits, plan, tables, caches, arena, executor })
    }

    /// Token ids that may be in a batch are less.
    pub(crate) fn vocabulary(&self) -> usize {
        self.plan.vocabulary
    }

    /// What the kernels insist on: a batch that breaks it is our mistake, and no panic.
    fn check(&self, batch: &Batch) -> Result<(), RuntimeError> {
        let Limits { max_batch_size, max_num_tokens, max_outputs, .. } = self.limits;
        let Limits { tokens_per_block, blocks, .. } = self.limits;
        let rows = batch.tokens.len();
        let mut next = 0;
        let mut fits = rows <= max_num_tokens && batch.outputs.len() <= max_outputs;
        fits &= batch.tokens.iter().all(|&token| (token as usize) < self.plan.vocabulary);
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
        let steps = inputs.steps()?;
        self.executor.run(&mut self.arena, &mut self.caches, &steps);
        let logits = self.plan.logits.rows(batch.tokens.len(), batch.outputs.len());
        Ok(&self.arena[logits.start..][..logits.rows * logits.width])
    }

    fn describe(&self) -> String {
        let threads = self.executor.pool().threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu, {threads} thread{plural}, {}", self.executor.isa())
    }
}
