//! The fields that every decoder has: the base fields of a checkpoint's config, as HuggingFace's
//! configs and GGUF's metadata say them.

use crate::{
    ABSENT, Axis, Fallback, Field, Outline, REQUIRED, Refusal, Setting, SettingValue, Settings,
    default, feed_forward, flag, integer, join, key_heads, number, plain, query_heads, refuse,
    same_as, set, show, text, texts, vocabulary,
};

/// The sizes of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// Blocks.
    pub blocks: u32,
    /// Width between blocks.
    pub hidden: u32,
    /// Width inside feed-forward layers.
    pub inner: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub key_heads: u32,
    /// Width of a head.
    pub head_width: u32,
    /// How many leading elements of a head turn.
    pub rotated: u32,
    /// Entries of the vocabulary.
    pub vocabulary: u32,
    /// Positions that it was trained for.
    pub context: u32,
    /// What keeps norms from dividing by zero.
    pub epsilon: f64,
    /// Of feed-forward layers, by the name that configs use.
    pub activation: String,
    /// Whether the head is the embedding's table.
    pub tied: bool,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
}

/// Where configs say which part of a head turns.
const PARTIAL: [&str; 3] =
    ["partial_rotary_factor", "rotary_pct", "rope_parameters.partial_rotary_factor"];

/// What configs of GPT-2's kind call the fields of every decoder.
pub const GPT_NAMES: &[(&str, &str)] = &[
    ("num_hidden_layers", "n_layer"),
    ("hidden_size", "n_embd"),
    ("intermediate_size", "n_inner"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("rms_norm_eps", "layer_norm_epsilon"),
    ("hidden_act", "activation_function"),
    ("bare_names", "tensor:wte.weight"),
];

/// What decoders with layer norms are where a source's config does not say.
pub fn layer_norm_defaults(activation: &str, tied: bool) -> Vec<(&'static str, Fallback)> {
    vec![
        ("rms_norm_eps", default(1e-5)),
        ("hidden_act", default(activation)),
        ("tie_word_embeddings", default(tied)),
    ]
}

/// The same of GPT-2's kind, whose feed-forward layers are four times as wide as the blocks.
pub fn gpt_defaults(activation: &str, tied: bool) -> Vec<(&'static str, Fallback)> {
    [layer_norm_defaults(activation, tied), vec![("intermediate_size", ABSENT)]].concat()
}

impl Base {
    /// What is read of a source's config, in HuggingFace's words.
    #[inline(never)]
    pub fn source_fields() -> Vec<Field> {
        vec![
            integer("num_hidden_layers", REQUIRED, "Blocks."),
            integer("hidden_size", REQUIRED, "Width between blocks."),
            integer("intermediate_size", REQUIRED, "Width inside feed-forward layers."),
            integer("num_attention_heads", REQUIRED, "Query heads."),
            integer("num_key_value_heads", same_as("num_attention_heads"), "Key and value heads."),
            integer("head_dim", ABSENT, "Width of a head; the heads share the width if not said."),
            integer("v_head_dim", same_as("head_dim"), "Width of a value's head."),
            integer("rotary_dim", same_as("head_dim"), "Leading elements of a head that turn."),
            number(PARTIAL[0], ABSENT, "How much of a head turns."),
            number(PARTIAL[1], ABSENT, "How much of a head turns."),
            number(PARTIAL[2], ABSENT, "How much of a head turns."),
            integer("vocab_size", REQUIRED, "Entries of the vocabulary."),
            integer("max_position_embeddings", REQUIRED, "Positions that it was trained for."),
            number("rms_norm_eps", default(1e-6), "What keeps norms from dividing by zero."),
            text("hidden_act", default("silu"), "Activation of feed-forward layers."),
            text("hidden_activation", ABSENT, "The same, and comes first."),
            integer("pretraining_tp", ABSENT, "How training was split; it changes nothing."),
            texts("architectures", ABSENT, "Which of the plugin's architectures it is."),
            flag("tie_word_embeddings", ABSENT, "Whether the head is the embedding's table."),
            flag("tensor:lm_head.weight", ABSENT, "Whether the head has a tensor of its own."),
        ]
    }

    /// What is read of a checkpoint's config beside its base fields.
    pub fn fields() -> Vec<Field> {
        vec![flag("tie_word_embeddings", default(false), "Whether the head is the embedding.")]
    }

    /// From a source's settings.
    #[inline(never)]
    pub fn from_source(source: &Settings) -> Result<Base, Refusal> {
        let [blocks, hidden, heads, key_heads, vocabulary, context] = source.all([
            "num_hidden_layers",
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
        ])?;
        let head_width = source.find("head_dim")?.unwrap_or(hidden / heads);
        let part = source.first::<f64>(&PARTIAL)?.map(|part| (f64::from(head_width) * part) as u32);
        let said: Option<u32> = source.find("rotary_dim")?;
        let own_head: bool = source.get("tensor:lm_head.weight")?;
        let base = Base {
            blocks,
            hidden,
            inner: source.find("intermediate_size")?.unwrap_or(hidden.saturating_mul(4)),
            heads,
            key_heads,
            head_width,
            rotated: part.or(said).unwrap_or(head_width),
            vocabulary,
            context,
            epsilon: source.get("rms_norm_eps")?,
            activation: match source.find("hidden_activation")? {
                Some(activation) => activation,
                None => source.get("hidden_act")?,
            },
            // Some sources say it nowhere else than in the tensors that they have.
            tied: source.find("tie_word_embeddings")?.unwrap_or(!own_head),
            qk_norm: false,
        };
        base.check(source, ["head_dim", "rotary_dim", "rms_norm_eps"])
    }

    /// What the host asks first.
    pub fn outline(&self) -> Outline {
        Outline { blocks: self.blocks, vocabulary: self.vocabulary, context: self.context }
    }

    /// As a checkpoint's base fields. `positions` is its `position_embedding_type`.
    #[inline(never)]
    pub fn settings(&self, architecture: &str, positions: &str) -> Vec<Setting> {
        vec![
            set("architecture", Some(architecture.into())),
            set("num_hidden_layers", Some(self.blocks.into())),
            set("hidden_size", Some(self.hidden.into())),
            set("intermediate_size", Some(self.inner.into())),
            set("num_attention_heads", Some(self.heads.into())),
            set("num_key_value_heads", Some(self.key_heads.into())),
            set("head_size", Some(self.head_width.into())),
            set("rotary_embedding_dim", Some(self.rotated.into())),
            set("vocab_size", Some(self.vocabulary.into())),
            set("max_position_embeddings", Some(self.context.into())),
            set("norm_epsilon", Some(self.epsilon.into())),
            set("hidden_act", Some(self.activation.as_str().into())),
            set("position_embedding_type", Some(positions.into())),
            set("qk_layernorm", Some(self.qk_norm.into())),
            set("tie_word_embeddings", Some(self.tied.into())),
        ]
    }

    /// How much of a head turns, for readers that work out `rotated` from it.
    pub fn turning(&self) -> Setting {
        let (rotated, width) = (f64::from(self.rotated), f64::from(self.head_width));
        let part = rotated / width;
        // They round down.
        let part = if part * width < rotated { part.next_up() } else { part };
        set("rotary_pct", SettingValue::Number(part))
    }

    /// The same in a checkpoint's config.
    pub fn turning_field() -> Field {
        number(
            "rotary_pct",
            ABSENT,
            "How much of a head turns, if not `rotary_embedding_dim` says it.",
        )
    }

    /// From a checkpoint's settings, of an architecture that norms neither queries nor keys.
    pub fn open(config: &Settings) -> Result<Base, Refusal> {
        config.check_fixed(&[("qk_layernorm", false.into())])?;
        Base::open_normed(config)
    }

    /// From a checkpoint's settings, of one that may.
    #[inline(never)]
    pub fn open_normed(config: &Settings) -> Result<Base, Refusal> {
        let [blocks, hidden, inner, heads, key_heads, head_width, rotated, vocabulary, context] =
            config.all([
                "num_hidden_layers",
                "hidden_size",
                "intermediate_size",
                "num_attention_heads",
                "num_key_value_heads",
                "head_size",
                "rotary_embedding_dim",
                "vocab_size",
                "max_position_embeddings",
            ])?;
        let mut base = Base {
            blocks,
            hidden,
            inner,
            heads,
            key_heads,
            head_width,
            rotated,
            vocabulary,
            context,
            epsilon: config.get("norm_epsilon")?,
            activation: config.get("hidden_act")?,
            tied: config.get("tie_word_embeddings")?,
            qk_norm: config.get("qk_layernorm")?,
        };
        if let Some(part) = config.find("rotary_pct")? {
            base.rotated = base.part(part)?;
        }
        base.check(config, ["head_size", "rotary_embedding_dim", "norm_epsilon"])
    }

    /// Between blocks.
    pub fn width(&self) -> Axis {
        plain(self.hidden)
    }

    /// All query heads.
    pub fn queries(&self) -> Axis {
        query_heads(self.heads, self.head_width)
    }

    /// All key heads, and as many values.
    pub fn keys(&self) -> Axis {
        key_heads(self.key_heads, self.head_width)
    }

    /// Inside feed-forward layers.
    pub fn inside(&self) -> Axis {
        feed_forward(self.inner)
    }

    /// The embedding's table, and the head's.
    pub fn table(&self) -> [Axis; 2] {
        [vocabulary(self.vocabulary), self.width()]
    }

    /// How many leading elements of a head turn, where a config says which part of it.
    fn part(&self, part: f64) -> Result<u32, Refusal> {
        let rotated = (f64::from(self.head_width) * part) as u32;
        match (0.0..=1.0).contains(&part) && rotated > 0 && rotated.is_multiple_of(2) {
            true => Ok(rotated),
            false => {
                refuse("rotary_pct", format!("{} of {} elements", show(part), self.head_width))
            }
        }
    }

    /// Checks that a plugin whose graph has one activation was asked for that, and says it as a
    /// checkpoint does.
    pub fn activates(&mut self, source: &str, checkpoint: &str) -> Result<(), Refusal> {
        if self.activation != source {
            return refuse("hidden_act", format!("`{}` is not supported", self.activation));
        }
        self.activation = checkpoint.into();
        Ok(())
    }

    /// Whether the sizes fit together, in the words of whoever said them.
    fn check(self, said: &Settings, [head, rotary, epsilon]: [&str; 3]) -> Result<Base, Refusal> {
        // Those of the host's graph. It would stop the plugin at any other; that a model wants one
        // is the model's fault, so it is turned down here, by its key.
        const ACTIVATIONS: [&str; 12] = [
            "silu",
            "swish",
            "gelu",
            "gelu_new",
            "gelu_pytorch_tanh",
            "gelu_fast",
            "relu",
            "relu2",
            "squared_relu",
            "sigmoid",
            // What a checkpoint calls `silu` with a gate in the same tensor, and `relu2`.
            "swiglu",
            "squared-relu",
        ];
        // What is listed block by block or head by head; more would only exhaust the plugin.
        const MOST: u32 = 1 << 16;
        let Base { blocks, heads, key_heads, head_width, rotated, .. } = self;
        for (path, count) in [("num_hidden_layers", blocks), ("num_attention_heads", heads)] {
            if count > MOST {
                return said.refuse(path, format!("{count} is more than {MOST}"));
            }
        }
        if !heads.is_multiple_of(key_heads) {
            let why = format!("{key_heads} does not divide the {heads} query heads");
            return said.refuse("num_key_value_heads", why);
        }
        if rotated == head_width && !head_width.is_multiple_of(2) {
            return said.refuse(head, format!("{head_width} is odd, and halves of a head turn"));
        }
        if head_width == 0 || heads.checked_mul(head_width).is_none() {
            return said.refuse(head, format!("{heads} heads of {head_width} are no width"));
        }
        if rotated > head_width || !rotated.is_multiple_of(2) {
            let why = format!("{rotated} is odd or more than the head's width, {head_width}");
            return said.refuse(rotary, why);
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return said.refuse(epsilon, join(&[&show(self.epsilon), " is not a small number"]));
        }
        if !ACTIVATIONS.contains(&self.activation.as_str()) {
            return said.refuse("hidden_act", format!("`{}` is not supported", self.activation));
        }
        Ok(self)
    }
}
