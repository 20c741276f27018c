//! What can be wrong with packed weights.

use engraft_diagnostic::{Code, escape};

/// Why packed weights cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// A way of packing that is not read.
    #[error("its weights are packed by {0}, which is not read")]
    Unsupported(String),
    /// Tensors that do not make up layers.
    #[error("{} of its packed layers do not hold together:{}", .0.len(), lines(.0))]
    Misfits(Vec<String>),
    /// An input is of a group that is not there.
    #[error(
        "`{}.g_idx` puts input {input} into group {group}, and there are {groups}",
        escape(layer)
    )]
    Group {
        /// The layer.
        layer: String,
        /// The input.
        input: usize,
        /// The group that it would be of.
        group: i64,
        /// How many groups there are.
        groups: u64,
    },
}

/// The first of many lines, each on its own.
fn lines(all: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = all.iter().take(SHOWN).map(|line| format!("\n    {line}")).collect();
    if all.len() > SHOWN {
        text += &format!("\n    and {} more", all.len() - SHOWN);
    }
    text
}

impl PackedError {
    pub(crate) fn code(&self) -> Code {
        Code(match self {
            PackedError::Unsupported(_) => 180,
            PackedError::Misfits(_) => 181,
            PackedError::Group { .. } => 182,
        })
    }

    pub(crate) fn help(&self) -> &'static str {
        match self {
            PackedError::Unsupported(_) => {
                "take a checkpoint that AutoAWQ wrote in the version `gemm` (4 bits) or AutoGPTQ in \
                 the format `gptq` or `gptq_v2` (4 or 8 bits), or the float model"
            }
            PackedError::Misfits(_) | PackedError::Group { .. } => {
                "get the weights again, with the config.json that belongs to them"
            }
        }
    }
}
