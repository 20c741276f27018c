//! Text out of a model: sampling, stopping, and pieces of text as they become certain.

use crate::batcher::{Batcher, RequestId, Step};
use crate::error::RuntimeError;
use crate::model::Model;
use crate::sampler::{Sampler, Sampling};
use crate::stop::{Detokenizer, StopStrings};
use crate::tokenizer::Tokenizer;
use engraft_engine::Engine;
use serde_json::Value;
use std::collections::BTreeMap;

/// What ends an answer, besides its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// Ids that end it, such as the end of text.
    pub ids: Vec<u32>,
    /// Strings that end it; they need a tokenizer, and are not part of the text.
    pub strings: Vec<String>,
}

impl Stop {
    /// The ids that end a text of this engine: `eos_token_id` (a number or a list) of
    /// `generation_config.json`, else of the model's config, else the tokenizer's own.
    ///
    /// # Errors
    /// Where the file is there and cannot be read.
    pub fn of(engine: &Engine, tokenizer: Option<&Tokenizer>) -> Result<Stop, RuntimeError> {
        const FILE: &str = "generation_config.json";
        let generation = crate::tokenizer::json_beside(engine, FILE)?.unwrap_or(Value::Null);
        let config = &engine.config().pretrained_config;
        let ids = [&generation, config]
            .iter()
            .find_map(|json| ids(json.get("eos_token_id")?))
            .or_else(|| Some(vec![tokenizer?.eos()?]))
            .unwrap_or_default();
        Ok(Stop { ids, strings: Vec::new() })
    }
}

/// A token id or a list of them.
fn ids(json: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match json {
        Value::Array(list) => list.iter().map(id).collect(),
        _ => id(json).map(|id| vec![id]),
    }
}

/// A prompt and how to go on from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The prompt's ids.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// New tokens at most; none means as many as the model's `max_seq_len` leaves room for.
    pub max_output_len: Option<usize>,
    /// What ends it earlier.
    pub stop: Stop,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// At this id.
    Id(u32),
    /// At this string.
    String(String),
    /// At `max_output_len`, or where the model's `max_seq_len` ends.
    Length,
}

impl Finish {
    /// `stop` or `length`, as others say it.
    pub fn name(&self) -> &'static str {
        match self {
            Finish::Id(_) | Finish::String(_) => "stop",
            Finish::Length => "length",
        }
    }
}

/// One more token of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub request: RequestId,
    /// Its id.
    pub token: u32,
    /// Text that is certain by now; often empty.
    pub text: String,
    /// Why it was the last, if so.
    pub finish: Option<Finish>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Whose.
    pub request: RequestId,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// The new ids, with the one that ended it.
    pub ids: Vec<u32>,
    /// Their text without special tokens and stop string; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

struct Active {
    sampler: Sampler,
    stop_ids: Vec<u32>,
    stop_strings: StopStrings,
    detokenizer: Detokenizer,
    prompt_len: usize,
    max_output_len: usize,
    ids: Vec<u32>,
    text: String,
}

/// Answers requests. They may be added at any time, also between steps.
pub struct Generator<'m> {
    batcher: Batcher<'m>,
    tokenizer: Option<&'m Tokenizer>,
    active: BTreeMap<RequestId, Active>,
    finished: Vec<Generation>,
}

impl<'m> Generator<'m> {
    /// Without a tokenizer there are ids and no text.
    pub fn new(model: &'m mut Model, tokenizer: Option<&'m Tokenizer>) -> Generator<'m> {
        Generator {
            batcher: Batcher::new(model),
            tokenizer,
            active: BTreeMap::new(),
            finished: Vec::new(),
        }
    }

    /// Adds a request.
    ///
    /// # Errors
    /// A prompt or options that cannot be: see [`Batcher::join`] and [`Sampling::check`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId, RuntimeError> {
        let Request { prompt, sampling, max_output_len, stop } = request;
        let sampler = Sampler::new(sampling, &prompt)?;
        if max_output_len == Some(0) {
            return Err(RuntimeError::BadLimit {
                name: "--max_output_len",
                value: "0".into(),
                reason: "it must be at least 1",
            });
        }
        let limit = self.batcher.model().limits().max_seq_len;
        let left = limit.saturating_sub(prompt.len());
        if left == 0 {
            let limit = limit.saturating_sub(1);
            return Err(RuntimeError::PromptTooLong { tokens: prompt.len(), limit });
        }
        let max_output_len = max_output_len.unwrap_or(left).min(left);
        let last = prompt.len().saturating_sub(1);
        let id = self.batcher.join(&prompt, last, max_output_len)?;
        let active = Active {
            sampler,
            stop_ids: stop.ids,
            stop_strings: StopStrings::new(stop.strings),
            detokenizer: Detokenizer::default(),
            prompt_len: prompt.len(),
            max_output_len,
            ids: Vec::new(),
            text: String::new(),
        };
        self.active.insert(id, active);
        Ok(id)
    }

    /// Drops a request; it gives no answer.
    pub fn cancel(&mut self, id: RequestId) {
        self.batcher.leave(id);
        self.active.remove(&id);
    }

    /// Whether every request is answered.
    pub fn is_idle(&self) -> bool {
        self.batcher.is_idle()
    }

    /// Runs one step: at most one token for each running request.
    ///
    /// # Errors
    /// Where the device or the tokenizer fails.
    pub fn step(&mut self, mut each: impl FnMut(&Event)) -> Result<(), RuntimeError> {
        let Generator { batcher, tokenizer, active, finished } = self;
        batcher.step(|id, _, logits| {
            let Some(request) = active.get_mut(&id) else { return Ok(Step::Leave) };
            let event = request.advance(id, logits, *tokenizer)?;
            each(&event);
            let Some(finish) = event.finish else { return Ok(Step::Append(event.token)) };
            if let Some(done) = active.remove(&id) {
                finished.push(done.into_generation(id, finish));
            }
            Ok(Step::Leave)
        })
    }

    /// The answers that were finished since the last call, in the order of their requests.
    pub fn take_finished(&mut self) -> Vec<Generation> {
        let mut finished = std::mem::take(&mut self.finished);
        finished.sort_by_key(|g| g.request);
        finished
    }

    /// Runs until every request is answered; `each` sees every token.
    ///
    /// # Errors
    /// As [`Generator::step`].
    pub fn run(&mut self, mut each: impl FnMut(&Event)) -> Result<Vec<Generation>, RuntimeError> {
        while !self.is_idle() {
            self.step(&mut each)?;
        }
        Ok(self.take_finished())
    }
}

impl Active {
    fn advance(
        &mut self,
        request: RequestId,
        logits: &[f32],
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Event, RuntimeError> {
        let token = self.sampler.sample(logits);
        self.ids.push(token);
        let mut finish = self.stop_ids.contains(&token).then_some(Finish::Id(token));
        let mut text = String::new();
        if let Some(tokenizer) = tokenizer {
            let piece = match finish {
                // The id that ends the text is no part of it, special or not.
                Some(_) => String::new(),
                None => self.detokenizer.push(tokenizer, token)?,
            };
            let at_end = finish.is_some() || self.ids.len() >= self.max_output_len;
            let piece = match at_end {
                true => piece + &self.detokenizer.finish(tokenizer)?,
                false => piece,
            };
            let (shown, stopped) = self.stop_strings.push(&piece);
            text = shown;
            if let (Some(string), None) = (stopped, &finish) {
                finish = Some(Finish::String(string));
            } else if at_end {
                text += &self.stop_strings.finish();
            }
            self.text += &text;
        }
        if finish.is_none() && self.ids.len() >= self.max_output_len {
            finish = Some(Finish::Length);
        }
        Ok(Event { request, token, text, finish })
    }

    fn into_generation(self, request: RequestId, finish: Finish) -> Generation {
        let Active { prompt_len, ids, text, .. } = self;
        Generation { request, prompt_len, ids, text, finish }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn eos_is_a_number_or_a_list() {
        assert_eq!(ids(&json!(2)), Some(vec![2]));
        assert_eq!(ids(&json!([1, 128009])), Some(vec![1, 128009]));
        assert_eq!(ids(&json!(null)), None);
        assert_eq!(ids(&json!(-1)), None);
    }
}
