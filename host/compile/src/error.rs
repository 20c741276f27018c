//! Why no engine came of it.

use crate::partition::PartitionError;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_engine::EngineError;
use engraft_ir::{DType, TypeError, VerifierErrors};
use engraft_quant::QuantError;
use engraft_weights::WeightError;
use std::fmt::Write;

/// How many names a message lists of each kind.
const NAMES_SHOWN: usize = 8;

/// Why no engine came of it.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// There is no such target.
    #[error("there is no target {found:?}; this build of engraft has: {known}")]
    Target {
        /// What was asked for.
        found: String,
        /// All there are.
        known: String,
    },
    /// A flag's value does not fit the model or the others.
    #[error("{flag}, {value}, {problem}")]
    Limit {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: u32,
        /// As a predicate.
        problem: String,
    },
    /// Nobody says how long a request may be.
    #[error("the model's config does not say how many positions it has")]
    NoLength,
    /// The model cannot be split over ranks as asked.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The graph that was handed in breaks a rule.
    #[error(transparent)]
    Graph(#[from] VerifierErrors),
    /// A pass made what cannot be typed.
    #[error("the pass {name} failed: {source}")]
    Pass {
        /// The pass.
        name: &'static str,
        /// Why.
        source: TypeError,
    },
    /// A pass made a graph that breaks a rule.
    #[error("the pass {name} broke the graph: {errors}")]
    Broken {
        /// The pass.
        name: &'static str,
        /// Which rules.
        errors: VerifierErrors,
    },
    /// The target has no kernel for a weight's elements.
    #[error(
        "the weight `{}` is {dtype}, for which the target {target} has no kernel",
        escape(name)
    )]
    NoKernel {
        /// The target.
        target: &'static str,
        /// The weight.
        name: String,
        /// Its elements.
        dtype: DType,
    },
    /// A weight cannot be one of codes.
    #[error("the weight `{}` cannot be quantised: {reason}", escape(name))]
    Codes {
        /// The weight.
        name: String,
        /// Why, as a clause.
        reason: &'static str,
    },
    /// Ranks cut through codes.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// Weights of the graph and weights supplied are not the same.
    #[error("{}", supplies(missing, different, unused))]
    Supplies {
        /// Declared by the graph but not supplied, with type and shape.
        missing: Vec<String>,
        /// Supplied otherwise than declared.
        different: Vec<Mismatch>,
        /// Supplied, but no place of the graph declares them.
        unused: Vec<String>,
    },
    /// The engine could not be written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A weight could not be read.
    #[error(transparent)]
    Weight(Box<WeightError>),
}

impl From<WeightError> for CompileError {
    fn from(error: WeightError) -> CompileError {
        CompileError::Weight(Box::new(error))
    }
}

/// A weight that is supplied otherwise than the graph declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name.
    pub name: String,
    /// Type and shape in the graph.
    pub declared: String,
    /// Type and shape as supplied.
    pub found: String,
}

fn supplies(missing: &[String], different: &[Mismatch], unused: &[String]) -> String {
    let different: Vec<String> = different
        .iter()
        .map(|m| format!("{} is {}, but the graph declares {}", m.name, m.found, m.declared))
        .collect();
    let mut text = "the weights are not those that the graph declares".to_owned();
    for (what, names) in
        [("missing", missing), ("different", &different), ("used by nothing", unused)]
    {
        if names.is_empty() {
            continue;
        }
        let shown =
            names.iter().take(NAMES_SHOWN).map(|name| escape(name)).collect::<Vec<_>>().join(", ");
        let _ = write!(text, "; {what}: {shown}");
        if names.len() > NAMES_SHOWN {
            let _ = write!(text, " and {} more", names.len() - NAMES_SHOWN);
        }
    }
    text
}

impl CompileError {
    /// The error of the room that it comes from.
    fn inner(&self) -> Option<&dyn Diagnostic> {
        match self {
            CompileError::Graph(e) => Some(e),
            CompileError::Engine(e) => Some(e),
            CompileError::Weight(e) => Some(e.as_ref()),
            CompileError::Quant(e) => Some(e),
            _ => None,
        }
    }
}

impl Diagnostic for CompileError {
    fn code(&self) -> Code {
        Code(match self {
            CompileError::Target { .. } => 701,
            CompileError::Limit { .. } => 702,
            CompileError::NoLength => 703,
            CompileError::Pass { .. } => 704,
            CompileError::Broken { .. } => 705,
            CompileError::NoKernel { .. } => 706,
            CompileError::Supplies { .. } => 707,
            CompileError::Partition(_) => 708,
            CompileError::Codes { .. } => 709,
            CompileError::Quant(e) => return e.code(),
            CompileError::Graph(e) => return e.code(),
            CompileError::Engine(e) => return e.code(),
            CompileError::Weight(e) => return e.code(),
        })
    }

    fn fault(&self) -> Fault {
        match self {
            CompileError::Target { .. }
            | CompileError::Limit { .. }
            | CompileError::NoLength
            | CompileError::Partition(_) => Fault::Usage,
            CompileError::Pass { .. } | CompileError::Broken { .. } => Fault::Bug,
            CompileError::NoKernel { .. }
            | CompileError::Codes { .. }
            | CompileError::Supplies { .. } => Fault::Input,
            _ => self.inner().map_or(Fault::Bug, Diagnostic::fault),
        }
    }

    fn location(&self) -> Option<String> {
        match self {
            CompileError::Limit { flag, .. } => Some(format!("--{flag}")),
            CompileError::Target { .. } => Some("--target".to_owned()),
            CompileError::Partition(error) => error.location(),
            CompileError::NoKernel { name, .. } => Some(escape(name)),
            _ => self.inner()?.location(),
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            CompileError::Partition(error) => error.help(),
            CompileError::Target { .. } => "give one of these to --target".to_owned(),
            CompileError::Limit { flag, .. } => {
                format!("give --{flag} another value, or leave it out")
            }
            CompileError::NoLength => {
                "say how long a request may be, with --max_seq_len".to_owned()
            }
            CompileError::Pass { .. } | CompileError::Broken { .. } => {
                "report this: it is a mistake in engraft".to_owned()
            }
            CompileError::NoKernel { .. } => {
                "convert the model again, with --dtype float32, float16 or bfloat16".to_owned()
            }
            CompileError::Supplies { .. } => {
                "check that checkpoint and plugin belong together, or convert the model again"
                    .to_owned()
            }
            _ => return self.inner()?.help(),
        })
    }
}
