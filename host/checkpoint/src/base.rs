//! The base fields of a checkpoint's config: the ones that TensorRT-LLM gives every
//! architecture, as a table. What is no field of this table is an architecture's own.

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Flag,
    /// A whole number that is not negative.
    Integer,
    /// A number.
    Number,
    /// A word.
    Text,
    /// Named fields of its own.
    Object,
}

/// What an absent (or null) field means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fallback {
    /// There is no checkpoint without it.
    Required,
    /// It stays null.
    Null,
    /// This value.
    Flag(bool),
    /// This value.
    Integer(u64),
    /// This value.
    Number(f64),
    /// This value.
    Text(&'static str),
    /// What the other field says.
    SameAs(&'static str),
    /// Computed from other fields, as described.
    Derived(&'static str),
}

/// One base field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it is when absent.
    pub fallback: Fallback,
    /// One sentence.
    pub doc: &'static str,
}

const fn field(name: &'static str, kind: Kind, fallback: Fallback, doc: &'static str) -> Field {
    Field { name, kind, fallback, doc }
}

/// All base fields, in the order in which they are written.
pub const BASE: [Field; 22] = [
    field("architecture", Kind::Text, Fallback::Required, "Which model class computes this."),
    field("dtype", Kind::Text, Fallback::Required, "Element type of all unquantised tensors."),
    field("logits_dtype", Kind::Text, Fallback::Text("float32"), "Element type of the logits."),
    field("vocab_size", Kind::Integer, Fallback::Null, "Entries of the vocabulary, unpadded."),
    field(
        "max_position_embeddings",
        Kind::Integer,
        Fallback::Null,
        "The longest sequence that the model was made for.",
    ),
    field("hidden_size", Kind::Integer, Fallback::Required, "Width of the residual stream."),
    field("num_hidden_layers", Kind::Integer, Fallback::Required, "Blocks of the whole model."),
    field("num_attention_heads", Kind::Integer, Fallback::Required, "Query heads of a block."),
    field(
        "num_key_value_heads",
        Kind::Integer,
        Fallback::SameAs("num_attention_heads"),
        "Key and value heads of a block, each counted once.",
    ),
    field(
        "head_size",
        Kind::Integer,
        Fallback::Derived("hidden_size / num_attention_heads"),
        "Width of a head.",
    ),
    field(
        "qk_layernorm",
        Kind::Flag,
        Fallback::Flag(false),
        "Whether queries and keys are normed.",
    ),
    field(
        "hidden_act",
        Kind::Text,
        Fallback::Text("gelu"),
        "Activation of the feed-forward layer.",
    ),
    field(
        "intermediate_size",
        Kind::Integer,
        Fallback::Derived("4 * hidden_size"),
        "Inner width of the feed-forward layer.",
    ),
    field("norm_epsilon", Kind::Number, Fallback::Number(1e-5), "What norms add under the root."),
    field(
        "position_embedding_type",
        Kind::Text,
        Fallback::Text("learned_absolute"),
        "How positions reach the model.",
    ),
    field(
        "rotary_embedding_dim",
        Kind::Integer,
        Fallback::Derived("rotary_dim, else head_size * rotary_pct"),
        "Leading elements of a head that turn with the position.",
    ),
    field(
        "use_parallel_embedding",
        Kind::Flag,
        Fallback::Flag(false),
        "Whether tensor-parallel ranks share one embedding table.",
    ),
    field(
        "embedding_sharding_dim",
        Kind::Integer,
        Fallback::Integer(0),
        "Which axis of a shared embedding table is cut: 0 vocabulary, 1 width.",
    ),
    field(
        "share_embedding_table",
        Kind::Flag,
        Fallback::Flag(false),
        "Whether the head is left out of the file and the embedding stands for it.",
    ),
    field("mapping", Kind::Object, Fallback::Derived("one rank"), "How the model is split."),
    field(
        "quantization",
        Kind::Object,
        Fallback::Derived("no quantisation"),
        "How the weights are quantised.",
    ),
    field("runtime_defaults", Kind::Object, Fallback::Null, "Defaults for the runtime's cache."),
];
