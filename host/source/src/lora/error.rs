//! What can be wrong with an adapter.

use engraft_diagnostic::{Code, escape};

/// Why a LoRA adapter cannot be merged into a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// A file that every adapter has is not there.
    #[error("the adapter has no {0}")]
    NoFile(&'static str),
    /// Its config asks for what is not a sum of a weight and a product of two matrices.
    #[error("the adapter cannot be merged: {0}")]
    Unsupported(String),
    /// The adapter and the model do not fit together.
    #[error("the adapter does not fit the model in {} of its tensors:{}", .0.len(), lines(.0))]
    Misfits(Vec<String>),
    /// A value that is no number.
    #[error("the adapter's tensor `{}` holds NaN or infinity", escape(.0))]
    NotFinite(String),
    /// The model's tensors do not have the names that an adapter refers to.
    #[error("an adapter can be merged into a HuggingFace directory, and this is {0}")]
    Dialect(String),
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

impl LoraError {
    pub(crate) fn code(&self) -> Code {
        Code(match self {
            LoraError::NoFile(_) => 170,
            LoraError::Unsupported(_) => 171,
            LoraError::Misfits(_) => 172,
            LoraError::NotFinite(_) => 173,
            LoraError::Dialect(_) => 174,
        })
    }

    pub(crate) fn help(&self) -> &'static str {
        match self {
            LoraError::NoFile(_) => {
                "give the directory that PEFT's `save_pretrained` wrote: adapter_config.json and \
                 adapter_model.safetensors"
            }
            LoraError::Unsupported(_) => {
                "merge the adapter with PEFT's `merge_and_unload` and convert what that gives"
            }
            LoraError::Misfits(_) => {
                "take the model that the adapter was trained on; adapter_config.json names it"
            }
            LoraError::NotFinite(_) => "get the adapter again, or train it anew",
            LoraError::Dialect(_) => "take the model as a HuggingFace directory",
        }
    }
}
