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
    /// Where the file is there and cannot be read, or says something that is no id.
    pub fn of(engine: &Engine, tokenizer: Option<&Tokenizer>) -> Result<Stop, RuntimeError> {
        const FILE: &str = "generation_config.json";
        let generation = crate::tokenizer::json_beside(engine, FILE)?.unwrap_or(Value::Null);
        let config = &engine.config().pretrained_config;
        let said = [&generation, config].into_iter().find_map(|json| json.get("eos_token_id"));
        let ids = match said.filter(|said| !said.is_null()) {
            Some(said) => ids(said).ok_or_else(|| RuntimeError::Malformed {
                file: FILE.into(),
                reason: format!("`eos_token_id` is {said}, and no token id or list of them"),
            })?,
            None => tokenizer.and_then(Tokenizer::eos).into_iter().collect(),
        };
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
        let limits = self.batcher.model().limits();
        // A prompt leaves room for an answer.
        let limit = limits.max_input_len.min(limits.max_seq_len.saturating_sub(1));
        if prompt.len() > limit {
            return Err(RuntimeError::PromptTooLong { tokens: prompt.len(), limit });
        }
        let left = limits.max_seq_len.saturating_sub(prompt.len());
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
    use crate::testing;
    use crate::tokenizer::tests::bytes_tokenizer;
    use serde_json::json;

    fn request(length: usize) -> Request {
        Request { prompt: vec![40, 41, 42], max_output_len: Some(length), ..Request::default() }
    }

    /// Answers, and the text that was streamed for each.
    fn run(requests: &[Request]) -> Vec<(Generation, String)> {
        let mut model = testing::model(&testing::options());
        let tokenizer = bytes_tokenizer(json!({}));
        let mut generator = Generator::new(&mut model, Some(&tokenizer));
        let mut streamed: BTreeMap<RequestId, String> = BTreeMap::new();
        for request in requests {
            streamed.insert(generator.submit(request.clone()).expect("fits"), String::new());
        }
        let each = |event: &Event| {
            if let Some(text) = streamed.get_mut(&event.request) {
                text.push_str(&event.text);
            }
        };
        let answers = generator.run(each).expect("runs");
        answers.into_iter().zip(streamed.into_values()).collect()
    }

    #[test]
    fn an_answer_ends_at_its_length_and_is_streamed_whole() {
        let (answer, streamed) = run(&[request(12)]).remove(0);
        assert_eq!((answer.ids.len(), answer.finish.name()), (12, "length"));
        assert_eq!(answer.prompt_len, 3);
        let tokenizer = bytes_tokenizer(json!({}));
        assert_eq!(answer.text, tokenizer.decode(&answer.ids, true).expect("decodes"));
        assert_eq!(streamed, answer.text);
    }

    #[test]
    fn a_stop_string_over_several_tokens_ends_it_and_is_never_streamed() {
        let (whole, _) = run(&[request(12)]).remove(0);
        let text: Vec<char> = whole.text.chars().collect();
        let string: String = text[5..9].iter().collect();
        let at = whole.text.find(&string).expect("it is there");
        let stop = Stop { ids: vec![], strings: vec!["not there".into(), string.clone()] };
        let (answer, streamed) = run(&[Request { stop, ..request(12) }]).remove(0);
        assert_eq!(answer.finish, Finish::String(string));
        assert_eq!(answer.text, whole.text[..at]);
        assert_eq!(streamed, answer.text);
        assert!(answer.ids.len() < 12 && whole.ids.starts_with(&answer.ids));
    }

    #[test]
    fn an_id_ends_it_and_is_no_part_of_the_text() {
        let (whole, _) = run(&[request(12)]).remove(0);
        let at = whole.ids.iter().position(|id| *id != whole.ids[0]).expect("two ids");
        let id = whole.ids[at];
        let stop = Stop { ids: vec![id], strings: vec![] };
        let (answer, _) = run(&[Request { stop, ..request(12) }]).remove(0);
        assert_eq!((answer.finish, answer.ids), (Finish::Id(id), whole.ids[..=at].to_vec()));
        assert_eq!(answer.text.len(), at);
    }

    #[test]
    fn what_is_sampled_does_not_depend_on_the_batch() {
        let sampled = |seed, prompt: Vec<u32>| Request {
            prompt,
            sampling: Sampling { temperature: 1.5, top_p: 0.95, seed, ..Sampling::default() },
            ..request(20)
        };
        let requests: Vec<Request> =
            (0..6).map(|i| sampled(u64::from(i % 2), vec![i, 7, 2 * i])).collect();
        let together = run(&requests);
        for (request, (answer, _)) in requests.iter().zip(&together) {
            assert_eq!(run(std::slice::from_ref(request))[0].0.ids, answer.ids);
        }
    }

    #[test]
    fn without_a_length_it_ends_where_the_model_does() {
        let mut model = testing::model(&testing::options());
        let limit = model.limits().max_seq_len;
        let mut generator = Generator::new(&mut model, None);
        let open = Request { max_output_len: None, ..request(1) };
        generator.submit(open.clone()).expect("fits");
        let answer = generator.run(|_| {}).expect("runs").remove(0);
        assert_eq!((answer.ids.len(), answer.finish), (limit - 3, Finish::Length));
        let longest = generator.batcher.model().limits().max_input_len;
        assert!(longest < limit);
        let full = Request { prompt: vec![1; longest], ..open };
        generator.submit(full.clone()).expect("fits");
        let more = Request { prompt: vec![1; longest + 1], ..full };
        assert!(matches!(generator.submit(more), Err(RuntimeError::PromptTooLong { .. })));
        let none = request(0);
        assert!(matches!(generator.submit(none), Err(RuntimeError::BadLimit { .. })));
    }

    #[test]
    fn eos_is_a_number_or_a_list() {
        assert_eq!(ids(&json!(2)), Some(vec![2]));
        assert_eq!(ids(&json!([1, 128009])), Some(vec![1, 128009]));
        assert_eq!(ids(&json!(null)), None);
        assert_eq!(ids(&json!(-1)), None);
    }
}
