#!/usr/bin/env python3
"""Writes GGUF files of the goldens, as llama.cpp's converter would write them.

    write_ggufs.py --goldens DIR --out DIR [NAME ...]

For each golden that GGUF can express, NAME.F32.gguf, NAME.F16.gguf and NAME.Q8_0.gguf: names from
the package `gguf`, metadata and order of rows as llama.cpp's loaders expect them, norms and other
tensors of one axis in F32 always. A file says no more than a converted one does; where that is
less than the golden's config says, the test that compares the two knows it.

Needs the packages `gguf` and `numpy`.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
TYPES = {"F32": Q.F32, "F16": Q.F16, "Q8_0": Q.Q8_0}

# Goldens of a family below that GGUF cannot say, and why.
UNSAID = {
    "falcon-rw": "no key says that there are slopes",
    "gpt2-inverse-layer": "no key says that scores are divided by the block's number",
}


def read_safetensors(path):
    """The tensors of a file as float32."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, info in json.loads(data[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + at for at in info["data_offsets"])
        raw = data[begin:end]
        if info["dtype"] == "BF16":
            bits = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
            values = bits.view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[info["dtype"]])
        tensors[name] = values.astype(np.float32).reshape(info["shape"])
    return tensors


class Model:
    """A golden with the few things that every family needs."""

    def __init__(self, path):
        self.config = json.loads((path / "config.json").read_text())
        self.tensors = {}
        for file in sorted(path.glob("model*.safetensors")):
            self.tensors.update(read_safetensors(file))
        self.hidden = self.first("hidden_size", "n_embd", "d_model")
        self.blocks = self.first("num_hidden_layers", "n_layer", "n_layers")
        self.heads = self.first("num_attention_heads", "n_head", "n_heads")
        self.head = self.first("head_dim", default=self.hidden // self.heads)
        self.keys = self.first("num_key_value_heads", default=self.heads)

    def first(self, *names, default=None):
        found = (self.config[name] for name in names if self.config.get(name) is not None)
        return next(found, default)

    def sizes(self, epsilon):
        """The metadata of every family; `epsilon` names the kind of norm."""
        said = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
        context = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
        inners = ("intermediate_size", "n_inner", "ffn_hidden_size")
        return {
            "context_length": self.first(*context, default=2048),
            "embedding_length": self.hidden,
            "block_count": self.blocks,
            "feed_forward_length": self.first(*inners, default=4 * self.hidden),
            "attention.head_count": self.heads,
            f"attention.{epsilon}_epsilon": float(self.first(*said)),
        }

    def key_heads(self):
        return {"attention.head_count_kv": self.keys}

    def head_widths(self):
        return {"attention.key_length": self.head, "attention.value_length": self.head}

    def usual(self):
        """What converters write where nothing is special."""
        said = self.head_widths() if self.first("head_dim") else {}
        return {**self.key_heads(), **self.rope_base(), **self.rope_scaling(), **said}

    def rope_base(self):
        return {"rope.freq_base": float(self.first("rope_theta", default=1e4))}

    def rope_part(self):
        part = self.first("partial_rotary_factor", "rotary_pct", default=1.0)
        return {"rope.dimension_count": int(part * self.head)}

    def rope_scaling(self):
        scaling = self.config.get("rope_scaling") or {}
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind not in ("linear", "yarn"):
            return {}
        said = {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}
        if kind == "yarn":
            trained = scaling["original_max_position_embeddings"]
            said["rope.scaling.original_context_length"] = trained
        return said

    def rope_divisors(self):
        """Tensors that frequencies are divided by."""
        scaling = self.config.get("rope_scaling") or {}
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind == "longrope":
            yield "rope_factors_short.weight", np.array(scaling["short_factor"], np.float32)
            yield "rope_factors_long.weight", np.array(scaling["long_factor"], np.float32)
        if kind == "llama3":
            turns = self.config["rope_theta"] ** -(np.arange(0, self.head, 2) / self.head)
            trained, factor = scaling["original_max_position_embeddings"], scaling["factor"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            smooth = (trained * turns / (2 * np.pi) - low) / (high - low)
            smooth = np.clip(smooth, 0, 1)
            yield "rope_freqs.weight", (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)

    def regrouped(self, rows, groups, queries):
        """Queries, keys and values out of groups that have some of each."""
        rest = rows.shape[1:]
        grouped = rows.reshape(groups, queries + 2, -1, *rest)
        parts = (grouped[:, :queries], grouped[:, queries:-1], grouped[:, -1:])
        return np.concatenate([part.reshape(-1, *rest) for part in parts])


# Each family: metadata that only it has, and what its tensors go through. A function of tensors
# takes a name and an array, and gives what there is in the file by names for the package to map.


def as_is(model, name, data):
    yield name, data


def llama(model):
    said = {"vocab_size": model.config["vocab_size"], "rope.dimension_count": model.head}
    return {**model.usual(), **said}


def paired(model, name, data):
    """Neighbours turn together in `llama`, and not halves."""
    heads = {"q_proj": model.heads, "k_proj": model.keys}.get(name.split(".")[-2])
    if heads:
        halves = data.reshape(heads, 2, -1, *data.shape[1:])
        data = halves.swapaxes(1, 2).reshape(data.shape)
    yield name, data


def gemma(model):
    return {**model.key_heads(), **model.head_widths()}


def gemma2(model):
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    said = {cap: float(model.config[cap]) for cap in caps}
    return {**gemma(model), **said, "attention.sliding_window": model.config["sliding_window"]}


def gemma3(model):
    said = {
        "attention.sliding_window": model.config["sliding_window"],
        "attention.sliding_window_pattern": model.config["sliding_window_pattern"],
        "rope.freq_base_swa": model.config["rope_local_base_freq"],
    }
    return {**gemma(model), **model.rope_base(), **model.rope_scaling(), **said}


def one_more(model, name, data):
    """Gains are stored whole."""
    if name != "lm_head.weight":
        yield name, data + np.float32(1) if name.endswith("norm.weight") else data


def phi2(model):
    return {"attention.head_count_kv": model.heads, **model.rope_part()}


def phi3(model):
    said = {
        "attention.sliding_window": model.config["sliding_window"] or 0,
        "rope.scaling.original_context_length": model.config["original_max_position_embeddings"],
    }
    trained = model.config["original_max_position_embeddings"]
    stretch = model.config["max_position_embeddings"] / trained
    if stretch > 1 and model.config["rope_scaling"]:
        said["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretch) / math.log(trained))
    return {**model.key_heads(), **model.rope_base(), **model.rope_part(), **said}


def gpt2(model):
    return {}


def turned(model, name, data):
    """Weights of blocks are stored as `[in, out]` by HuggingFace."""
    name = name if name.startswith("transformer.") else f"transformer.{name}"
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    yield name, data.T if name.endswith(linear) else data


def falcon_keys(model):
    return model.config["num_kv_heads"] if model.config["new_decoder_architecture"] else 1


def falcon(model):
    return {"attention.head_count_kv": falcon_keys(model), "tensor_data_layout": "jploski"}


def falcon_rows(model, name, data):
    if "query_key_value" in name:
        keys = falcon_keys(model)
        data = model.regrouped(data, keys, model.heads // keys)
    yield name, data


def bloom(model):
    return {"attention.head_count_kv": model.heads}


def bloom_rows(model, name, data):
    name = name.removeprefix("transformer.")
    if "query_key_value" in name:
        data = model.regrouped(data, model.heads, 1)
    yield name, data


def mpt(model):
    # What HuggingFace computes with, whatever the config says.
    said = {"attention.max_alibi_bias": 8.0}
    if model.config["attn_config"]["clip_qkv"] is not None:
        said["attention.clamp_kqv"] = float(model.config["attn_config"]["clip_qkv"])
    return said


def gptneox(model):
    return {**model.rope_part(), "use_parallel_residual": model.config["use_parallel_residual"]}


def gptneox_rows(model, name, data):
    if "query_key_value" in name:
        data = model.regrouped(data, model.heads, 1)
    yield name, data


def stablelm(model):
    said = {"use_parallel_residual": model.config["use_parallel_residual"]}
    return {**model.key_heads(), **model.rope_part(), **said}


def stacked(model, name, data):
    """Norms of heads are rows of one tensor."""
    stem, norms, last = name.partition(".norms.")
    if not norms:
        yield name, data
    elif last == "0.weight":
        heads = model.heads if stem.endswith("q_layernorm") else model.keys
        rows = [model.tensors[f"{stem}.norms.{i}.weight"] for i in range(heads)]
        yield f"{stem}.weight", np.stack(rows)


RMS, LAYER = "layer_norm_rms", "layer_norm"
FAMILIES = {
    "LlamaForCausalLM": ("llama", RMS, llama, paired),
    "Qwen2ForCausalLM": ("qwen2", RMS, Model.usual, as_is),
    "Qwen3ForCausalLM": ("qwen3", RMS, Model.usual, as_is),
    "GemmaForCausalLM": ("gemma", RMS, gemma, one_more),
    "Gemma2ForCausalLM": ("gemma2", RMS, gemma2, one_more),
    "Gemma3ForCausalLM": ("gemma3", RMS, gemma3, one_more),
    "PhiForCausalLM": ("phi2", LAYER, phi2, as_is),
    "Phi3ForCausalLM": ("phi3", RMS, phi3, as_is),
    "GPT2LMHeadModel": ("gpt2", LAYER, gpt2, turned),
    "FalconForCausalLM": ("falcon", LAYER, falcon, falcon_rows),
    "Starcoder2ForCausalLM": ("starcoder2", LAYER, Model.usual, as_is),
    "BloomForCausalLM": ("bloom", LAYER, bloom, bloom_rows),
    "MptForCausalLM": ("mpt", LAYER, mpt, as_is),
    "GPTNeoXForCausalLM": ("gptneox", LAYER, gptneox, gptneox_rows),
    "StableLmForCausalLM": ("stablelm", LAYER, stablelm, stacked),
}


def is_left_out(name):
    """Masks, and frequencies that are computed."""
    return name.endswith((".attn.bias", ".masked_bias", ".attention.bias", ".rotary_emb.inv_freq"))


def type_of(name, data, wanted):
    """The type that a tensor is stored in: small ones are never rounded."""
    if data.ndim < 2 or name.endswith("_norm.weight") or name == "position_embd.weight":
        return Q.F32
    if wanted == Q.Q8_0 and data.shape[-1] % 32:
        return Q.F16
    return wanted


def write(model, wanted, path, more=None):
    """Writes one file. `more`: metadata beside what a converter writes."""
    architecture, epsilon, metadata, transform = FAMILIES[model.config["architectures"][0]]
    numbered = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbered[architecture], model.blocks)
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in {**model.sizes(epsilon), **metadata(model), **(more or {})}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add.get(type(value), writer.add_string)(f"{architecture}.{key}", value)
    writer.add_tokenizer_model("no_vocab")
    for name, data in sorted(model.tensors.items()):
        for name, data in () if is_left_out(name) else transform(model, name, data):
            spelled = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if spelled is None:
                raise SystemExit(f"{path.name}: the package `gguf` has no name for {name}")
            kind = type_of(spelled, data, wanted)
            raw = gguf.quants.quantize(np.ascontiguousarray(data), kind)
            writer.add_tensor(spelled, raw, raw_dtype=kind)
    for name, data in model.rope_divisors():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description="GGUF files of the goldens")
    parser.add_argument("--goldens", required=True, type=pathlib.Path, help="their folder")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write into")
    parser.add_argument("names", nargs="*", help="which goldens; all if none is named")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in sorted(args.goldens.iterdir()):
        config = json.loads((path / "config.json").read_text())
        chosen = path.name in args.names if args.names else path.name not in UNSAID
        if chosen and config["architectures"][0] in FAMILIES:
            model = Model(path)
            for name, wanted in TYPES.items():
                write(model, wanted, args.out / f"{path.name}.{name}.gguf")


if __name__ == "__main__":
    sys.exit(main())
