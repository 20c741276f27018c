//! `engraft run`: prompts to text.

use crate::error::Usage;
use crate::load::LoadArgs;
use crate::output;
use crate::ranks::World;
use anyhow::Result;
use clap::Args;
use engraft_engine::Engine;
use engraft_runtime::{
    ChatTemplate, Generation, Generator, Message, Model, Request, RuntimeError, Sampling, Stop,
    Tokenizer,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs an engine on prompts.
///
/// Greedy unless a temperature is given. Several prompts run in one batch; each gets what it
/// would get alone.
#[derive(Args)]
#[command(rename_all = "snake_case")]
pub struct Run {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    input: Input,
    /// New tokens at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_output_len: usize,
    /// Take each text for a user's message, in the model's chat template.
    #[arg(long)]
    chat: bool,
    /// With --chat, the system's message.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Show text as it comes; one prompt only.
    #[arg(long)]
    streaming: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Stop at this text, which is not shown; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Do not stop at the end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Print the new token ids alone, comma-separated, a line a prompt.
    #[arg(long, conflicts_with_all = ["streaming", "json"])]
    output_ids: bool,
    /// Report as JSON.
    #[arg(long, conflicts_with = "streaming")]
    json: bool,
}

/// Where prompts come from.
#[derive(Args)]
#[group(required = true, multiple = false)]
#[command(rename_all = "snake_case")]
struct Input {
    /// A prompt; may be given several times.
    #[arg(long, value_name = "TEXT")]
    input_text: Vec<String>,
    /// A file with one prompt a line.
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// Token ids, comma-separated; may be given several times.
    #[arg(long, value_name = "1,2,3")]
    input_ids: Vec<String>,
}

#[derive(Args)]
#[command(rename_all = "snake_case")]
struct SamplingArgs {
    /// 0 takes the likeliest token always.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Choose among the K likeliest; 0 among all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest that have this much probability together.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f32,
    /// Leave out what is less likely than this part of the likeliest.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Divide the scores of tokens that were there already; 1 does nothing.
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// A prompt as given, and its ids.
struct Prompt {
    text: Option<String>,
    ids: Vec<u32>,
}

impl Run {
    pub fn run(self, world: &World) -> Result<ExitCode> {
        let started = Instant::now();
        let (engine, mut model) = self.load.load(world)?;
        let loaded = started.elapsed();
        let only_ids = !self.input.input_ids.is_empty();
        let words = match only_ids && self.output_ids && self.stop.is_empty() {
            true => None,
            false => Some(Tokenizer::of(&engine)?),
        };
        let prompts = self.prompts(&engine, words.as_ref())?;
        if self.streaming && prompts.len() > 1 {
            return Err(Usage::new(format!(
                "--streaming shows one prompt, here are {}",
                prompts.len()
            ))
            .help("leave --streaming out, or give one prompt")
            .into());
        }
        let mut stop = match self.ignore_eos {
            true => Stop::default(),
            false => Stop::of(&engine, words.as_ref())?,
        };
        stop.strings = self.stop.clone();
        let (answers, times) = self.generate(&mut model, words.as_ref(), &prompts, &stop)?;
        self.print(&prompts, &answers, &times, loaded)?;
        Ok(ExitCode::SUCCESS)
    }

    fn prompts(&self, engine: &Engine, tokenizer: Option<&Tokenizer>) -> Result<Vec<Prompt>> {
        if self.chat && !self.input.input_ids.is_empty() {
            return Err(Usage::new("--chat is for texts, not for --input_ids").into());
        }
        let mut prompts = Vec::new();
        for ids in &self.input.input_ids {
            prompts.push(Prompt { text: None, ids: parse_ids(ids)? });
        }
        let mut texts = self.input.input_text.clone();
        if let Some(file) = &self.input.input_file {
            texts.extend(lines_of(file)?);
        }
        let template = match self.chat {
            true => Some(ChatTemplate::of(engine)?),
            false => None,
        };
        for text in texts {
            let Some(tokenizer) = tokenizer else { break };
            let ids = match &template {
                Some(template) => {
                    let system = self.system.iter().map(Message::system);
                    let messages: Vec<_> = system.chain([Message::user(&text)]).collect();
                    // The template writes its special tokens itself.
                    tokenizer.encode(&template.render(&messages, true)?, false)?
                }
                None => tokenizer.encode(&text, true)?,
            };
            prompts.push(Prompt { text: Some(text), ids });
        }
        Ok(prompts)
    }

    fn generate(
        &self,
        model: &mut Model,
        tokenizer: Option<&Tokenizer>,
        prompts: &[Prompt],
        stop: &Stop,
    ) -> Result<(Vec<Generation>, Times)> {
        let mut generator = Generator::new(model, tokenizer);
        for prompt in prompts {
            generator.submit(Request {
                prompt: prompt.ids.clone(),
                sampling: self.sampling.resolve(),
                max_output_len: Some(self.max_output_len),
                stop: stop.clone(),
            })?;
        }
        let mut times = Times::new(prompts.iter().map(|p| p.ids.len()).sum());
        let mut shown = Ok(());
        while !generator.is_idle() {
            let mut fresh = 0;
            let stepped = generator.step(|event| {
                fresh += 1;
                if self.streaming && shown.is_ok() {
                    shown = output::text(&event.text);
                }
            });
            if self.streaming && matches!(stepped, Err(RuntimeError::Interrupted)) {
                output::text("\n")?;
            }
            stepped?;
            times.step(fresh);
            std::mem::replace(&mut shown, Ok(()))?;
        }
        Ok((generator.take_finished(), times))
    }

    fn print(
        &self,
        prompts: &[Prompt],
        answers: &[Generation],
        times: &Times,
        loaded: Duration,
    ) -> Result<()> {
        if self.json {
            let answers = prompts.iter().zip(answers).map(|(prompt, answer)| {
                serde_json::json!({
                    "prompt": prompt.text,
                    "prompt_tokens": answer.prompt_len,
                    "text": answer.text,
                    "ids": answer.ids,
                    "finish_reason": answer.finish.name(),
                })
            });
            return output::json(&serde_json::json!({
                "answers": answers.collect::<Vec<_>>(),
                "load_seconds": loaded.as_secs_f64(),
                "prefill": { "tokens": times.prompt_tokens, "seconds": times.prefill.as_secs_f64() },
                "decode": { "tokens": times.decoded, "seconds": times.decode.as_secs_f64() },
            }));
        }
        let mut text = String::new();
        for (i, (prompt, answer)) in prompts.iter().zip(answers).enumerate() {
            if self.output_ids {
                let ids: Vec<String> = answer.ids.iter().map(u32::to_string).collect();
                text += &format!("{}\n", ids.join(","));
                continue;
            }
            if self.streaming {
                text += "\n";
                continue;
            }
            if prompts.len() > 1 {
                let shown = prompt.text.clone().unwrap_or_else(|| format!("{:?}", prompt.ids));
                text += &format!("{}==> {shown}\n", if i > 0 { "\n" } else { "" });
            }
            text += &format!("{}\n", answer.text);
        }
        output::text(&text)?;
        crate::error::to_stderr(&times.summary(loaded));
        Ok(())
    }
}

impl SamplingArgs {
    fn resolve(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// What took how long. Steps until each prompt has its first token are prefill.
struct Times {
    prompt_tokens: usize,
    prefill: Duration,
    decoded: usize,
    decode: Duration,
    begun: bool,
    last: Instant,
}

impl Times {
    fn new(prompt_tokens: usize) -> Times {
        let (prefill, decode) = (Duration::ZERO, Duration::ZERO);
        Times { prompt_tokens, prefill, decoded: 0, decode, begun: false, last: Instant::now() }
    }

    fn step(&mut self, fresh: usize) {
        let took = self.last.elapsed();
        self.last = Instant::now();
        if self.begun {
            self.decode += took;
            self.decoded += fresh;
        } else {
            self.prefill += took;
            self.begun = fresh > 0;
        }
    }

    fn summary(&self, loaded: Duration) -> String {
        let rate = |tokens: usize, time: Duration| match time.as_secs_f64() {
            0.0 => String::new(),
            seconds => format!(" ({:.0} tokens/s)", tokens as f64 / seconds),
        };
        format!(
            "[loaded in {:.0} ms; prompt {} tokens in {:.0} ms{}; {} more tokens in {:.2} s{}]",
            loaded.as_secs_f64() * 1e3,
            self.prompt_tokens,
            self.prefill.as_secs_f64() * 1e3,
            rate(self.prompt_tokens, self.prefill),
            self.decoded,
            self.decode.as_secs_f64(),
            rate(self.decoded, self.decode),
        )
    }
}

/// `1,2,3`
fn parse_ids(text: &str) -> Result<Vec<u32>, Usage> {
    text.split(',')
        .map(|id| {
            id.trim().parse().map_err(|_| {
                Usage::new(format!("--input_ids: `{}` is no token id", id.trim()))
                    .help("give whole numbers, as in --input_ids \"1,2,3\"")
            })
        })
        .collect()
}

/// The longest file of prompts that is read.
const PROMPTS: u64 = 1 << 30;

/// The lines of a text file that are not empty.
fn lines_of(path: &std::path::Path) -> Result<Vec<String>> {
    let text = text_of(path, PROMPTS)?;
    let lines: Vec<_> = text.lines().filter(|l| !l.trim().is_empty()).map(str::to_string).collect();
    match lines.is_empty() {
        true => Err(Usage::new(format!("{}: no prompt in it", path.display()))
            .help("put one prompt on each line")
            .into()),
        false => Ok(lines),
    }
}

/// A text file, whole.
pub fn text_of(path: &std::path::Path, limit: u64) -> Result<String> {
    let mut bytes = engraft_files::read::whole(path, limit)?;
    // A byte order mark is no part of the text.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Usage::new(format!("{}: byte {at} is not UTF-8", path.display()))
            .help("give a text file in UTF-8")
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_between_commas() {
        assert_eq!(parse_ids("1, 2,3").unwrap(), [1, 2, 3]);
        assert!(parse_ids("1,,3").is_err());
        assert!(parse_ids("-1").is_err());
    }
}
