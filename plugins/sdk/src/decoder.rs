//! A decoder as the choices in which families differ.
//!
//! [`Decoder::new`] is Llama's: root-mean-square norms before each layer, three tensors for
//! queries, keys and values, a gated feed-forward layer, no biases. A plugin says what is
//! otherwise; what no choice covers it writes itself, in the functions of [`Model`](crate::Model).

use crate::{Axis, Base, Part, Place, Rope, Windows};

/// Which tensor of the source a parameter is, and how it comes out of it: of a place, by the
/// parameter's name in the checkpoint, with the axes that it must have in the end.
pub type Spelled = fn(&Decoder, Place, &str, &[Axis]) -> Part;

/// What a decoder is made of.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Sizes, epsilon, activation, whether the head is the embedding.
    pub base: Base,
    /// What the names of a HuggingFace source begin with, all but the head's.
    pub prefix: &'static str,
    /// What the source calls layers, where not as its family: the checkpoint's name and the
    /// source's. `layers` is the stack of blocks; `attention.q`, `.k`, `.v` the three tensors of
    /// `attention.qkv`.
    pub names: &'static [(&'static str, &'static str)],
    /// The family's names: Llama's, GPT-2's or [`MEGATRON`].
    pub family: &'static [(&'static str, &'static str)],
    /// Tensors that old checkpoints of the source have, and that are masks (`*` stands for
    /// anything).
    pub masks: &'static [&'static str],
    /// What GGUF calls layers, where not as most.
    pub gguf: &'static [(&'static str, &'static str)],
    /// Whether GGUF keeps rows of queries and keys in another order than HuggingFace, as it does
    /// for `llama`: neighbours turn together there, and not halves.
    pub gguf_pairs: bool,
    /// Whether a HuggingFace source stores the blocks' linear layers as `[in, out]`.
    pub transposed: bool,
    /// Of which kind norms are.
    pub norm: Norm,
    /// Where they stand.
    pub order: Order,
    /// How the source keeps queries, keys and values.
    pub qkv: Qkv,
    /// Which layers have biases.
    pub bias: Biases,
    /// Which kind of feed-forward layer it has.
    pub mlp: Mlp,
    /// How queries and keys turn, where they do.
    pub rope: Option<Rope>,
    /// How far back the tokens of each block see.
    pub windows: Windows,
    /// What scores are multiplied by, if not one over the root of the head's width.
    pub scale: Option<f64>,
    /// What scores are bent to.
    pub softcap: Option<f64>,
    /// ALiBi's slopes, one a query head.
    pub slopes: Vec<f64>,
    /// What queries, keys and values are clamped to.
    pub clip: Option<f64>,
    /// What a layer's output is multiplied by before it is added.
    pub residual: f64,
    /// What the embedding is multiplied by.
    pub embedding: f64,
    /// What logits are multiplied by.
    pub logits: f64,
    /// Where positions are learned: how many rows of their table are for something else.
    pub learned: Option<u64>,
    /// What a layer's tensor is made of in a dialect of the plugin's own, where its
    /// [`Spelling`](crate::Spelling) cannot say it, and names nothing.
    pub spelled: Option<Spelled>,
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Whether the mean is taken off: a layer norm, and not a root-mean-square norm.
    pub centred: bool,
    /// What it multiplies by.
    pub gain: Gain,
    /// Whether it adds something.
    pub bias: bool,
}

/// What a norm multiplies by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gain {
    /// Nothing.
    None,
    /// What the source stores.
    Stored,
    /// One more than what a HuggingFace source stores.
    LessOne,
}

impl Norm {
    /// Root-mean-square.
    pub const RMS: Norm = Norm { centred: false, gain: Gain::Stored, bias: false };
    /// A layer norm with gain and bias.
    pub const LAYER: Norm = Norm { centred: true, gain: Gain::Stored, bias: true };

    /// The same with gains that are stored less one.
    pub const fn less_one(self) -> Norm {
        Norm { gain: Gain::LessOne, ..self }
    }

    /// The same without a bias.
    pub const fn unbiased(self) -> Norm {
        Norm { bias: false, ..self }
    }

    /// The same with neither gain nor bias.
    pub const fn bare(self) -> Norm {
        Norm { gain: Gain::None, bias: false, ..self }
    }
}

/// Where norms stand around attention (A) and the feed-forward layer (F).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// `x += A(norm(x)); x += F(norm(x))`
    Before,
    /// `x = norm(x + A(x)); x = norm(x + F(x))`
    After,
    /// `x = norm(x); x += A(x); x = norm(x); x += F(x)`
    Normed,
    /// `x += norm(A(x)); x += norm(F(x))`
    Behind,
    /// `x += norm(A(norm(x))); x += norm(F(norm(x)))`
    Around,
    /// `n = norm(x); x += A(n) + F(n)`
    Beside,
    /// `x += A(norm(x)) + F(norm(x))`; the second norm's name.
    BesideTwo(&'static str),
}

/// How a source keeps queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Qkv {
    /// In three tensors.
    Apart,
    /// In one tensor, which has groups of heads: queries, then keys, then values in each. One
    /// group is all queries, all keys, all values. GGUF has one group always.
    Together {
        /// How many.
        groups: u32,
    },
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// What follows attention.
    pub dense: bool,
    /// The feed-forward layer's.
    pub mlp: bool,
    /// The head.
    pub head: bool,
}

impl Biases {
    /// All of a block's.
    pub const BLOCK: Biases = Biases { qkv: true, dense: true, mlp: true, head: false };

    /// Those of attention, those of the feed-forward layer.
    pub const fn new(attention: bool, mlp: bool) -> Biases {
        Biases { qkv: attention, dense: attention, mlp, head: false }
    }
}

/// A kind of feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mlp {
    /// `proj(activation(fc(x)))`
    Plain,
    /// `proj(activation(fc(x)) · gate(x))`
    Gated,
    /// The same with both in one tensor of the source, that with the activation first; one layer
    /// `mlp.fc` in the checkpoint, that with the activation last.
    GatedTogether,
    /// The same from two tensors of the source.
    GatedJoined,
}

/// Llama's names.
const NAMES: [(&str, &str); 18] = [
    ("vocab_embedding", "embed_tokens"),
    ("layers", "layers"),
    ("ln_f", "norm"),
    ("lm_head", "lm_head"),
    ("input_layernorm", "input_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.qkv", "self_attn.qkv_proj"),
    ("attention.dense", "self_attn.o_proj"),
    ("attention.q_layernorm", "self_attn.q_norm"),
    ("attention.k_layernorm", "self_attn.k_norm"),
    ("post_layernorm", "post_attention_layernorm"),
    ("pre_feedforward_layernorm", "pre_feedforward_layernorm"),
    ("post_feedforward_layernorm", "post_feedforward_layernorm"),
    ("mlp.fc", "mlp.gate_proj"),
    ("mlp.gate", "mlp.up_proj"),
    ("mlp.proj", "mlp.down_proj"),
];

/// Names of models that were trained with Megatron, for [`Decoder::family`].
pub const MEGATRON: &[(&str, &str)] = &[
    ("vocab_embedding", "word_embeddings"),
    ("ln_embed", "word_embeddings_layernorm"),
    ("layers", "h"),
    ("ln_f", "ln_f"),
    ("attention.qkv", "self_attention.query_key_value"),
    ("attention.dense", "self_attention.dense"),
    ("post_layernorm", "post_attention_layernorm"),
    ("mlp.fc", "mlp.dense_h_to_4h"),
    ("mlp.proj", "mlp.dense_4h_to_h"),
];

/// GPT-2's names.
const GPT: [(&str, &str); 13] = [
    ("vocab_embedding", "wte"),
    ("position_embedding", "wpe"),
    ("layers", "h"),
    ("ln_f", "ln_f"),
    ("input_layernorm", "ln_1"),
    ("attention.q", "attn.q_proj"),
    ("attention.k", "attn.k_proj"),
    ("attention.v", "attn.v_proj"),
    ("attention.qkv", "attn.c_attn"),
    ("attention.dense", "attn.c_proj"),
    ("post_layernorm", "ln_2"),
    ("mlp.fc", "mlp.c_fc"),
    ("mlp.proj", "mlp.c_proj"),
];

/// GGUF's names, which are one set for all architectures.
const GGUF: [(&str, &str); 19] = [
    ("vocab_embedding", "token_embd"),
    ("position_embedding", "position_embd"),
    ("ln_embed", "token_embd_norm"),
    ("ln_f", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("attention.q", "attn_q"),
    ("attention.k", "attn_k"),
    ("attention.v", "attn_v"),
    ("attention.qkv", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("attention.q_layernorm", "attn_q_norm"),
    ("attention.k_layernorm", "attn_k_norm"),
    ("post_layernorm", "ffn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate", "ffn_up"),
    ("mlp.proj", "ffn_down"),
];

fn find<'a>(tables: [&[(&'a str, &'a str)]; 2], layer: &str) -> Option<&'a str> {
    tables.into_iter().flatten().find(|(ours, _)| *ours == layer).map(|(_, source)| *source)
}

impl Decoder {
    /// Llama's choices.
    pub fn new(base: Base) -> Decoder {
        Decoder {
            base,
            prefix: "model.",
            names: &[],
            family: &NAMES,
            masks: &[],
            gguf: &[],
            gguf_pairs: false,
            transposed: false,
            norm: Norm::RMS,
            order: Order::Before,
            qkv: Qkv::Apart,
            bias: Biases::default(),
            mlp: Mlp::Gated,
            rope: None,
            windows: Windows::none(),
            scale: None,
            softcap: None,
            slopes: Vec::new(),
            clip: None,
            residual: 1.0,
            embedding: 1.0,
            logits: 1.0,
            learned: None,
            spelled: None,
        }
    }

    /// GPT-2's names, layer norms and plain feed-forward layer, without biases.
    pub fn gpt(base: Base) -> Decoder {
        Decoder {
            prefix: "transformer.",
            family: &GPT,
            norm: Norm::LAYER,
            mlp: Mlp::Plain,
            ..Decoder::new(base)
        }
    }

    /// What a HuggingFace source calls a layer, without what stands before it. A layer that is in
    /// no table has one name everywhere.
    pub fn name<'a>(&self, layer: &'a str) -> &'a str {
        find([self.names, self.family], layer).unwrap_or(layer)
    }

    /// What GGUF calls a layer.
    pub fn gguf_name<'a>(&self, layer: &'a str) -> &'a str {
        let fc = if self.mlp == Mlp::Gated { "ffn_gate" } else { "ffn_up" };
        let usual = if layer == "mlp.fc" { fc } else { layer };
        find([self.gguf, &GGUF], layer).unwrap_or(usual)
    }

    /// What a block does with scores.
    pub fn scores(&self, block: u32) -> Scores<'_> {
        Scores {
            rope: self.rope.as_ref(),
            window: self.windows.of(block),
            scale: self.scale,
            softcap: self.softcap,
            slopes: &self.slopes,
        }
    }

    /// Source tensors that a decoder leaves out.
    pub fn unused(&self, dialect: &str) -> Vec<(String, String)> {
        let head = match dialect {
            "gguf" => self.gguf_name("lm_head"),
            _ => self.name("lm_head"),
        };
        let computed = ("*.rotary_emb.inv_freq".into(), "it is computed from the config".into());
        let tied = (format!("{head}.weight"), "the head is the embedding's table".into());
        let divisors = ("rope_f*.weight".into(), "the config has its values".into());
        let masks = self.masks.iter().map(|&tensors| (tensors.into(), "it is a mask".into()));
        let all = [Some(computed), Some(divisors), self.base.tied.then_some(tied)];
        all.into_iter().flatten().chain(masks).collect()
    }
}

/// What a block's attention does with scores.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// How queries and keys turn, where they do.
    pub rope: Option<&'a Rope>,
    /// How many tokens a token sees, itself among them.
    pub window: Option<u32>,
    /// What scores are multiplied by, if not one over the root of the head's width.
    pub scale: Option<f64>,
    /// What scores are bent to.
    pub softcap: Option<f64>,
    /// ALiBi's slopes, one a query head.
    pub slopes: &'a [f64],
}
