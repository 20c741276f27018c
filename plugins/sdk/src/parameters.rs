//! The parameters of a place, layer by layer, in every dialect at once.
//!
//! A plugin names tensors as HuggingFace does; GGUF has one name for each of those, whatever the
//! architecture. A linear layer is a `weight` and, where it has one, a `bias`.

use crate::{
    Axis, Origin, Parameter, ParameterExt, Part, PartExt, Place, concat, parameter, tensor, tied,
};

/// GGUF's names for HuggingFace's.
const GGUF: [(&str, &str); 12] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Collects the parameters of a place.
pub struct Parameters {
    at: Place,
    gguf: bool,
    /// The width of a head, where GGUF keeps the rows of those that rotate in pairs.
    pairs: Option<u64>,
    all: Vec<Parameter>,
}

impl Parameters {
    /// None yet.
    pub fn new(at: Place, dialect: &str) -> Parameters {
        Parameters { at, gguf: dialect == "gguf", pairs: None, all: Vec::new() }
    }

    /// For an architecture whose queries and keys GGUF keeps in another order than HuggingFace, as
    /// it does for `llama`: neighbours turn together there, and not halves.
    pub fn gguf_pairs(mut self, head_width: u32) -> Parameters {
        self.pairs = Some(head_width.into());
        self
    }

    /// The source's name of a layer's tensor.
    fn name(&self, layer: &str, kind: &str) -> String {
        let short = GGUF.iter().find(|(long, _)| self.gguf && *long == layer);
        let layer = short.map_or(layer, |(_, short)| short);
        match self.at {
            Place::Block(i) if self.gguf => format!("blk.{i}.{layer}.{kind}"),
            Place::Block(i) => format!("model.layers.{i}.{layer}.{kind}"),
            Place::Embed | Place::Head => format!("{layer}.{kind}"),
        }
    }

    fn part(&self, layer: &str, kind: &str, axes: &[Axis]) -> Part {
        let part = tensor(self.name(layer, kind), axes);
        let turns = ["self_attn.q_proj", "self_attn.k_proj"].contains(&layer);
        match self.pairs.filter(|_| self.gguf && turns) {
            Some(head_width) => part.pairs_to_halves(head_width),
            None => part,
        }
    }

    /// Adds `NAME.weight` and perhaps `NAME.bias`.
    fn layer(
        &mut self,
        name: &str,
        bias: bool,
        origin: impl Fn(&Parameters, &str) -> Origin,
    ) -> &mut Parameters {
        for kind in if bias { &["weight", "bias"][..] } else { &["weight"] } {
            self.all.push(parameter(format!("{name}.{kind}"), origin(self, kind)));
        }
        self
    }

    /// A linear layer, or a table: what it is in the checkpoint and in the source, what goes out
    /// and what goes in.
    pub fn linear(
        &mut self,
        name: &str,
        source: &str,
        [out, input]: [Axis; 2],
        bias: bool,
    ) -> &mut Parameters {
        self.joined(name, &[(source, out)], input, bias)
    }

    /// Linear layers of one input side by side, as queries, keys and values are.
    pub fn joined(
        &mut self,
        name: &str,
        sources: &[(&str, Axis)],
        input: Axis,
        bias: bool,
    ) -> &mut Parameters {
        self.layer(name, bias, |all, kind| {
            let axes = |out| if kind == "bias" { vec![out] } else { vec![out, input] };
            let mut parts = sources.iter().map(|&(source, out)| all.part(source, kind, &axes(out)));
            match (parts.len(), parts.next()) {
                (1, Some(part)) => part.into(),
                (_, first) => concat(0, first.into_iter().chain(parts)),
            }
        })
    }

    /// A norm with a gain and no bias.
    pub fn norm(&mut self, name: &str, source: &str, width: Axis) -> &mut Parameters {
        let part = self.part(source, "weight", &[width]);
        self.all.push(parameter(format!("{name}.weight"), part).keep());
        self
    }

    /// The same bytes as a layer of the embedding.
    pub fn tied(&mut self, name: &str, to: &str) -> &mut Parameters {
        self.layer(name, false, |_, kind| tied(&format!("{to}.{kind}")))
    }

    /// All of them.
    pub fn done(self) -> Vec<Parameter> {
        self.all
    }
}
