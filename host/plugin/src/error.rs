//! What can go wrong with a plugin, and how it is told: who, in which call, at which place.
//!
//! | what happened                 | how we know                           | kind                  |
//! |-------------------------------|---------------------------------------|-----------------------|
//! | we refused a call             | our [`Rejection`] is the root cause   | [`Problem::Rejected`] |
//! | the guest panicked            | it called `report.fail`               | [`Problem::Failed`]   |
//! | it panicked without our hook  | a trap                                | [`Problem::Trapped`]  |
//! | too long, too deep, too much  | a trap, or our limiter's typed error  | [`Problem::Limit`]    |
//! | an answer that is none        | any other error while a call returns  | [`Problem::Answer`]   |
//!
//! Nothing here looks into a message to find out what happened; every text of a guest is escaped.

use crate::limits::VARIABLE;
use crate::manifest::ManifestError;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_ir::PlaceKind;
use std::fmt;

/// Which resource ran out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// It ran for more instructions than this.
    Fuel(u64),
    /// It recursed too deeply.
    Stack,
    /// It asked for more linear memory than it may have, in bytes.
    Memory {
        /// What it asked for.
        asked: usize,
        /// What it may have.
        limit: usize,
    },
    /// It asked for a larger table than it may have, in elements.
    Table {
        /// What it asked for.
        asked: usize,
        /// What it may have.
        limit: usize,
    },
    /// It has more instances, memories or tables than it may have, in wasmtime's words.
    Store(String),
    /// A budget of ours: what it counts, and how many there may be.
    Budget {
        /// In words: `calls on the builder`.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exhausted::Fuel(limit) => write!(f, "used up its {limit} instructions"),
            Exhausted::Stack => f.write_str("recursed too deeply for its stack"),
            Exhausted::Memory { asked, limit } => {
                write!(f, "asked for {asked} bytes of memory; at most {limit}")
            }
            Exhausted::Table { asked, limit } => {
                write!(f, "asked for a table of {asked} elements; at most {limit}")
            }
            Exhausted::Store(why) => write!(f, "cannot be started: {why}"),
            Exhausted::Budget { what, limit } => write!(f, "too many {what}: at most {limit}"),
        }
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot read the plugin: {0}")]
    Unreadable(String),
    /// The file is larger than a plugin may be, in bytes.
    #[error("a plugin has at most {limit} bytes, this file has {size}")]
    TooLarge {
        /// Of the file.
        size: u64,
        /// From [`crate::Limits`].
        limit: u64,
    },
    /// The file is something else: a core module, compiled code, a text, …
    #[error("this is {0}, not a WebAssembly component")]
    NotAComponent(&'static str),
    /// It has a component's header, and wasmtime does not accept the rest.
    #[error("this component is not valid: {0}")]
    Invalid(String),
    /// The system gave us no thread to run it on.
    #[error("cannot start a thread for it: {0}")]
    NoThread(String),
    /// Compiling it took too long.
    #[error("compiling the plugin took more than {0} seconds")]
    SlowToCompile(u64),
    /// Compiling it took too much memory, in bytes.
    #[error("compiling the plugin took more than {0} bytes of memory")]
    LargeToCompile(u64),
    /// Compiling it would take too much, by what is in it.
    #[error("compiling the plugin is too much: {found} {what}, at most {limit}")]
    TooMuchToCompile {
        /// What was counted.
        what: String,
        /// How much of it there is, up to where counting stopped.
        found: u64,
        /// How much there may be.
        limit: u64,
        /// The limit's name.
        setting: &'static str,
    },
    /// It wants something that no plugin gets.
    #[error(
        "it imports `{name}`, and a plugin gets nothing but `engraft:plugin/graph` and `engraft:plugin/report`"
    )]
    ForbiddenImport {
        /// The interface.
        name: String,
        /// Whether it is part of WASI.
        wasi: bool,
    },
    /// It was made for another version of the contract.
    #[error("it speaks `{found}`, and this engraft serves version {served}")]
    UnknownVersion {
        /// The interface with its version.
        found: String,
        /// What we serve.
        served: String,
    },
    /// It does not export what a plugin must.
    #[error("it does not export `{0}`")]
    NoExport(String),
    /// An interface of the right name with functions or types that are not ours.
    #[error("it does not fit the contract: {0}")]
    Unlinkable(String),
    /// It used up something.
    #[error("it {0}")]
    Limit(Exhausted),
    /// We refused a call on the graph.
    #[error("{0}")]
    Rejected(String),
    /// It gave up with a message, as a panic does.
    #[error("it failed: {0}")]
    Failed(String),
    /// It trapped.
    #[error("it trapped: {0}")]
    Trapped(String),
    /// It returned something that breaks the contract.
    #[error("its answer breaks the contract: {0}")]
    Answer(String),
    /// It answered the same question differently.
    #[error("it is not deterministic: {0}")]
    Nondeterministic(String),
    /// It was called again after it had stopped, or before `open`.
    #[error("{0}")]
    Misused(&'static str),
    /// It is a manifest, and something is wrong with that.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A plugin that could not be loaded, that broke the contract, or that was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginError {
    /// Its name, or its file's where it has not said its name yet.
    pub plugin: String,
    /// Its version, empty where it has not said it yet.
    pub version: String,
    /// The function that was called; empty while loading.
    pub function: &'static str,
    /// The place that was asked about.
    pub place: Option<PlaceKind>,
    /// What went wrong.
    pub kind: Box<Problem>,
    /// The guest's functions, innermost first.
    pub frames: Vec<String>,
}

impl PluginError {
    pub(crate) fn new(plugin: &str, version: &str, function: &'static str, kind: Problem) -> Self {
        PluginError {
            plugin: escape(plugin),
            version: escape(version),
            function,
            place: None,
            kind: Box::new(kind),
            frames: Vec::new(),
        }
    }

    /// The guest's function to name: the innermost that is its author's own, unless the compiler
    /// put that into another; then the SDK's.
    fn frame(&self) -> Option<&String> {
        let glue = ["core::", "std::", "alloc::", "__rust", "engraft:plugin/"];
        let path = |frame: &str| frame.trim_start_matches(['<', '&', '(', '[']).to_owned();
        let is_glue = |frame: &str| {
            frame.contains("panic") || glue.iter().any(|start| path(frame).starts_with(start))
        };
        let mut frames = self.frames.iter().filter(|frame| !is_glue(frame));
        let own = frames.clone().find(|frame| !path(frame).starts_with("engraft_plugin_sdk::"));
        own.or_else(|| frames.next())
    }

    /// Says where.
    pub(crate) fn at(mut self, place: PlaceKind) -> Self {
        self.place = Some(place);
        self
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}", self.plugin)?;
        if !self.version.is_empty() {
            write!(f, " {}", self.version)?;
        }
        if let Some(place) = self.place {
            write!(f, ", {place}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for PluginError {}

impl Diagnostic for PluginError {
    fn code(&self) -> Code {
        Code(match *self.kind {
            Problem::Manifest(ref error) => return error.code(),
            Problem::Unreadable(_) => 215,
            Problem::NoThread(_) => 217,
            Problem::TooLarge { .. } | Problem::NotAComponent(_) | Problem::Invalid(_) => 203,
            Problem::ForbiddenImport { .. }
            | Problem::UnknownVersion { .. }
            | Problem::NoExport(_)
            | Problem::Unlinkable(_) => 204,
            Problem::SlowToCompile(_)
            | Problem::LargeToCompile(_)
            | Problem::TooMuchToCompile { .. } => 205,
            Problem::Limit(_) => 206,
            Problem::Failed(_) | Problem::Trapped(_) => 207,
            Problem::Rejected(_) => 208,
            Problem::Answer(_) => 209,
            Problem::Nondeterministic(_) => 210,
            Problem::Misused(_) => 216,
        })
    }

    fn fault(&self) -> Fault {
        match *self.kind {
            Problem::Unreadable(_) => Fault::Usage,
            Problem::NoThread(_) => Fault::Limit,
            Problem::Misused(_) => Fault::Bug,
            Problem::Manifest(ref error) => error.fault(),
            _ => Fault::Plugin,
        }
    }

    fn location(&self) -> Option<String> {
        let mut at = Vec::new();
        if let Problem::Manifest(error) = &*self.kind {
            at.push(self.plugin.clone());
            at.extend(error.location());
        }
        if !self.function.is_empty() {
            at.push(format!("`{}` of plugin {}", self.function, self.plugin));
        }
        at.extend(self.place.map(|place| place.to_string()));
        at.extend(self.frame().map(|frame| format!("in the guest's `{frame}`")));
        (!at.is_empty()).then(|| at.join(", "))
    }

    fn help(&self) -> Option<String> {
        let raise = |setting: &str, value: u64| {
            Some(format!("if you trust it, raise the limit: {VARIABLE}={setting}={value}"))
        };
        let author = |what: &str| {
            Some(format!(
                "if the plugin is yours, {what} and build it again (`engraft plugin build`); else \
                 report it to its author: `engraft plugin check` reproduces it"
            ))
        };
        let help = match *self.kind {
            Problem::Manifest(ref error) => return error.help(),
            Problem::Unreadable(_) => "check the path given to `--plugin`",
            Problem::NoThread(_) => "raise the limit on processes or memory",
            Problem::TooLarge { size, .. } => return raise("component_bytes", size),
            Problem::NotAComponent(_) | Problem::Invalid(_) | Problem::NoExport(_) => {
                "`engraft plugin build CRATE` makes a component of a plugin's crate (and `cargo xtask \
                 plugins` the bundled ones)"
            }
            Problem::ForbiddenImport { wasi: true, .. } => {
                "build it for wasm32-unknown-unknown: a plugin has no clock, files or random numbers"
            }
            Problem::ForbiddenImport { .. } => {
                "build it on the plugin SDK, which imports nothing else"
            }
            Problem::Unlinkable(_) => {
                "build it on this engraft's plugin SDK; or use a later engraft, if that function came \
                 into the contract later"
            }
            Problem::UnknownVersion { .. } => {
                "build it on this engraft's plugin SDK, or use the engraft that it was made for"
            }
            Problem::SlowToCompile(seconds) => {
                return raise("compile_time", seconds.saturating_mul(10).max(60));
            }
            Problem::LargeToCompile(bytes) => {
                return raise("compile_memory", bytes.saturating_mul(4));
            }
            Problem::TooMuchToCompile { setting, found, .. } => {
                return raise(setting, found.saturating_mul(2));
            }
            Problem::Misused(_) => "report this: it is a bug of engraft",
            Problem::Limit(Exhausted::Fuel(limit)) => {
                return raise("fuel", limit.saturating_mul(10));
            }
            Problem::Limit(Exhausted::Memory { asked, .. }) => {
                return raise("memory", asked.saturating_mul(2) as u64);
            }
            Problem::Rejected(_) => return author("correct that call"),
            Problem::Failed(_) | Problem::Trapped(_) => {
                return author("correct it (what a config may get wrong must end in a refusal)");
            }
            Problem::Nondeterministic(_) => {
                return author("keep nothing from one call to the next but what `open` was given");
            }
            Problem::Limit(_) | Problem::Answer(_) => return author("correct it"),
        };
        Some(help.into())
    }
}

/// A model that a plugin turned down, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {reason} ({plugin})")]
pub struct Refusal {
    /// The plugin.
    pub plugin: String,
    /// The config field, parameter or place at fault.
    pub subject: String,
    /// One sentence.
    pub reason: String,
    /// Whether a field of this name was handed to it, with or without a value.
    pub handed: bool,
}

impl Diagnostic for Refusal {
    fn code(&self) -> Code {
        Code(211)
    }
    fn fault(&self) -> Fault {
        Fault::Input
    }
    fn location(&self) -> Option<String> {
        Some(format!("key `{}`", self.subject))
    }
    fn help(&self) -> Option<String> {
        let mut help =
            "change the model's config if it is wrong; else this model needs another plugin"
                .to_owned();
        if !self.handed {
            help += "; if the plugin is yours and reads a field of this name, declare it";
        }
        Some(help)
    }
}

/// Why we stop a guest inside a call of its own. It travels through the guest as a trap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// A call that does not check.
    #[error("{0}")]
    Call(String),
    /// A limit.
    #[error("{0}")]
    Exhausted(Exhausted),
    /// `report.fail`.
    #[error("{0}")]
    Fail(String),
    /// What it exports is not what the contract says.
    #[error("{0}")]
    Unfit(String),
}

impl Rejection {
    /// As what went wrong.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Rejection::Call(why) => Problem::Rejected(escape(why)),
            Rejection::Exhausted(what) => Problem::Limit(what.clone()),
            Rejection::Unfit(why) => Problem::Unlinkable(escape(why)),
            Rejection::Fail(why) => Problem::Failed(escape(why)),
        }
    }
}
