//! In-flight batching: requests join and leave between steps.
//!
//! Each step packs, in the order in which they came, every running request's next tokens: the
//! one that was just chosen, or as much of a prompt as there is room for. A request is admitted
//! when its worst case fits in the cache, and none overtakes another.

use crate::device::{Batch, Span};
use crate::error::RuntimeError;
use crate::kv::{Blocks, Slots};
use crate::model::Model;
use std::collections::VecDeque;

/// Which request; they count from 0 in the order in which they joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What to do with a request after a look at logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Go on with its prompt; after the prompt's last token there is nothing to go on with,
    /// and it leaves.
    Read,
    /// Go on with this token after the last; only the logits of the last position may say so.
    Append(u32),
    /// It is done.
    Leave,
}

struct Entry {
    id: RequestId,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    done: usize,
    /// The first position whose logits are asked for.
    first_output: usize,
    /// Tokens that it may come to.
    room: usize,
}

struct Running {
    entry: Entry,
    blocks: Blocks,
    slot: u32,
}

/// Requests and the model that runs them.
pub struct Batcher<'m> {
    model: &'m mut Model,
    waiting: VecDeque<Entry>,
    running: Vec<Running>,
    slots: Slots,
    batch: Batch,
    next: u64,
}

impl<'m> Batcher<'m> {
    /// With no requests yet.
    pub fn new(model: &'m mut Model) -> Batcher<'m> {
        let slots = Slots::new(model.limits().max_batch_size);
        Batcher {
            model,
            slots,
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            next: 0,
        }
    }

    /// The model that runs them.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// Adds a request: logits are asked for from position `first_output` on, and it may append
    /// up to `max_new` tokens, as far as the model's `max_seq_len` goes.
    ///
    /// # Errors
    /// An empty prompt, one that is too long, ids beyond the vocabulary, or a worst case that
    /// even the empty cache cannot hold.
    pub fn join(
        &mut self,
        prompt: &[u32],
        first_output: usize,
        max_new: usize,
    ) -> Result<RequestId, RuntimeError> {
        let limits = self.model.limits();
        if prompt.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if prompt.len() > limits.max_seq_len {
            return Err(RuntimeError::PromptTooLong {
                tokens: prompt.len(),
                limit: limits.max_seq_len,
            });
        }
        let vocabulary = self.model.token_limit();
        if let Some(position) = prompt.iter().position(|&token| token as usize >= vocabulary) {
            let token = prompt[position];
            return Err(RuntimeError::TokenOutOfRange { token, position, vocabulary });
        }
        let room = prompt.len().saturating_add(max_new).min(limits.max_seq_len);
        let pages = self.model.pages();
        let needed = pages.blocks_for(room).saturating_mul(limits.tokens_per_block);
        if needed > pages.capacity() {
            return Err(RuntimeError::CacheTooSmall { needed, capacity: pages.capacity() });
        }
        let id = RequestId(self.next);
        self.next += 1;
        let tokens = prompt.to_vec();
        self.waiting.push_back(Entry { id, tokens, done: 0, first_output, room });
        Ok(id)
    }

    /// Takes a request out, wherever it is; nothing where it has left.
    pub fn leave(&mut self, id: RequestId) {
        self.waiting.retain(|entry| entry.id != id);
        if let Some(at) = self.running.iter().position(|r| r.entry.id == id) {
            self.retire(at);
        }
    }

    /// Whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Runs one step. `look` sees each asked-for row of logits, with its request and position,
    /// and says how that request goes on.
    ///
    /// # Errors
    /// Where the device fails, and when somebody pressed Ctrl-C.
    pub fn step(
        &mut self,
        mut look: impl FnMut(RequestId, usize, &[f32]) -> Result<Step, RuntimeError>,
    ) -> Result<(), RuntimeError> {
        if self.model.interrupted()? {
            return Err(RuntimeError::Interrupted);
        }
        self.admit();
        self.pack();
        if self.batch.tokens.is_empty() {
            return Ok(());
        }
        let vocabulary = self.model.vocabulary();
        let mut steps = vec![Step::Read; self.running.len()];
        let logits = self.model.run(&self.batch)?;
        let mut rows = logits.chunks_exact(vocabulary);
        let mut outputs = self.batch.outputs.iter().peekable();
        let mut spans = self.batch.spans.iter();
        for (running, step) in self.running.iter_mut().zip(&mut steps) {
            let entry = &mut running.entry;
            let Some(span) = spans.next() else { break };
            while let Some(row) = outputs.next_if(|row| span.rows.contains(&(**row as usize))) {
                let position = span.start + (*row as usize - span.rows.start);
                let logits = rows.next().ok_or_else(|| RuntimeError::Bug {
                    reason: "the device gave too few logits".into(),
                })?;
                if *step != Step::Leave {
                    *step = look(entry.id, position, logits)?;
                }
            }
            entry.done += span.rows.len();
        }
        self.settle(&steps)
    }

    /// Lets waiting requests in while there is room, first come first served.
    fn admit(&mut self) {
        while self.slots.available() > 0 {
            let Some(entry) = self.waiting.front() else { return };
            let Some(blocks) = self.model.pages_mut().allocate(entry.room) else { return };
            let (Some(slot), Some(entry)) = (self.slots.take(), self.waiting.pop_front()) else {
                return;
            };
            self.running.push(Running { entry, blocks, slot });
        }
    }

    /// Fills the batch: those that came first take first.
    fn pack(&mut self) {
        let limits = self.model.limits();
        let batch = &mut self.batch;
        batch.clear();
        for Running { entry, blocks, slot } in &self.running {
            let rows_left = limits.max_num_tokens - batch.tokens.len();
            let outputs_left = limits.max_outputs - batch.outputs.len();
            let silent = entry.first_output.saturating_sub(entry.done);
            let pending = entry.tokens.len() - entry.done;
            let take = pending.min(rows_left).min(silent.saturating_add(outputs_left));
            if take == 0 {
                break;
            }
            let rows = batch.tokens.len()..batch.tokens.len() + take;
            batch.tokens.extend_from_slice(&entry.tokens[entry.done..entry.done + take]);
            batch.outputs.extend(rows.clone().skip(silent).map(|row| row as u32));
            let (blocks, slot) = (blocks.table().clone(), *slot);
            batch.spans.push(Span { rows, start: entry.done, blocks, slot, reach: entry.room });
        }
    }

    /// Appends what was chosen, and lets go of those that are done.
    fn settle(&mut self, steps: &[Step]) -> Result<(), RuntimeError> {
        for (at, step) in steps.iter().enumerate().rev() {
            let entry = &mut self.running[at].entry;
            let ended = entry.done == entry.tokens.len();
            match *step {
                Step::Leave => self.retire(at),
                Step::Read if ended => self.retire(at),
                Step::Read => {}
                Step::Append(token) => {
                    if !ended || entry.tokens.len() >= entry.room {
                        return Err(RuntimeError::Bug {
                            reason: format!("request {} has no place for a token", entry.id.0),
                        });
                    }
                    let vocabulary = self.model.token_limit();
                    if token as usize >= vocabulary {
                        let position = entry.tokens.len();
                        return Err(RuntimeError::TokenOutOfRange { token, position, vocabulary });
                    }
                    entry.tokens.push(token);
                }
            }
        }
        Ok(())
    }

    fn retire(&mut self, at: usize) {
        let gone = self.running.remove(at);
        self.model.pages_mut().free(gone.blocks);
        self.slots.free(gone.slot);
    }
}

impl Drop for Batcher<'_> {
    fn drop(&mut self) {
        while let Some(gone) = self.running.pop() {
            self.model.pages_mut().free(gone.blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LoadOptions;
    use crate::sampler::argmax;
    use crate::testing;
    use std::collections::BTreeMap;

    /// Greedy answers and every row of logits they were chosen from, bit for bit.
    type Answers = BTreeMap<RequestId, (Vec<u32>, Vec<Vec<u32>>)>;

    fn answer(batcher: &mut Batcher<'_>, new: usize, answers: &mut Answers) {
        batcher
            .step(|id, _, logits| {
                let (ids, rows) = answers.entry(id).or_default();
                ids.push(argmax(logits));
                rows.push(logits.iter().map(|x| x.to_bits()).collect());
                Ok(if ids.len() == new { Step::Leave } else { Step::Append(argmax(logits)) })
            })
            .expect("a step");
    }

    fn alone(options: &LoadOptions, prompt: &[u32], new: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
        let mut model = testing::model(options);
        let mut batcher = Batcher::new(&mut model);
        batcher.join(prompt, prompt.len() - 1, new).expect("joins");
        let mut answers = Answers::new();
        while !batcher.is_idle() {
            answer(&mut batcher, new, &mut answers);
        }
        answers.remove(&RequestId(0)).expect("an answer")
    }

    fn prompts() -> Vec<Vec<u32>> {
        [3usize, 41, 1, 18, 7]
            .iter()
            .enumerate()
            .map(|(i, &n)| {
                (0..n).map(|t| ((t * 7 + i * 13 + 5) % testing::VOCABULARY) as u32).collect()
            })
            .collect()
    }

    #[test]
    fn requests_that_come_and_go_get_what_they_get_alone_bit_for_bit() {
        let lone = LoadOptions { threads: Some(1), ..testing::options() };
        let expected: Vec<_> =
            prompts().iter().zip(4..).map(|(p, new)| alone(&lone, p, new)).collect();
        for (threads, max_num_tokens, max_batch_size) in [(1, 16, 2), (2, 16, 3), (2, 64, 5)] {
            let options = LoadOptions {
                threads: Some(threads),
                max_num_tokens: Some(max_num_tokens),
                max_batch_size: Some(max_batch_size),
                ..testing::options()
            };
            let mut model = testing::model(&options);
            let all = model.pages().available();
            let mut batcher = Batcher::new(&mut model);
            let mut answers = Answers::new();
            let mut waiting = prompts().into_iter();
            let mut joined = 0;
            loop {
                // One more joins each step, whatever the others do.
                if let Some(prompt) = waiting.next() {
                    batcher.join(&prompt, prompt.len() - 1, 40).expect("joins");
                    joined += 1;
                }
                let wanted = |id: RequestId| 4 + id.0 as usize;
                batcher
                    .step(|id, _, logits| {
                        let (ids, rows) = answers.entry(id).or_default();
                        ids.push(argmax(logits));
                        rows.push(logits.iter().map(|x| x.to_bits()).collect());
                        let done = ids.len() == wanted(id);
                        Ok(if done { Step::Leave } else { Step::Append(argmax(logits)) })
                    })
                    .expect("a step");
                if batcher.is_idle() && joined == expected.len() {
                    break;
                }
            }
            drop(batcher);
            assert_eq!(model.pages().available(), all, "all blocks come back");
            for ((id, found), expected) in answers.iter().zip(&expected) {
                assert_eq!(found, expected, "{id:?} with {options:?}");
            }
            assert_eq!(answers.len(), expected.len());
        }
    }

    #[test]
    fn half_precision_weights_too() {
        for dtype in [engraft_ir::DType::F16, engraft_ir::DType::BF16] {
            let ids: Vec<u32> = (0..20).collect();
            let run = |threads, max_num_tokens| {
                let options = LoadOptions {
                    threads: Some(threads),
                    max_num_tokens: Some(max_num_tokens),
                    ..testing::options()
                };
                let mut model = testing::model_of(testing::graph_of(2, dtype), &options);
                crate::evaluate::logits(&mut model, &[ids.clone(), ids[5..].to_vec()])
                    .expect("runs")
            };
            assert_eq!(run(1, 64), run(2, 16));
        }
    }

    #[test]
    fn a_request_waits_until_its_worst_case_fits() {
        let options = LoadOptions { kv_cache_tokens: Some(48), ..testing::options() };
        let mut model = testing::model(&options);
        let mut batcher = Batcher::new(&mut model);
        batcher.join(&[1, 2, 3], 2, 29).expect("two blocks");
        batcher.join(&[4, 5, 6], 2, 29).expect("two more, later");
        let mut seen = Vec::new();
        while !batcher.is_idle() {
            batcher
                .step(|id, position, _| {
                    seen.push((id.0, position));
                    Ok(if position == 5 { Step::Leave } else { Step::Append(9) })
                })
                .expect("a step");
        }
        assert_eq!(seen, [(0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3), (1, 4), (1, 5)]);
    }

    #[test]
    fn what_can_never_run_is_refused_at_once() {
        let options = LoadOptions { kv_cache_tokens: Some(48), ..testing::options() };
        let mut model = testing::model(&options);
        let mut batcher = Batcher::new(&mut model);
        let refuse = |batcher: &mut Batcher<'_>, prompt: &[u32], new| {
            batcher.join(prompt, 0, new).expect_err("refused").to_string()
        };
        assert_eq!(refuse(&mut batcher, &[], 1), "the prompt is empty");
        let absent = testing::VOCABULARY as u32;
        assert!(refuse(&mut batcher, &[0, absent], 1).contains("vocabulary"));
        assert!(refuse(&mut batcher, &[0; 500], 1).contains("500 tokens long"));
        let cache = refuse(&mut batcher, &[0; 40], 20);
        assert!(cache.contains("64 tokens of cache") && cache.contains("48"), "{cache}");
        assert!(batcher.is_idle());
    }

    #[test]
    fn a_request_can_be_taken_out() {
        let mut model = testing::model(&testing::options());
        let all = model.pages().available();
        let mut batcher = Batcher::new(&mut model);
        let first = batcher.join(&[1], 0, 50).expect("joins");
        let second = batcher.join(&[2], 0, 2).expect("joins");
        let mut answers = Answers::new();
        answer(&mut batcher, 2, &mut answers);
        batcher.leave(first);
        answer(&mut batcher, 2, &mut answers);
        assert!(batcher.is_idle());
        assert_eq!(answers[&second].0.len(), 2);
        drop(batcher);
        assert_eq!(model.pages().available(), all);
    }
}
