//! What can be wrong between a source and a checkpoint's parameters.

use crate::origin::OriginError;
use engraft_diagnostic::{Code, Diagnostic, Fault};
use engraft_files::FileError;
use engraft_ir::DType;
use engraft_source::SourceError;
use std::fmt;
use std::path::{Path, PathBuf};

/// Names with what is known of each, printed a line each: the first twenty, then how many more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub Vec<String>);

impl Listing {
    /// How many lines are printed.
    const SHOWN: usize = 20;
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.0.iter().take(Self::SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            f.write_str(line)?;
        }
        match self.0.len().checked_sub(Self::SHOWN) {
            Some(more) if more > 0 => write!(f, "\nand {more} more"),
            _ => Ok(()),
        }
    }
}

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// Source tensors that parameters need and the source lacks: all of them.
    #[error("the source lacks {} of the tensors that the model's parameters are made of", .missing.0.len())]
    Missing {
        /// `NAME, for PARAMETER [SHAPE]` each.
        missing: Listing,
        /// Source tensors that nobody uses: a renamed one is among them.
        unused: Listing,
        /// The source.
        source_path: PathBuf,
    },
    /// Source tensors that no parameter uses and no explanation covers: all of them.
    #[error("{} of the source's tensors are used by no parameter", .unused.0.len())]
    Unused {
        /// `NAME [SHAPE] DTYPE` each.
        unused: Listing,
        /// The source.
        source_path: PathBuf,
    },
    /// A source tensor that does not have the shape that its steps and axes need.
    #[error("`{tensor}` is {found:?} in the source, but {reason}")]
    Shape {
        /// The source tensor.
        tensor: String,
        /// Its shape.
        found: Vec<u64>,
        /// What is needed, with the step at fault.
        reason: String,
        /// The parameter made of it.
        parameter: String,
        /// The parameter's place.
        place: String,
    },
    /// An origin that no source could satisfy.
    #[error("the origin of `{parameter}` contradicts itself: {reason}")]
    Origin {
        /// The parameter.
        parameter: String,
        /// Its place.
        place: String,
        /// The contradiction.
        reason: Box<OriginError>,
    },
    /// A parameter declared twice.
    #[error("the parameter `{parameter}` is declared twice")]
    Twice {
        /// The parameter.
        parameter: String,
        /// The place of the second declaration.
        place: String,
    },
    /// A parameter tied to something that is not there, or is tied itself.
    #[error("`{parameter}` is tied to `{to}`, which is no parameter with bytes of its own")]
    TiedToNothing {
        /// The parameter.
        parameter: String,
        /// Its place.
        place: String,
        /// What it names.
        to: String,
    },
    /// A pattern for left-out tensors that is none.
    #[error("`{glob}`, which explains unused tensors, is no pattern: {reason}")]
    Glob {
        /// The pattern.
        glob: String,
        /// Why not.
        reason: String,
    },
    /// A source tensor that holds no floating-point numbers.
    #[error("`{tensor}` holds {dtype} elements; a parameter needs floating-point ones")]
    NotFloat {
        /// The source tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// The parameter made of it.
        parameter: String,
        /// The parameter's place.
        place: String,
    },
    /// A NaN or an infinity in a tensor that is read.
    #[error("`{tensor}`{index:?} is {value}")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Where in it, outermost axis first.
        index: Vec<u64>,
        /// NaN, inf or -inf.
        value: f64,
        /// The file or directory that holds it.
        file: PathBuf,
    },
    /// A finite number that the steps of a parameter made infinite.
    #[error("`{step}` makes `{tensor}` too large for f32 at {index:?}")]
    Overflow {
        /// The source tensor.
        tensor: String,
        /// The step.
        step: String,
        /// Where in the step's result, outermost axis first.
        index: Vec<u64>,
        /// The parameter made of it.
        parameter: String,
    },
    /// A finite number that the target type cannot hold.
    #[error("`{tensor}`{index:?} is {value}, too large for {}", .dtype.config_name())]
    TooLarge {
        /// The source tensor.
        tensor: String,
        /// Where in the tensor after its steps, outermost axis first.
        index: Vec<u64>,
        /// The number.
        value: f64,
        /// The type that cannot hold it.
        dtype: DType,
        /// The parameter made of it.
        parameter: String,
    },
    /// A weight that should be codes already, and is something else by now.
    #[error("`{parameter}` is made of codes, but has {what}")]
    NotCodes {
        /// The parameter.
        parameter: String,
        /// What no codes have.
        what: &'static str,
    },
    /// Copies of a tensor that should be the same, of which one is another.
    #[error("`{tensor}` is not the same in {} and {}", file_name(.first), file_name(.other))]
    Copies {
        /// The tensor.
        tensor: String,
        /// The first index at which they differ, outermost axis first.
        index: Vec<u64>,
        /// The file of the first copy.
        first: PathBuf,
        /// The file of the other.
        other: PathBuf,
    },
    /// A parameter asked for that the provider does not have.
    #[error("there is no parameter `{parameter}`")]
    Unknown {
        /// The name asked for.
        parameter: String,
    },
    /// A parameter whose stream holds more than there is.
    #[error(
        "`{parameter}` needs {} of memory at a time, beside the {} that the program takes; \
         --max_ram is {}", mebibytes(*need), mebibytes(*taken), mebibytes(*max_ram)
    )]
    Memory {
        /// The parameter.
        parameter: String,
        /// What its stream holds, in bytes.
        need: u64,
        /// What the process takes already.
        taken: u64,
        /// What it may take.
        max_ram: u64,
    },
    /// The source could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file could not be read or written, or the run was interrupted.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Whole mebibytes that hold so many bytes.
fn mebibytes_up(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", mebibytes_up(bytes))
}

/// A file's name without its directory.
fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Diagnostic for WeightError {
    fn code(&self) -> Code {
        Code(match self {
            WeightError::Missing { .. } => 301,
            WeightError::Unused { .. } => 302,
            WeightError::Shape { .. } => 303,
            WeightError::Origin { .. } => 304,
            WeightError::Twice { .. } => 305,
            WeightError::TiedToNothing { .. } => 306,
            WeightError::Glob { .. } => 307,
            WeightError::NotFloat { .. } => 308,
            WeightError::NotFinite { .. } => 309,
            WeightError::Overflow { .. } => 310,
            WeightError::TooLarge { .. } => 311,
            WeightError::Unknown { .. } => 312,
            WeightError::Memory { .. } => 313,
            WeightError::NotCodes { .. } => 314,
            WeightError::Copies { .. } => 319,
            WeightError::Source(e) => return e.code(),
            WeightError::File(e) => return e.code(),
        })
    }

    fn fault(&self) -> Fault {
        match self {
            WeightError::Missing { .. }
            | WeightError::Unused { .. }
            | WeightError::Shape { .. }
            | WeightError::NotFloat { .. }
            | WeightError::NotFinite { .. }
            | WeightError::Overflow { .. }
            | WeightError::NotCodes { .. }
            | WeightError::Copies { .. }
            | WeightError::TooLarge { .. } => Fault::Input,
            WeightError::Origin { .. }
            | WeightError::Twice { .. }
            | WeightError::TiedToNothing { .. }
            | WeightError::Glob { .. } => Fault::Plugin,
            WeightError::Unknown { .. } => Fault::Bug,
            WeightError::Memory { .. } => Fault::Limit,
            WeightError::Source(e) => e.fault(),
            WeightError::File(e) => e.fault(),
        }
    }

    fn location(&self) -> Option<String> {
        let at = |place: &str, parameter: &str| Some(format!("{place}, `{parameter}`"));
        match self {
            WeightError::Missing { missing, source_path, .. } => {
                Some(format!("{}\n{missing}", source_path.display()))
            }
            WeightError::Unused { unused, source_path } => {
                Some(format!("{}\n{unused}", source_path.display()))
            }
            WeightError::Shape { parameter, place, .. }
            | WeightError::Origin { parameter, place, .. }
            | WeightError::TiedToNothing { parameter, place, .. }
            | WeightError::NotFloat { parameter, place, .. } => at(place, parameter),
            WeightError::Twice { place, .. } => Some(place.clone()),
            WeightError::NotFinite { file, .. } => Some(file.display().to_string()),
            WeightError::Overflow { parameter, .. } | WeightError::TooLarge { parameter, .. } => {
                Some(format!("`{parameter}`"))
            }
            WeightError::Glob { .. }
            | WeightError::NotCodes { .. }
            | WeightError::Unknown { .. }
            | WeightError::Memory { .. } => None,
            WeightError::Copies { index, first, other, .. } => {
                Some(format!("{} and {}, from {index:?} on", first.display(), other.display()))
            }
            WeightError::Source(e) => e.location(),
            WeightError::File(e) => e.location(),
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            WeightError::Missing { unused, .. } if unused.0.is_empty() => {
                "check that all files of the model are there, and that its config.json belongs to \
                 them; then the names in the plugin's origins, or in its manifest"
                    .to_owned()
            }
            WeightError::Missing { unused, .. } => format!(
                "look among the tensors that nobody uses for one of another name, and correct the \
                 plugin's origins, or its manifest's `[tensors]`:\n{unused}"
            ),
            WeightError::Unused { .. } => {
                "check that the config.json belongs to these weights; then make a parameter of them \
                 in the plugin or, if they are left out on purpose, name them in its `unused` with \
                 the reason"
                    .to_owned()
            }
            WeightError::Shape { .. } => {
                "check that the config.json belongs to these weights, then the plugin's origin of \
                 this parameter"
                    .to_owned()
            }
            WeightError::Origin { .. }
            | WeightError::Twice { .. }
            | WeightError::TiedToNothing { .. } => {
                "correct the plugin's `parameters` for this place".to_owned()
            }
            WeightError::Glob { .. } => "correct the pattern in the plugin's `unused`".to_owned(),
            WeightError::NotFloat { .. } => {
                "convert the tensor to floating point first, or use a source that is not quantised"
                    .to_owned()
            }
            WeightError::NotFinite { .. } => {
                "get the file again and compare its checksum; a model with such a weight computes \
                 nothing useful"
                    .to_owned()
            }
            WeightError::Overflow { .. } => {
                "check the constant of the step in the plugin's origin of this parameter".to_owned()
            }
            WeightError::Copies { .. } => {
                "copy the files of all ranks again, from the same checkpoint; what several ranks \
                 have must be the same in each"
                    .to_owned()
            }
            WeightError::NotCodes { .. } => {
                "pass --qformat full_prec, which makes floats of all codes".to_owned()
            }
            WeightError::TooLarge { dtype: DType::F16, .. } => {
                "use --dtype bfloat16 (or float32)".to_owned()
            }
            WeightError::TooLarge { .. } => "use --dtype float32".to_owned(),
            WeightError::Unknown { .. } => "report this as a bug, with the command".to_owned(),
            WeightError::Memory { need, taken, .. } => {
                format!("pass --max_ram {}M or more", mebibytes_up(need.saturating_add(*taken)) + 16)
            }
            WeightError::Source(e) => return e.help(),
            WeightError::File(e) => return e.help(),
        })
    }
}
