//! The parameters of a place, layer by layer, in every dialect at once.
//!
//! A plugin names tensors as HuggingFace does; GGUF has one name for each of those, whatever the
//! architecture. A linear layer is a `weight` and, where it has one, a `bias`.

use crate::{
    Axis, Base, Origin, Parameter, ParameterExt, Part, PartExt, Place, concat, parameter, plain,
    tensor, tied,
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

/// Queries, keys and values by Llama's names.
pub const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

/// Collects the parameters of a place.
pub struct Parameters {
    at: Place,
    gguf: bool,
    /// The width of a head, where GGUF keeps the rows of those that rotate in pairs.
    pairs: Option<u64>,
    /// What the names of a block's tensors begin with, before its number.
    blocks: &'static str,
    /// Whether gains are stored less one.
    shifted: bool,
    /// Whether the weights of a block's linear layers are stored as `[in, out]`.
    transposed: bool,
    all: Vec<Parameter>,
}

impl Parameters {
    /// None yet.
    pub fn new(at: Place, dialect: &str) -> Parameters {
        let (pairs, blocks, all) = (None, "model.layers", Vec::new());
        let gguf = dialect == "gguf";
        Parameters { at, gguf, pairs, blocks, shifted: false, transposed: false, all }
    }

    /// For blocks whose tensors are `PREFIX.3.…` and not `model.layers.3.…`.
    pub fn blocks(self, prefix: &'static str) -> Parameters {
        Parameters { blocks: prefix, ..self }
    }

    /// For gains that are stored less one.
    pub fn shifted(self) -> Parameters {
        Parameters { shifted: true, ..self }
    }

    /// For blocks whose linear layers are stored as `[in, out]`.
    pub fn transposed(self) -> Parameters {
        Parameters { transposed: true, ..self }
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
            Place::Block(i) => format!("{}.{i}.{layer}.{kind}", self.blocks),
            Place::Embed | Place::Head => format!("{layer}.{kind}"),
        }
    }

    fn part(&self, layer: &str, kind: &str, axes: &[Axis]) -> Part {
        let mut part = tensor(self.name(layer, kind), axes);
        if self.transposed && axes.len() == 2 && matches!(self.at, Place::Block(_)) {
            part = part.permute([1, 0]);
        }
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

    /// Rows of one tensor, each stretch from where it starts: those that belong together.
    pub fn rows(
        &mut self,
        name: &str,
        source: &str,
        stretches: &[(u64, Axis)],
        input: Axis,
        bias: bool,
    ) -> &mut Parameters {
        self.layer(name, bias, |all, kind| {
            let axes = |out| if kind == "bias" { vec![out] } else { vec![out, input] };
            let parts = stretches.iter().map(|&(start, out)| {
                all.part(source, kind, &axes(out)).slice(0, start, start + out.size)
            });
            concat(0, parts)
        })
    }

    /// `attention.qkv` of three tensors.
    pub fn qkv(&mut self, sources: [&str; 3], base: &Base, bias: bool) -> &mut Parameters {
        let [q, k, v] = sources;
        let sources = [(q, base.queries()), (k, base.keys()), (v, base.keys())];
        self.joined("attention.qkv", &sources, base.width(), bias)
    }

    /// `attention.qkv` of one tensor, which has groups of heads: queries, then keys, then values
    /// in each. One group is all queries, all keys, all values.
    pub fn fused_qkv(
        &mut self,
        source: &str,
        base: &Base,
        groups: u32,
        bias: bool,
    ) -> &mut Parameters {
        let (queries, keys) = (u64::from(base.heads / groups), u64::from(base.key_heads / groups));
        let stretches = [
            (0, queries, base.queries()),
            (queries, keys, base.keys()),
            (queries + keys, keys, base.keys()),
        ];
        let (groups, width) = (u64::from(groups), u64::from(base.head_width));
        self.layer("attention.qkv", bias, |all, kind| {
            let input = (kind == "weight").then_some(base.width());
            let sizes = |heads| {
                input.into_iter().fold(heads, |mut sizes: Vec<u64>, axis| {
                    sizes.push(axis.size);
                    sizes
                })
            };
            let parts = stretches.iter().map(|&(start, heads, out)| {
                let axes: Vec<Axis> = [out].into_iter().chain(input).collect();
                all.part(source, kind, &axes)
                    .reshape(sizes(vec![groups, queries + 2 * keys, width]))
                    .slice(1, start, start + heads)
                    .reshape(sizes(vec![out.size]))
            });
            concat(0, parts)
        })
    }

    /// A gated feed-forward layer by Llama's names.
    pub fn gated(&mut self, base: &Base, bias: bool) -> &mut Parameters {
        let (inner, hidden) = (base.inside(), base.width());
        self.linear("mlp.fc", "mlp.gate_proj", [inner, hidden], bias)
            .linear("mlp.gate", "mlp.up_proj", [inner, hidden], bias)
            .linear("mlp.proj", "mlp.down_proj", [hidden, inner], bias)
    }

    /// A plain feed-forward layer of two tensors.
    pub fn feed_forward(
        &mut self,
        [fc, proj]: [&str; 2],
        base: &Base,
        bias: bool,
    ) -> &mut Parameters {
        let (inner, hidden) = (base.inside(), base.width());
        self.linear("mlp.fc", fc, [inner, hidden], bias).linear(
            "mlp.proj",
            proj,
            [hidden, inner],
            bias,
        )
    }

    /// The head: the embedding's table, or one of its own.
    pub fn head(&mut self, source: &str, base: &Base, bias: bool) -> &mut Parameters {
        match base.tied {
            true => self.tied("lm_head", "vocab_embedding"),
            false => self.linear("lm_head", source, base.table(), bias),
        }
    }

    /// A parameter of a form that nothing else here has.
    pub fn push(&mut self, parameter: Parameter) -> &mut Parameters {
        self.all.push(parameter);
        self
    }

    /// A norm with a gain and no bias.
    pub fn norm(&mut self, name: &str, source: &str, width: Axis) -> &mut Parameters {
        let mut part = self.part(source, "weight", &[width]);
        if self.shifted {
            part = part.add(1.0);
        }
        self.all.push(parameter(format!("{name}.weight"), part).keep());
        self
    }

    /// One gain for all heads of queries and one for those of keys, where they are normed.
    pub fn head_norms(&mut self, base: &Base) -> &mut Parameters {
        let head = plain(base.head_width);
        match base.qk_norm {
            true => self.norm("attention.q_layernorm", "self_attn.q_norm", head).norm(
                "attention.k_layernorm",
                "self_attn.k_norm",
                head,
            ),
            false => self,
        }
    }

    /// A gain for each head, each a tensor `SOURCE.0.weight`, `SOURCE.1.weight`, …
    pub fn each_head(
        &mut self,
        name: &str,
        source: &str,
        heads: Axis,
        width: u32,
    ) -> &mut Parameters {
        let one = Axis { size: width.into(), ..heads };
        let part = |i| self.part(&format!("{source}.{i}"), "weight", &[one]);
        let parts: Vec<Part> = (0..heads.size / one.size).map(part).collect();
        self.push(parameter(format!("{name}.weight"), concat(0, parts)).keep())
    }

    /// A layer norm: a gain and perhaps a bias.
    pub fn ln(&mut self, name: &str, source: &str, width: Axis, bias: bool) -> &mut Parameters {
        self.norm(name, source, width);
        if bias {
            let part = self.part(source, "bias", &[width]);
            self.all.push(parameter(format!("{name}.bias"), part).keep());
        }
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
