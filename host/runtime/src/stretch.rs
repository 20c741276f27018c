//! A stretch of a model by itself: values in, values out.
//!
//! To the device it is a stage between two others: what it receives comes from its caller, and
//! what it hands on goes back there. Its graph is
//! of [`Stretch::rank`], begins with `receive` unless it takes nothing but token ids, and its
//! last place carries what is wanted.

use crate::cpu::{self, Cpu, Setup};
use crate::device::{Batch, Limits, Program, Span};
use crate::error::RuntimeError;
use crate::ranks::{Communicator, Ranks};
use engraft_ir::{Mapping, Rank};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of a block of the cache.
const BLOCK: usize = 64;

/// A stretch on the CPU, which runs one sequence at a time.
pub struct Stretch {
    cpu: Cpu,
    mail: Arc<Mutex<Mail>>,
    blocks: Arc<[u32]>,
}

/// What is on its way in, and on its way out.
#[derive(Default)]
struct Mail {
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

impl Stretch {
    /// The rank that a stretch's graph is of.
    pub fn rank() -> Rank {
        Rank { mapping: Mapping::new(1, 3), number: 1 }
    }

    /// Prepares a graph that ends within a model, for sequences of so many tokens at most.
    ///
    /// # Errors
    /// A graph that the CPU cannot run, more memory than there is, no threads to be had.
    pub fn new(
        program: Arc<dyn Program>,
        tokens: usize,
        threads: Option<usize>,
    ) -> Result<Stretch, RuntimeError> {
        let mail = Arc::new(Mutex::new(Mail::default()));
        let ranks = Ranks::new(program.graph().rank, Box::new(Caller { mail: mail.clone() }))?;
        let blocks = tokens.div_ceil(BLOCK).max(1);
        let limits = Limits {
            max_batch_size: 1,
            max_num_tokens: tokens,
            max_outputs: 1,
            max_input_len: tokens,
            max_seq_len: tokens,
            tokens_per_block: BLOCK,
            blocks,
        };
        let threads = threads.unwrap_or_else(|| cpu::default_threads(1));
        let setup = Setup { limits, threads, isa: None, vocabulary: 0 };
        let cpu = Cpu::prepare(program, ranks, setup)?;
        Ok(Stretch { cpu, mail, blocks: (0..blocks as u32).collect() })
    }

    /// Runs it over one sequence from its first token on; `inputs` are what its `receive` gives,
    /// row-major. Returns what its last place carries.
    ///
    /// # Errors
    /// More tokens than it was prepared for, or inputs of another size.
    pub fn run(
        &mut self,
        tokens: &[u32],
        inputs: Vec<Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let lock = |mail: &Mutex<Mail>| -> Mail {
            std::mem::take(&mut *mail.lock().unwrap_or_else(PoisonError::into_inner))
        };
        lock(&self.mail);
        self.mail.lock().unwrap_or_else(PoisonError::into_inner).inputs = inputs;
        let span = Span {
            rows: 0..tokens.len(),
            start: 0,
            blocks: self.blocks.clone(),
            slot: 0,
            reach: tokens.len(),
        };
        let batch = Batch { tokens: tokens.to_vec(), spans: vec![span], outputs: Vec::new() };
        self.cpu.run(&batch)?;
        Ok(lock(&self.mail).outputs)
    }
}

/// The stages around a stretch.
struct Caller {
    mail: Arc<Mutex<Mail>>,
}

impl Communicator for Caller {
    fn rank(&self) -> u32 {
        Stretch::rank().number
    }

    fn size(&self) -> u32 {
        Stretch::rank().mapping.world_size()
    }

    fn neighbours(&self) -> u32 {
        1
    }

    fn exchange(
        &mut self,
        sends: &[(u32, &[f32])],
        receives: &mut [(u32, &mut [f32])],
    ) -> Result<(), RuntimeError> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        mail.outputs.extend(sends.iter().map(|(_, values)| values.to_vec()));
        // The last stage has no logits for anybody.
        let wanted = receives.iter_mut().filter(|(_, place)| !place.is_empty());
        let mut inputs = std::mem::take(&mut mail.inputs).into_iter();
        for (_, place) in wanted {
            let input = inputs.next().unwrap_or_default();
            if input.len() != place.len() {
                let (given, taken) = (input.len(), place.len());
                let reason = format!("a stretch takes {taken} numbers, and was given {given}");
                return Err(RuntimeError::Bug { reason });
            }
            place.copy_from_slice(&input);
        }
        Ok(())
    }
}
