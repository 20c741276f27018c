//! What an engraft plugin is written on.
//!
//! A plugin describes an architecture and computes nothing: which fields of a config it reads
//! ([`Architecture`]), which parameters a model has and what they are made of, and which
//! operations turn tokens into logits ([`Model`]). The host asks place by place: the embedding,
//! each block, the head.
//!
//! ```ignore
//! use engraft_plugin_sdk::*;
//! struct Mine { … }
//! impl Architecture for Mine { … }   // read a config
//! impl Model for Mine { … }          // say what the model is
//! export!(Mine);
//! ```
//!
//! There is no error to handle while a graph is written: a call that does not fit ends the plugin,
//! and the host says which. A model that the plugin cannot do is turned down with a [`Refusal`].
//! Only ordered collections are used here, and only those should be used in a plugin: the same
//! model must give the same answers on every machine.

mod base;
mod component;
mod decoder;
mod field;
mod gguf;
mod jax;
mod latent;
mod layers;
mod mixture;
mod nemo;
mod net;
mod parameter;
mod recurrence;
mod rope;
mod settings;
mod spelling;
mod windows;
mod words;

pub use base::{Base, GPT_NAMES, gpt_defaults, layer_norm_defaults};
pub use component::{Architecture, Component, Model};
pub use decoder::{Biases, Decoder, Gain, MEGATRON, Mlp, Norm, Order, Qkv, Scores};
pub use field::{
    ABSENT, FieldExt, REQUIRED, default, field, fixed, flag, integer, integers, number, numbers,
    same_as, text, texts, usual,
};
pub use gguf::GGUF_LAYER_NORM;
pub use jax::{JAX, jax_part};
pub use latent::Latent;
pub use mixture::Experts;
pub use nemo::{NEMO_OLD, nemo, nemo_fields, nemo_settings};
pub use net::Net;
pub use parameter::{
    ParameterExt, PartExt, bfloat16, concat, feed_forward, key_heads, parameter, plain,
    query_heads, tensor, tied, vocabulary,
};
pub use recurrence::Recurrence;
pub use rope::Rope;
pub use settings::{FromSetting, Names, Settings, alibi_slopes, refuse, renamed, respelled, set};
pub use spelling::Spelling;
pub use windows::Windows;
pub use words::{dotted, join, show};

pub use bindings::engraft::plugin::config::{
    Fallback, Field, Kind, Setting, Value as SettingValue,
};
pub use bindings::engraft::plugin::graph::{Attention, Builder, Mixture, Rotary, Value, Weight};
pub use bindings::engraft::plugin::types::{Axis, Meaning, Refusal};
pub use bindings::engraft::plugin::weights::{
    Joint, Origin, Parameter, Part, Pile, Precision, Range, Step,
};
pub use bindings::exports::engraft::plugin::architecture::{Identity, Outline, Place};

#[doc(hidden)]
pub mod bindings {
    #![allow(missing_docs, unsafe_code, reason = "generated from the contract")]
    wit_bindgen::generate!({
        world: "plugin",
        path: "../../wit/v0.1",
        pub_export_macro: true,
        export_macro_name: "export_component",
    });
}

/// Makes a type that is an [`Architecture`] the plugin that this crate is.
#[macro_export]
macro_rules! export {
    ($architecture:ty) => {
        #[doc(hidden)]
        #[allow(unsafe_code, reason = "the component model's entry points")]
        mod exported {
            use super::*;
            type Exported = $crate::Component<$architecture>;
            $crate::bindings::export_component!(Exported with_types_in $crate::bindings);
        }
    };
}
