"""Llama 1 and 2 in Python: what `plugins/llama` says in Rust, without its later variants.

This module is the contract's interface `architecture`, and architecture.py its resource `model`.
Every type comes from bindings that componentize-py makes of the WIT package.
"""

from architecture import loud, refuse
from wit_world import exports
from wit_world.exports.architecture import Identity
from wit_world.imports.config import (
    Fallback_Absent, Fallback_Required, Fallback_SameAs, Fallback_Value, Field, Kind, Setting,
    Value_Flag, Value_Integer, Value_Number, Value_Text,
)

REQUIRED, ABSENT = Fallback_Required(), Fallback_Absent()
VALUES = {Kind.FLAG: Value_Flag, Kind.INTEGER: Value_Integer, Kind.NUMBER: Value_Number,
          Kind.TEXT: Value_Text}

# What is read of config.json: the checkpoint's field, the key, its kind, what it is if not said.
SOURCE = [
    ("num_hidden_layers", "num_hidden_layers", Kind.INTEGER, REQUIRED, "Blocks."),
    ("hidden_size", "hidden_size", Kind.INTEGER, REQUIRED, "Width between blocks."),
    ("intermediate_size", "intermediate_size", Kind.INTEGER, REQUIRED, "Inner width."),
    ("num_attention_heads", "num_attention_heads", Kind.INTEGER, REQUIRED, "Query heads."),
    ("num_key_value_heads", "num_key_value_heads", Kind.INTEGER,
     Fallback_SameAs("num_attention_heads"), "Key and value heads."),
    ("head_size", "head_dim", Kind.INTEGER, ABSENT, "Width of a head."),
    ("vocab_size", "vocab_size", Kind.INTEGER, REQUIRED, "Entries of the vocabulary."),
    ("max_position_embeddings", "max_position_embeddings", Kind.INTEGER, REQUIRED, "Context."),
    ("norm_epsilon", "rms_norm_eps", Kind.NUMBER, Fallback_Value(Value_Number(1e-6)), "Of norms."),
    ("hidden_act", "hidden_act", Kind.TEXT, Fallback_Value(Value_Text("silu")), "Activation."),
    ("rotary_base", "rope_theta", Kind.NUMBER, Fallback_Value(Value_Number(1e4)), "Rotary base."),
    ("tie_word_embeddings", "tie_word_embeddings", Kind.FLAG, Fallback_Value(Value_Flag(False)),
     "Whether the head is the embedding's table."),
]

# What this plugin has no graph for: each must be absent, or what is said here.
ONLY = [
    ("attention_bias", Kind.FLAG, False),
    ("mlp_bias", Kind.FLAG, False),
    ("rope_scaling.rope_type", Kind.TEXT, "default"),
    ("rope_scaling.type", Kind.TEXT, "default"),
    ("pretraining_tp", Kind.INTEGER, 1),
]

# The architecture's own fields of a checkpoint; all others above are base fields of the host's.
OWN = {"rotary_base": Value_Number(1e4), "tie_word_embeddings": Value_Flag(False)}



class Architecture(exports.Architecture):
    def identify(self):
        return Identity("llama-python", "0.1.0", ["LlamaForCausalLM"], ["hugging-face"],
                        "Llama 1 and 2, written in Python.")

    def source_fields(self, dialect):
        own = [Field(key, kind, fallback, doc) for _, key, kind, fallback, doc in SOURCE]
        return own + [Field(key, kind, ABSENT, f"Supported: {value}.") for key, kind, value in ONLY]

    def fields(self):
        doc = {field: doc for field, _, _, _, doc in SOURCE}
        kind = {field: kind for field, _, kind, _, _ in SOURCE}
        return [Field(name, kind[name], Fallback_Value(value), doc[name])
                for name, value in OWN.items()]

    @loud
    def configure(self, dialect, settings):
        said = {s.path: s.value.value for s in settings if s.value is not None}
        for key, _, value in ONLY:
            if said.get(key, value) != value:
                refuse(key, f"{said[key]!r} is not supported")
        heads = said["num_attention_heads"]
        if heads < 1 or said["hidden_size"] < 1:
            refuse("num_attention_heads", "heads and widths are positive")
        said.setdefault("head_dim", said["hidden_size"] // heads)
        known = [Setting(name, VALUES[kind](said[key])) for name, key, kind, _, _ in SOURCE]
        return known + [
            Setting("architecture", Value_Text("LlamaForCausalLM")),
            Setting("position_embedding_type", Value_Text("rope_gpt_neox")),
            Setting("rotary_embedding_dim", Value_Integer(said["head_dim"])),
            Setting("qk_layernorm", Value_Flag(False)),
        ]
