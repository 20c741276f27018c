"""A Llama whose config is settled: the contract's resource `architecture.model`.

componentize-py looks for the resources of an exported interface in a module of its name.
"""

from wit_world.exports.architecture import Outline, Place_Block, Place_Embed
from wit_world.imports import report
from wit_world.imports.graph import Attention, Rotary
from wit_world.imports.types import Axis, Meaning, Refusal
from wit_world.imports.weights import (
    Joint, Origin_Concat, Origin_Tensor, Origin_Tied, Parameter, Part, Precision,
)
from componentize_py_types import Err

SIZES = ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads",
         "num_key_value_heads", "head_size", "vocab_size", "max_position_embeddings"]
OTHERS = ["norm_epsilon", "hidden_act", "rotary_base", "tie_word_embeddings"]


def refuse(subject, reason):
    raise Err(Refusal(subject, reason))


def loud(call):
    """A bug here ends the call with its message, where it would end it without one."""
    def wrapped(*args):
        try:
            return call(*args)
        except Err:
            raise
        except Exception as error:
            report.fail(f"{type(error).__name__} in {call.__name__}: {error}")
    return wrapped


class Model:
    @classmethod
    @loud
    def open(cls, settings):
        said = {s.path: s.value.value for s in settings if s.value is not None}
        self = cls()
        for name in SIZES + OTHERS:
            if name not in said:
                refuse(name, "is missing")
            if name in SIZES and not 0 < said[name] < 1 << 32:
                refuse(name, f"{said[name]} is not a size")
            setattr(self, name, said[name])
        if self.num_attention_heads % self.num_key_value_heads != 0:
            refuse("num_key_value_heads", "must divide the query heads")
        if self.head_size % 2 != 0:
            refuse("head_size", "is odd, and halves of a head turn")
        hidden = Axis(self.hidden_size, Meaning.PLAIN)
        self.hidden = hidden
        self.queries = Axis(self.num_attention_heads * self.head_size, Meaning.QUERY_HEADS)
        self.keys = Axis(self.num_key_value_heads * self.head_size, Meaning.KEY_HEADS)
        self.inner = Axis(self.intermediate_size, Meaning.FEED_FORWARD)
        self.table = [Axis(self.vocab_size, Meaning.VOCABULARY), hidden]
        return self

    def outline(self):
        return Outline(self.num_hidden_layers, self.vocab_size, self.max_position_embeddings)

    @loud
    def parameters(self, at, dialect):
        if isinstance(at, Place_Embed):
            return [matrix("vocab_embedding", "model.embed_tokens", self.table)]
        if not isinstance(at, Place_Block):
            head = matrix("lm_head", "lm_head", self.table)
            if self.tie_word_embeddings:
                head.origin = Origin_Tied("vocab_embedding.weight")
            return [norm("ln_f", "model.norm", self.hidden), head]
        layer, hidden = f"model.layers.{at.value}", self.hidden
        joined = [part(f"{layer}.self_attn.{name}_proj", [axis, hidden])
                  for name, axis in [("q", self.queries), ("k", self.keys), ("v", self.keys)]]
        return [
            norm("input_layernorm", f"{layer}.input_layernorm", hidden),
            Parameter("attention.qkv.weight", Origin_Concat(Joint(0, joined)), Precision.ANY),
            matrix("attention.dense", f"{layer}.self_attn.o_proj", [hidden, self.queries]),
            norm("post_layernorm", f"{layer}.post_attention_layernorm", hidden),
            # A checkpoint's `fc` is what goes through the activation, and its `gate` what does not.
            matrix("mlp.fc", f"{layer}.mlp.gate_proj", [self.inner, hidden]),
            matrix("mlp.gate", f"{layer}.mlp.up_proj", [self.inner, hidden]),
            matrix("mlp.proj", f"{layer}.mlp.down_proj", [hidden, self.inner]),
        ]

    def unused(self, dialect):
        all = [("*.rotary_emb.inv_freq", "it is computed from the config")]
        if self.tie_word_embeddings:
            all.append(("lm_head.weight", "the head is the embedding's table"))
        return all

    @loud
    def write(self, g, at, carry):
        [x] = carry
        weight = lambda name: g.parameter(name + ".weight")
        dense = lambda x, name: g.linear(x, weight(name), None)
        rms_norm = lambda x, name: g.rms_norm(x, weight(name), self.norm_epsilon)
        if isinstance(at, Place_Embed):
            return [g.embedding(x, weight("vocab_embedding"))]
        if not isinstance(at, Place_Block):
            return [dense(rms_norm(x, "ln_f"), "lm_head")]
        h = dense(rms_norm(x, "input_layernorm"), "attention.qkv")
        q, k, v = g.split(h, [self.queries.size, self.keys.size, self.keys.size])
        with Rotary(self.head_size, self.head_size, self.rotary_base) as rotary:
            q, k = g.rotate(q, rotary), g.rotate(k, rotary)
        heads = self.num_attention_heads, self.num_key_value_heads, self.head_size
        with Attention(*heads) as attention:
            a = g.attend(q, k, v, attention)
        x = g.add(x, dense(a, "attention.dense"))
        h = rms_norm(x, "post_layernorm")
        gate = g.activate(dense(h, "mlp.fc"), self.hidden_act)
        return [g.add(x, dense(g.multiply(gate, dense(h, "mlp.gate")), "mlp.proj"))]


def part(tensor, axes):
    return Part(tensor + ".weight", [], axes)


def matrix(name, tensor, axes):
    return Parameter(name + ".weight", Origin_Tensor(part(tensor, axes)), Precision.ANY)


def norm(name, tensor, axis):
    return Parameter(name + ".weight", Origin_Tensor(part(tensor, [axis])), Precision.KEEP)
