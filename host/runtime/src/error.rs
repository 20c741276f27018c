//! What can go wrong when an engine runs.

use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_files::FileError;
use engraft_ir::AnyEntity;
use std::path::PathBuf;

/// Any failure of this room.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A request without a single token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A prompt that leaves no room for even one new token.
    #[error("the prompt is {tokens} tokens long, of at most {limit}")]
    PromptTooLong {
        /// Its length.
        tokens: usize,
        /// The longest that the model was loaded for.
        limit: usize,
    },
    /// A token id that the model's vocabulary does not have.
    #[error("token id {token} is not in the vocabulary of {vocabulary} entries")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Where in the prompt.
        position: usize,
        /// How many ids there are.
        vocabulary: usize,
    },
    /// A request whose worst case is larger than the whole cache.
    #[error("the request may need {needed} tokens of cache, and the whole cache holds {capacity}")]
    CacheTooSmall {
        /// Tokens, in whole blocks.
        needed: usize,
        /// Tokens.
        capacity: usize,
    },
    /// More memory than the machine has to give.
    #[error("{what} needs {needed} MiB of memory, of {available} MiB that are free")]
    OutOfMemory {
        /// Which part of the model.
        what: &'static str,
        /// MiB.
        needed: u64,
        /// MiB.
        available: u64,
    },
    /// A limit that cannot be.
    #[error("{name} is {value}: {reason}")]
    BadLimit {
        /// The flag.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// Sampling options that make no sense.
    #[error("{name} is {value}: {reason}")]
    BadSampling {
        /// The flag.
        name: &'static str,
        /// What it was set to.
        value: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// An instruction set that this machine lacks.
    #[error("this machine has no {isa}")]
    NoIsa {
        /// Its name.
        isa: String,
    },
    /// Threads that the system does not give.
    #[error("cannot start {threads} threads: {reason}")]
    NoThreads {
        /// How many.
        threads: usize,
        /// Why.
        reason: String,
    },
    /// A graph that this device cannot run.
    #[error("the engine's graph cannot run on the CPU: {reason}")]
    Unsupported {
        /// Why.
        reason: String,
        /// Which part.
        place: AnyEntity,
    },
    /// A weight whose bytes are not what its type says.
    #[error("weight `{name}` has {found} bytes, not {expected}")]
    WeightSize {
        /// Its name.
        name: String,
        /// Bytes in the engine.
        found: u64,
        /// Bytes by its type.
        expected: u64,
    },
    /// A file beside the engine that cannot be read.
    #[error("cannot read a file beside the engine: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file beside the engine that is not what it should be.
    #[error("{file} is malformed: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Text where the engine has no tokenizer.
    #[error("the engine has no tokenizer")]
    NoTokenizer {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {reason}")]
    Tokenizer {
        /// Its words.
        reason: String,
    },
    /// A chat where the model has no chat template.
    #[error("the model has no chat template")]
    NoChatTemplate {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The chat template failed, or refused the messages.
    #[error("the chat template failed: {reason}")]
    ChatTemplate {
        /// Its words.
        reason: String,
    },
    /// A perplexity that cannot be computed.
    #[error("cannot compute a perplexity: {reason}")]
    BadPerplexity {
        /// Why.
        reason: String,
    },
    /// Two models that cannot be compared.
    #[error("the two cannot be compared: {reason}")]
    Incomparable {
        /// Why.
        reason: String,
    },
    /// An engine for another number of ranks than there are.
    #[error("{}", rank_count(*engine, *running))]
    RankCount {
        /// Ranks of the engine.
        engine: u32,
        /// Ranks that run.
        running: u32,
    },
    /// Ranks whose engines were not built together.
    #[error("rank {rank} has another model than rank 0")]
    RanksDiffer {
        /// Which.
        rank: u32,
    },
    /// Another rank failed, which says why.
    #[error("rank {rank} failed")]
    RankFailed {
        /// Which.
        rank: u32,
    },
    /// What went wrong on one of several ranks.
    #[error("{error} (rank {rank} of {ranks})")]
    OfRank {
        /// Which.
        rank: u32,
        /// How many there are.
        ranks: u32,
        /// What.
        error: Box<RuntimeError>,
    },
    /// The person pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// What must not happen.
    #[error("internal error: {reason}")]
    Bug {
        /// What happened.
        reason: String,
    },
}

fn rank_count(engine: u32, running: u32) -> String {
    let ranks = |n: u32| if n == 1 { "1 rank".to_owned() } else { format!("{n} ranks") };
    let is = if running == 1 { "is" } else { "are" };
    format!("the engine has {}, and there {is} {running} to run it", ranks(engine))
}

impl Diagnostic for RuntimeError {
    fn code(&self) -> Code {
        Code(match self {
            RuntimeError::Interrupted => return FileError::Interrupted.code(),
            RuntimeError::OfRank { error, .. } => return error.code(),
            RuntimeError::EmptyPrompt => 601,
            RuntimeError::PromptTooLong { .. } => 602,
            RuntimeError::TokenOutOfRange { .. } => 603,
            RuntimeError::CacheTooSmall { .. } => 604,
            RuntimeError::OutOfMemory { .. } => 605,
            RuntimeError::BadLimit { .. } => 606,
            RuntimeError::BadSampling { .. } => 607,
            RuntimeError::NoIsa { .. } => 608,
            RuntimeError::Unsupported { .. } => 609,
            RuntimeError::WeightSize { .. } => 610,
            RuntimeError::Read { .. } => 611,
            RuntimeError::Malformed { .. } => 612,
            RuntimeError::NoTokenizer { .. } => 613,
            RuntimeError::Tokenizer { .. } => 614,
            RuntimeError::NoChatTemplate { .. } => 615,
            RuntimeError::ChatTemplate { .. } => 616,
            RuntimeError::BadPerplexity { .. } => 617,
            RuntimeError::NoThreads { .. } => 618,
            RuntimeError::RankCount { .. } => 619,
            RuntimeError::RanksDiffer { .. } => 620,
            RuntimeError::RankFailed { .. } => 621,
            RuntimeError::Incomparable { .. } => 622,
            RuntimeError::Bug { .. } => 699,
        })
    }

    fn fault(&self) -> Fault {
        match self {
            RuntimeError::OfRank { error, .. } => error.fault(),
            RuntimeError::RanksDiffer { .. } | RuntimeError::Incomparable { .. } => Fault::Input,
            RuntimeError::RankCount { .. } => Fault::Usage,
            RuntimeError::RankFailed { .. } => Fault::Limit,
            RuntimeError::EmptyPrompt
            | RuntimeError::PromptTooLong { .. }
            | RuntimeError::TokenOutOfRange { .. }
            | RuntimeError::Unsupported { .. }
            | RuntimeError::WeightSize { .. }
            | RuntimeError::Read { .. }
            | RuntimeError::Malformed { .. }
            | RuntimeError::NoTokenizer { .. }
            | RuntimeError::Tokenizer { .. }
            | RuntimeError::NoChatTemplate { .. }
            | RuntimeError::ChatTemplate { .. } => Fault::Input,
            RuntimeError::BadLimit { .. }
            | RuntimeError::BadSampling { .. }
            | RuntimeError::NoIsa { .. }
            | RuntimeError::BadPerplexity { .. } => Fault::Usage,
            RuntimeError::CacheTooSmall { .. }
            | RuntimeError::OutOfMemory { .. }
            | RuntimeError::NoThreads { .. } => Fault::Limit,
            RuntimeError::Interrupted => Fault::Interrupt,
            RuntimeError::Bug { .. } => Fault::Bug,
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            RuntimeError::OfRank { error, .. } => error.location(),
            RuntimeError::TokenOutOfRange { position, .. } => {
                Some(format!("token {position} of the prompt"))
            }
            RuntimeError::Unsupported { place, .. } => Some(place.to_string()),
            RuntimeError::WeightSize { name, .. } => Some(name.clone()),
            RuntimeError::Read { path, .. } => Some(path.display().to_string()),
            RuntimeError::Malformed { file, .. } => Some(file.clone()),
            RuntimeError::NoTokenizer { directory }
            | RuntimeError::NoChatTemplate { directory } => Some(directory.display().to_string()),
            _ => None,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            RuntimeError::OfRank { error, .. } => return error.help(),
            RuntimeError::RankCount { engine: 1, .. } => {
                "run it without mpirun, or build the engine for as many ranks".into()
            }
            RuntimeError::RankCount { engine, .. } => format!(
                "start a process a rank, as in `mpirun -n {engine} engraft run …`, or run all ranks \
                 in one with --ranks_in_process"
            ),
            RuntimeError::RanksDiffer { .. } => {
                "put the engine that one build wrote, all its ranks, on every machine".into()
            }
            RuntimeError::RankFailed { .. } => "look at what that rank says".into(),
            RuntimeError::EmptyPrompt => {
                "give at least one token; this model's tokenizer adds none of its own".into()
            }
            RuntimeError::PromptTooLong { .. } => {
                "shorten the prompt, or raise --max_input_len or --max_seq_len if the model was made \
                 for it"
                    .into()
            }
            RuntimeError::TokenOutOfRange { vocabulary, .. } => {
                format!("use ids below {vocabulary}, from this model's own tokenizer")
            }
            RuntimeError::CacheTooSmall { .. } => {
                "lower --max_output_len or raise --kv_cache_tokens".into()
            }
            RuntimeError::OutOfMemory { .. } => {
                "lower --kv_cache_tokens, --max_batch_size, --max_num_tokens or --max_seq_len"
                    .into()
            }
            RuntimeError::BadLimit { name, .. } | RuntimeError::BadSampling { name, .. } => {
                format!("set {name} to a value in its range")
            }
            RuntimeError::NoThreads { .. } => "lower --threads".into(),
            RuntimeError::NoIsa { .. } => "leave the choice to engraft".into(),
            RuntimeError::Unsupported { .. } | RuntimeError::WeightSize { .. } => {
                "build the engine again with this version of engraft".into()
            }
            RuntimeError::Read { .. } | RuntimeError::Malformed { .. } => {
                "copy the file from the model's directory again, or build the engine again".into()
            }
            RuntimeError::NoTokenizer { .. } => {
                "give --input_ids and --output_ids, which need none, or put the model's tokenizer.json \
                 beside the engine"
                    .into()
            }
            RuntimeError::Tokenizer { .. } => "check the text and tokenizer.json".into(),
            RuntimeError::NoChatTemplate { .. } => {
                "leave out --chat, or put a chat_template.jinja beside the engine".into()
            }
            RuntimeError::ChatTemplate { .. } => {
                "check the messages and their roles against the template".into()
            }
            RuntimeError::Incomparable { .. } => {
                "give two engines of one model, or an engine and the model that it was made of".into()
            }
            RuntimeError::BadPerplexity { .. } => "check --window and --stride".into(),
            RuntimeError::Interrupted => return None,
            RuntimeError::Bug { .. } => "report this, with the command that led here".into(),
        })
    }
}
