//! A model: an engine on a device, with the limits it was loaded for.

use crate::cpu::{self, Cpu, Setup};
use crate::device::{Batch, Device, Limits, Program};
use crate::error::RuntimeError;
use crate::kv::Pages;
use crate::ranks::{Alone, Communicator, Crew, Ranks};
use engraft_engine::{BuildConfig, Engine};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use engraft_kernels_cpu::Isa;

/// Rows of logits that a step gives at most, unless more requests run: what evaluation needs to
/// be quick, and no more memory than that.
const OUTPUT_ROWS: usize = 256;

/// The part of the free memory that a cache nobody sized may take.
const CACHE_SHARE: u64 = 2;

/// More threads than any machine has use for; far more and the system gives no memory for their
/// stacks, which ends the process.
const MOST_THREADS: usize = 1024;

/// How to load an engine. What is not said comes from the engine's build config.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Threads of this process, which ranks in one process share; by default one for each
    /// physical core that it may use, or its share of them among the ranks of its machine.
    pub threads: Option<usize>,
    /// Requests that run at a time.
    pub max_batch_size: Option<usize>,
    /// Tokens of all requests in one step; longer prompts go in chunks.
    pub max_num_tokens: Option<usize>,
    /// Tokens of one prompt that is to be answered.
    pub max_input_len: Option<usize>,
    /// Tokens of one request, prompt and answer.
    pub max_seq_len: Option<usize>,
    /// Tokens of a block of the cache.
    pub tokens_per_block: Option<usize>,
    /// Tokens of the whole cache; by default all requests at their longest, or what half of
    /// the free memory holds.
    pub kv_cache_tokens: Option<usize>,
    /// The same in bytes; the smaller of the two counts.
    pub kv_cache_bytes: Option<u64>,
    /// Which kernels; by default the fastest that this machine has.
    pub isa: Option<Isa>,
}

/// A loaded model.
pub struct Model {
    program: Arc<dyn Program>,
    device: Box<dyn Device>,
    limits: Limits,
    pages: Pages,
    vocabulary: usize,
    token_limit: usize,
}

/// What all ranks agree on.
#[derive(Clone, Copy)]
pub(crate) struct Settled {
    limits: Limits,
    /// How wide logits are.
    vocabulary: usize,
    /// Token ids below it are in the embedding.
    token_limit: usize,
}

impl Model {
    /// Prepares an engine of one rank to run on the CPU. Costs milliseconds: no weight is read
    /// or copied.
    ///
    /// # Errors
    /// An engine of several ranks, limits that cannot be, more memory than there is, or a graph
    /// that the CPU cannot run.
    pub fn load(engine: Arc<Engine>, options: &LoadOptions) -> Result<Model, RuntimeError> {
        Model::load_rank(engine, Box::new(Alone), options)
    }

    /// As [`Model::load`], for the one rank of several that this process is. All of them load
    /// theirs at the same time, and then run the same requests: each step is one of all ranks,
    /// and all get its logits.
    ///
    /// # Errors
    /// As [`Model::load`]; an engine of another number of ranks than the communicator's, one that
    /// was not built together with the others', or another rank that failed.
    pub fn load_rank(
        engine: Arc<Engine>,
        line: Box<dyn Communicator>,
        options: &LoadOptions,
    ) -> Result<Model, RuntimeError> {
        let build = engine.config().build_config.clone();
        let stamp = stamp(&engine);
        Model::prepare(engine, &build, stamp, line, options)
    }

    /// As [`Model::load`], for all ranks of an engine in one process: a thread a rank, each with
    /// a share of the threads.
    ///
    /// # Errors
    /// As [`Model::load_rank`].
    pub fn load_in_process(
        engines: Vec<Arc<Engine>>,
        options: &LoadOptions,
    ) -> Result<Model, RuntimeError> {
        let Some(first) = engines.first() else {
            return Err(RuntimeError::RankCount { engine: 0, running: 1 });
        };
        let stamps: Vec<u64> = engines.iter().map(|engine| stamp(engine)).collect();
        let build = first.config().build_config.clone();
        let programs = engines.iter().map(|e| e.clone() as Arc<dyn Program>).collect();
        Model::prepare_in_process(programs, &build, &stamps, options)
    }

    /// As [`Model::load_rank`], for any program.
    pub(crate) fn prepare(
        program: Arc<dyn Program>,
        build: &BuildConfig,
        stamp: u64,
        line: Box<dyn Communicator>,
        options: &LoadOptions,
    ) -> Result<Model, RuntimeError> {
        let threads = threads(options, line.neighbours() as usize)?;
        let (device, settled) = prepare(program.clone(), build, stamp, line, options, threads)?;
        Ok(Model::new(program, Box::new(device), settled))
    }

    /// As [`Model::load_in_process`], for any programs.
    pub(crate) fn prepare_in_process(
        programs: Vec<Arc<dyn Program>>,
        build: &BuildConfig,
        stamps: &[u64],
        options: &LoadOptions,
    ) -> Result<Model, RuntimeError> {
        let Some(first) = programs.first().cloned() else {
            return Err(RuntimeError::RankCount { engine: 0, running: 1 });
        };
        let (engine, running) = (first.graph().rank.mapping.world_size(), programs.len() as u32);
        if engine != running {
            return Err(RuntimeError::RankCount { engine, running });
        }
        let threads = (threads(options, 1)? / programs.len()).max(1);
        let (build, stamps, options) = (build.clone(), stamps.to_vec(), options.clone());
        let one = move |program: Arc<dyn Program>, line: Box<dyn Communicator>| {
            let stamp = stamps.get(line.rank() as usize).copied().unwrap_or(0);
            prepare(program, &build, stamp, line, &options, threads)
        };
        let (crew, settled) = Crew::start(programs, Arc::new(one))?;
        Ok(Model::new(first, Box::new(crew), settled))
    }

    fn new(program: Arc<dyn Program>, device: Box<dyn Device>, settled: Settled) -> Model {
        let Settled { limits, vocabulary, token_limit } = settled;
        let pages = Pages::new(limits.blocks, limits.tokens_per_block);
        Model { program, device, limits, pages, vocabulary, token_limit }
    }

    /// What it runs.
    pub fn program(&self) -> &dyn Program {
        &*self.program
    }

    /// The limits it was loaded for.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How long a row of logits is.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Ids that a prompt may have are less. The same as [`Model::vocabulary`] but for models
    /// whose head is padded.
    pub fn token_limit(&self) -> usize {
        self.token_limit
    }

    /// The device, for people: `cpu, 2 threads, avx512`.
    pub fn describe(&self) -> String {
        self.device.describe()
    }

    /// The blocks of its cache.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(crate) fn pages_mut(&mut self) -> &mut Pages {
        &mut self.pages
    }

    /// Whether somebody pressed Ctrl-C; all ranks are told the same.
    pub(crate) fn interrupted(&mut self) -> Result<bool, RuntimeError> {
        self.device.interrupted()
    }

    pub(crate) fn run(&mut self, batch: &Batch) -> Result<&[f32], RuntimeError> {
        self.device.step(batch)
    }
}

fn at_least_one(name: &'static str, value: usize) -> Result<usize, RuntimeError> {
    match value {
        0 => Err(RuntimeError::BadLimit {
            name,
            value: value.to_string(),
            reason: "it must be at least 1",
        }),
        _ => Ok(value),
    }
}

/// What engines that were built together have in common.
fn stamp(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    let config = engine.config();
    config.version.hash(&mut hasher);
    config.pretrained_config.to_string().hash(&mut hasher);
    engine.provenance().to_string().hash(&mut hasher);
    hasher.finish()
}

/// Puts one rank of a program on the CPU; what can differ between machines is agreed on with all
/// other ranks.
fn prepare(
    program: Arc<dyn Program>,
    build: &BuildConfig,
    stamp: u64,
    line: Box<dyn Communicator>,
    options: &LoadOptions,
    threads: usize,
) -> Result<(Cpu, Settled), RuntimeError> {
    let mut ranks = Ranks::new(program.graph().rank, line)?;
    let graph = program.graph();
    let output = graph.output().and_then(|output| graph.values[output].ty.width);
    let tokens = cpu::token_limit(graph).unwrap_or(u64::MAX);
    let positions = graph.positions().unwrap_or(u64::MAX);
    let token_bytes = cpu::cache_bytes_of_token(graph).max(1);
    let free = cpu::free_memory() / u64::from(ranks.neighbours());
    let affordable = options.kv_cache_bytes.unwrap_or(u64::MAX) / token_bytes;
    let comfortable = free / CACHE_SHARE / token_bytes;
    let mine = [stamp, output.unwrap_or(0), tokens, positions, affordable, comfortable];
    let all = ranks.share(&mine)?;
    if let Some(other) = all.iter().position(|said| said[0] != all[0][0]) {
        return Err(RuntimeError::RanksDiffer { rank: other as u32 });
    }
    let least = |at: usize| all.iter().map(|said| said[at]).min().unwrap_or(0);
    let vocabulary = all.iter().map(|said| said[1]).max().unwrap_or(0);
    let unsupported = |reason: &str| RuntimeError::Unsupported {
        reason: reason.into(),
        place: engraft_ir::AnyEntity::Graph,
    };
    let vocabulary = match usize::try_from(vocabulary) {
        Ok(0) => return Err(unsupported("it has no output")),
        Ok(vocabulary) => vocabulary,
        Err(_) => return Err(unsupported("too many logits")),
    };
    let room = Room { positions: least(3), affordable: least(4), comfortable: least(5) };
    let limits = limits(build, options, room)?;
    let setup = Setup { limits, threads, isa: options.isa, vocabulary };
    let device = Cpu::prepare(program.clone(), ranks, setup)?;
    let token_limit = usize::try_from(least(2)).unwrap_or(usize::MAX);
    Ok((device, Settled { limits, vocabulary, token_limit }))
}

/// How far the ranks that have least reach.
struct Room {
    /// Positions that the model has.
    positions: u64,
    /// Tokens in the cache, by the bytes that it may take.
    affordable: u64,
    /// Tokens in a cache that nobody sized, by the memory that is free.
    comfortable: u64,
}

fn threads(options: &LoadOptions, processes: usize) -> Result<usize, RuntimeError> {
    match options.threads {
        None => Ok(cpu::default_threads(processes).min(MOST_THREADS)),
        Some(threads) if threads > MOST_THREADS => Err(RuntimeError::BadLimit {
            name: "--threads",
            value: threads.to_string(),
            reason: "more than 1024 are of no use",
        }),
        Some(threads) => at_least_one("--threads", threads),
    }
}

/// Settles every limit, and the size of the cache by the memory that is free.
fn limits(build: &BuildConfig, options: &LoadOptions, room: Room) -> Result<Limits, RuntimeError> {
    let pick =
        |name, said: Option<usize>, built: u32| at_least_one(name, said.unwrap_or(built as usize));
    let max_batch_size = pick("--max_batch_size", options.max_batch_size, build.max_batch_size)?;
    let max_num_tokens = pick("--max_num_tokens", options.max_num_tokens, build.max_num_tokens)?;
    let max_seq_len = pick("--max_seq_len", options.max_seq_len, build.max_seq_len)?;
    // One that was not made shorter than a request goes with it.
    let max_input_len = match options.max_input_len {
        None if build.max_input_len >= build.max_seq_len => max_seq_len,
        said => pick("--max_input_len", said, build.max_input_len)?.min(max_seq_len),
    };
    let tokens_per_block =
        pick("--tokens_per_block", options.tokens_per_block, build.tokens_per_block)?;
    for (name, value) in [
        ("--max_batch_size", max_batch_size),
        ("--max_num_tokens", max_num_tokens),
        ("--max_seq_len", max_seq_len),
        ("--tokens_per_block", tokens_per_block),
    ] {
        if i32::try_from(value).is_err() {
            return Err(RuntimeError::BadLimit {
                name,
                value: value.to_string(),
                reason: "it is far too large",
            });
        }
    }

    if !tokens_per_block.is_multiple_of(cpu::BLOCK_MULTIPLE) {
        return Err(RuntimeError::BadLimit {
            name: "--tokens_per_block",
            value: tokens_per_block.to_string(),
            reason: "it must be a multiple of 16",
        });
    }
    if room.positions < max_seq_len as u64 {
        return Err(RuntimeError::BadLimit {
            name: "--max_seq_len",
            value: max_seq_len.to_string(),
            reason: "the model's table of positions is shorter",
        });
    }
    let longest = max_seq_len.div_ceil(tokens_per_block) * tokens_per_block;
    let wanted = options.kv_cache_tokens.map(|tokens| tokens as u64);
    let affordable = options.kv_cache_bytes.map(|_| room.affordable);
    let tokens = match (wanted, affordable) {
        (Some(a), Some(b)) => a.min(b),
        (Some(n), None) | (None, Some(n)) => n,
        (None, None) => {
            let all = (longest as u64).saturating_mul(max_batch_size as u64);
            all.min(room.comfortable.max(tokens_per_block as u64))
        }
    };
    let said = wanted.is_some() || affordable.is_some();
    let blocks = tokens / tokens_per_block as u64;
    if said && blocks == 0 {
        return Err(RuntimeError::BadLimit {
            name: "--kv_cache_tokens",
            value: tokens.to_string(),
            reason: "it holds no block",
        });
    }
    Ok(Limits {
        max_batch_size,
        max_num_tokens,
        max_outputs: max_batch_size.max(OUTPUT_ROWS).min(max_num_tokens),
        max_input_len,
        max_seq_len,
        tokens_per_block,
        blocks: usize::try_from(blocks).unwrap_or(usize::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use engraft_ir::DType;

    fn refused(options: LoadOptions) -> RuntimeError {
        testing::load(testing::graph(1), &options).err().expect("refused")
    }

    #[test]
    fn limits_that_cannot_be_name_their_flag() {
        let base = testing::options;
        for (options, flag) in [
            (LoadOptions { threads: Some(0), ..base() }, "--threads"),
            (LoadOptions { threads: Some(MOST_THREADS + 1), ..base() }, "--threads"),
            (LoadOptions { threads: Some(usize::MAX), ..base() }, "--threads"),
            (LoadOptions { max_batch_size: Some(0), ..base() }, "--max_batch_size"),
            (LoadOptions { tokens_per_block: Some(10), ..base() }, "--tokens_per_block"),
            (LoadOptions { max_seq_len: Some(1 << 40), ..base() }, "--max_seq_len"),
            (LoadOptions { kv_cache_tokens: Some(15), ..base() }, "--kv_cache_tokens"),
        ] {
            let error = refused(options);
            assert!(error.to_string().starts_with(flag), "{error}");
        }
    }

    #[test]
    fn more_memory_than_there_is_is_an_error_before_any_is_taken() {
        let options = LoadOptions { kv_cache_tokens: Some(1 << 50), ..testing::options() };
        assert!(matches!(refused(options), RuntimeError::OutOfMemory { .. }));
        let options = LoadOptions { max_num_tokens: Some(1 << 30), ..testing::options() };
        assert!(matches!(refused(options), RuntimeError::OutOfMemory { .. }));
    }

    #[test]
    fn the_smaller_of_tokens_and_bytes_sizes_the_cache() {
        let cache = |tokens, bytes| {
            let options = LoadOptions {
                kv_cache_tokens: tokens,
                kv_cache_bytes: bytes,
                ..testing::options()
            };
            testing::model(&options).pages().capacity()
        };
        // Two blocks of two heads of 8 keys and 16 padded values.
        let token = 2 * 2 * (8 + 16) * 4;
        assert_eq!(cache(Some(100), None), 96);
        assert_eq!(cache(None, Some(50 * token)), 48);
        assert_eq!(cache(Some(100), Some(50 * token)), 48);
        assert_eq!(cache(None, None), 4 * 160);
    }

    #[test]
    fn weights_of_a_type_without_kernels_are_refused() {
        let error = testing::load(testing::graph_of(1, DType::F64), &testing::options());
        let error = error.err().expect("refused").to_string();
        assert!(error.contains("no kernel for f64 weights"), "{error}");
    }
}
