#!/usr/bin/env python3
"""Writes the goldens in the forms that PyTorch's users have them.

    write_torch.py --goldens DIR --out DIR

Each in folders called NAME.FORM: `zip` and `old` (torch.save's two forms), `shards` (with an index),
`meta1`, `meta2` and `meta2rows` (Meta's, in one file and cut over two), `zero2` and `zero3`
(DeepSpeed's, cut over three devices), `nemo` and `nemoold` (NeMo's, with names of either age, and as
archives NAME.FORM.tar). Python's own pickler writes the pickles: stand-ins of PyTorch's classes
reduce to the calls that PyTorch's reduce to. No package is needed.
"""

import argparse
import collections
import io
import json
import pathlib
import pickle
import shutil
import struct
import sys
import tarfile
import types
import zipfile

STORAGES = {"F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long"}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}


def module(name, **members):
    made = types.ModuleType(name)
    for key, member in members.items():
        member.__module__, member.__qualname__, member.__name__ = name, key, key
        setattr(made, key, member)
    sys.modules[name] = made
    return made


class Size(tuple):
    def __reduce__(self):
        return Size, (tuple(self),)


class Scaler:
    def __init__(self):
        self.cur_scale = 65536.0


STORAGE_TYPES = {k: type(v + "Storage", (), {}) for k, v in STORAGES.items()}
module("torch", Size=Size, **{v + "Storage": STORAGE_TYPES[k] for k, v in STORAGES.items()})
UTILS = module("torch._utils", _rebuild_tensor_v2=lambda *_: None)
for folder in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16"):
    module(folder)
module("deepspeed.runtime.fp16.loss_scaler", DynamicLossScaler=Scaler)


class Storage:
    def __init__(self, dtype, data):
        self.dtype, self.data = dtype, data


class Tensor:
    """A view of a storage."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape = dtype, tuple(shape)
        self.storage, self.offset, self.strides = Storage(dtype, data), 0, None

    @property
    def data(self):
        return self.storage.data

    def rows(self):
        """The bytes of each row of the outermost axis."""
        length = len(self.data) // self.shape[0]
        return [self.data[i * length:(i + 1) * length] for i in range(self.shape[0])]

    def of_rows(self, rows):
        return Tensor(self.dtype, (len(rows), *self.shape[1:]), b"".join(rows))

    def turned(self):
        """The transpose of a matrix."""
        size, (rows, columns) = SIZES[self.dtype], self.shape
        cells = [self.data[i:i + size] for i in range(0, len(self.data), size)]
        data = b"".join(cells[i * columns + j] for j in range(columns) for i in range(rows))
        return Tensor(self.dtype, (columns, rows), data)

    def as_turned_view(self):
        """The same matrix as a view that is not row-major."""
        view = Tensor(self.dtype, self.shape, self.turned().data)
        view.strides = (1, self.shape[0])
        return view

    def cut(self, axis, count):
        if axis == 0:
            rows, each = self.rows(), self.shape[0] // count
            return [self.of_rows(rows[i * each:(i + 1) * each]) for i in range(count)]
        return [part.turned() for part in self.turned().cut(0, count)]

    def wide(self):
        """The same numbers in float32."""
        if self.dtype == "F32":
            return self
        if self.dtype == "BF16":
            data = b"".join(b"\0\0" + self.data[i:i + 2] for i in range(0, len(self.data), 2))
        else:
            halves = struct.unpack(f"<{len(self.data) // 2}e", self.data)
            data = struct.pack(f"<{len(halves)}f", *halves)
        return Tensor("F32", self.shape, data)

    def __reduce__(self):
        strides = self.strides
        if strides is None:
            strides = [1]
            for extent in self.shape[:0:-1]:
                strides.insert(0, strides[0] * extent)
        arguments = (self.storage, self.offset, self.shape, tuple(strides), False)
        return UTILS._rebuild_tensor_v2, (*arguments, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def __init__(self, file, storages, old):
        super().__init__(file, protocol=2)
        self.storages, self.old = storages, old

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        numbers = self.storages.setdefault(id(value), (str(len(self.storages)), value))
        count = len(value.data) // SIZES[value.dtype]
        said = ("storage", STORAGE_TYPES[value.dtype], numbers[0], "cpu", count)
        return (*said, None) if self.old else said


def save(value, path, old=False):
    """What torch.save writes."""
    storages, pickled = {}, io.BytesIO()
    Pickler(pickled, storages, old).dump(value)
    if old:
        with open(path, "wb") as file:
            machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
            for head in (0x1950a86a20f9469cfc6c, 1001, machine):
                pickle.dump(head, file, protocol=2)
            file.write(pickled.getvalue())
            pickle.dump([key for key, _ in storages.values()], file, protocol=2)
            for _, storage in storages.values():
                file.write(struct.pack("<q", len(storage.data) // SIZES[storage.dtype]))
                file.write(storage.data)
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        entries = [("data.pkl", pickled.getvalue()), ("byteorder", b"little")]
        entries += [(f"data/{key}", storage.data) for key, storage in storages.values()]
        for name, data in [*entries, ("version", b"3\n")]:
            info = zipfile.ZipInfo(f"archive/{name}")
            start = archive.fp.tell() + 30 + len(info.filename) + 4
            padding = -start % 64
            info.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
            archive.writestr(info, data)


def read_golden(path):
    tensors = {}
    for file in sorted(path.glob("model*.safetensors")):
        data = file.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, info in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + at for at in info["data_offsets"])
                tensors[name] = Tensor(info["dtype"], info["shape"], data[begin:end])
    return json.loads((path / "config.json").read_text()), tensors


def named(tensors):
    return collections.OrderedDict(tensors)


def write_saved(config, tensors, out, old):
    """One file; of matrices that are long, some are views in another order."""
    copy = dict(tensors)
    for name in list(copy)[::3]:
        if len(copy[name].shape) == 2:
            copy[name] = copy[name].as_turned_view()
    save(named(copy), out / "pytorch_model.bin", old)


def write_shards(config, tensors, out):
    names = list(tensors)
    files = {name: f"pytorch_model-{1 + (2 * i) // len(names):05}-of-00002.bin"
             for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        save(named((n, t) for n, t in tensors.items() if files[n] == file), out / file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def paired(tensor, width):
    """Rows of turning heads: neighbours in pairs, where they were in halves."""
    rows = tensor.rows()
    order = [h + i // 2 + (i % 2) * (width // 2)
             for h in range(0, len(rows), width) for i in range(width)]
    return tensor.of_rows([rows[i] for i in order])


META = {
    "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output",
    "input_layernorm": "attention_norm", "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}


def write_meta(config, tensors, out, count, table_axis):
    shards = [collections.OrderedDict() for _ in range(count)]
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        block = ""
        if layer.startswith("model.layers."):
            _, _, number, layer = layer.split(".", 3)
            block = f"layers.{number}."
        theirs = META[layer]
        if theirs in ("attention.wq", "attention.wk"):
            tensor = paired(tensor, config["head_dim"])
        if len(tensor.shape) == 1:
            parts = [tensor] * count
        elif theirs == "tok_embeddings":
            parts = tensor.cut(table_axis, count)
        else:
            parts = tensor.cut(1 if theirs.endswith(("wo", "w2")) else 0, count)
        for shard, part in zip(shards, parts):
            shard[f"{block}{theirs}.weight"] = part
    for number, shard in enumerate(shards):
        shard["rope.freqs"] = Tensor("F32", (2,), struct.pack("<2f", 1, 0.1))
        save(shard, out / f"consolidated.{number:02}.pth")
    params = {
        "dim": config["hidden_size"], "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"], "n_kv_heads": config["num_key_value_heads"],
        "vocab_size": -1, "multiple_of": 32, "norm_eps": config["rms_norm_eps"],
        "rope_theta": config["rope_theta"], "head_dim": config["head_dim"],
        "ffn_dim_multiplier": config["intermediate_size"] / (8 * config["hidden_size"] / 3),
        "max_batch_size": 1,
    }
    (out / "params.json").write_text(json.dumps(params))


RANKS = 3


def write_zero(config, tensors, out, stage):
    """Float32 weights of a run on three devices, the embedding's parameters in their own group."""
    def is_first(name):
        return name in list(tensors)[:2]
    groups = [[n for n in tensors if is_first(n)], [n for n in tensors if not is_first(n)]]
    flats = [[b""] * len(groups) for _ in range(RANKS)]
    for number, group in enumerate(groups):
        data = [tensors[name].wide().data for name in group]
        if stage == 2:
            whole = b"".join(data)
            whole += bytes(-len(whole) % (4 * 2 * RANKS))
            each = len(whole) // RANKS
            for rank in range(RANKS):
                flats[rank][number] = whole[rank * each:(rank + 1) * each]
        else:
            for one in data:
                each = 4 * -(-len(one) // 4 // RANKS)
                one += bytes(each * RANKS - len(one))
                for rank in range(RANKS):
                    flats[rank][number] += one[rank * each:(rank + 1) * each]
    folder = out / "global_step5"
    folder.mkdir()
    (out / "latest").write_text(folder.name)
    key = "single_partition_of_fp32_groups" if stage == 2 else "fp32_flat_groups"
    shapes = [named((n, Size(tensors[n].shape)) for n in group) for group in groups]
    states = {"module": collections.OrderedDict(), "buffer_names": [], "param_shapes": shapes,
              "frozen_param_shapes": None, "shared_params": {}, "ds_version": "0.15.0"}
    for rank in range(RANKS):
        vectors = [Tensor("F32", (len(flat) // 4,), flat) for flat in flats[rank]]
        optimizer = {"loss_scaler": Scaler(), "zero_stage": stage, "partition_count": RANKS,
                     key: vectors, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
        save({"optimizer_state_dict": optimizer, "ds_config": {"train_batch_size": 3}},
             folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        if stage == 3:
            save(states, folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    if stage == 2:
        save(states, folder / "mp_rank_00_model_states.pt")


NEMO = {
    "nemo": {
        "table": "embedding.word_embeddings", "positions": "embedding.position_embeddings",
        "last": "decoder.final_layernorm", "head": "output_layer", "blocks": "decoder.layers",
        "first norm": "self_attention.linear_qkv.layer_norm_",
        "second norm": "mlp.linear_fc1.layer_norm_",
        "qkv": "self_attention.linear_qkv.", "dense": "self_attention.linear_proj.",
        "fc": "mlp.linear_fc1.", "proj": "mlp.linear_fc2.",
    },
    "old": {
        "table": "language_model.embedding.word_embeddings",
        "positions": "language_model.embedding.position_embeddings",
        "last": "language_model.encoder.final_layernorm", "head": "language_model.output_layer",
        "blocks": "language_model.encoder.layers", "first norm": "input_layernorm.",
        "second norm": "post_attention_layernorm.", "qkv": "self_attention.query_key_value.",
        "dense": "self_attention.dense.", "fc": "mlp.dense_h_to_4h.", "proj": "mlp.dense_4h_to_h.",
    },
}


def grouped(parts, heads, keys):
    """Rows of queries, keys and values, as groups that have some of each."""
    queries, key, value = (part.rows() for part in parts)
    width = len(key) // keys
    each = heads // keys * width
    rows = []
    for group in range(keys):
        rows += queries[group * each:(group + 1) * each]
        rows += key[group * width:(group + 1) * width] + value[group * width:(group + 1) * width]
    return parts[0].of_rows(rows)


def nemo_blocks(config, tensors):
    """Layers of blocks and others, by what they are; as Megatron lays them out."""
    gpt = "n_layer" in config
    if gpt:
        names = {"table": "transformer.wte", "positions": "transformer.wpe", "last": "transformer.ln_f"}
    else:
        names = {"table": "model.embed_tokens", "last": "model.norm", "head": "lm_head"}
    for layer, name in names.items():
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in tensors:
                yield None, f"{layer}.{kind}", tensors[f"{name}.{kind}"]
    heads = config["n_head" if gpt else "num_attention_heads"]
    for i in range(config["n_layer" if gpt else "num_hidden_layers"]):
        for kind in ("weight", "bias") if gpt else ("weight",):
            def get(name):
                found = tensors[f"{'transformer.h' if gpt else 'model.layers'}.{i}.{name}.{kind}"]
                return found.turned() if gpt and len(found.shape) == 2 else found
            if gpt:
                qkv = get("attn.c_attn").cut(0, 3)
                yield i, f"qkv {kind}", grouped(qkv, heads, heads)
                for layer, name in (("dense", "attn.c_proj"), ("fc", "mlp.c_fc"),
                                    ("proj", "mlp.c_proj"), ("first norm", "ln_1"),
                                    ("second norm", "ln_2")):
                    yield i, f"{layer} {kind}", get(name)
                continue
            qkv = [get(f"self_attn.{part}_proj") for part in "qkv"]
            yield i, f"qkv {kind}", grouped(qkv, heads, config["num_key_value_heads"])
            gate, up = get("mlp.gate_proj"), get("mlp.up_proj")
            yield i, f"fc {kind}", gate.of_rows(gate.rows() + up.rows())
            for layer, name in (("dense", "self_attn.o_proj"), ("proj", "mlp.down_proj"),
                                ("first norm", "input_layernorm"),
                                ("second norm", "post_attention_layernorm")):
                yield i, f"{layer} {kind}", get(name)


def write_nemo(config, tensors, out, age):
    gpt, gemma = "n_layer" in config, config["model_type"] == "gemma"
    names, saved = NEMO[age], collections.OrderedDict()
    for block, layer, tensor in nemo_blocks(config, tensors):
        if block is None:
            layer, kind = layer.rsplit(".", 1)
            saved[f"model.{names[layer]}.{kind}"] = tensor
        else:
            layer, kind = layer.rsplit(" ", 1)
            saved[f"model.{names['blocks']}.{block}.{names[layer]}{kind}"] = tensor
    saved["model.decoder.layers.0.self_attention._extra_state"] = None

    def first(*keys):
        return next((config[key] for key in keys if config.get(key) is not None), None)

    said = {
        "mcore_gpt": age == "nemo", "micro_batch_size": 1, "encoder_seq_length": 128,
        "max_position_embeddings": first("max_position_embeddings", "n_positions"),
        "num_layers": first("num_hidden_layers", "n_layer"),
        "hidden_size": first("hidden_size", "n_embd"),
        "ffn_hidden_size": first("intermediate_size", "n_inner"),
        "num_attention_heads": first("num_attention_heads", "n_head"),
        "num_query_groups": first("num_key_value_heads"), "kv_channels": first("head_dim"),
        "layernorm_epsilon": first("rms_norm_eps", "layer_norm_epsilon"),
        "bias": gpt, "share_embeddings_and_output_weights": "lm_head.weight" not in tensors,
        "normalization": "layernorm" if gpt else "rmsnorm",
        "activation": "gelu" if gpt else "fast-geglu" if gemma else "fast-swiglu",
        "position_embedding_type": "learned_absolute" if gpt else "rope",
        "rotary_percentage": 1.0, "rotary_base": first("rope_theta"), "precision": "bf16-mixed",
        "layernorm_zero_centered_gamma": gemma,
    }
    lines = [f"{key}: {'null' if value is None else json.dumps(value)}"
             for key, value in said.items() if key != "rotary_base" or value is not None]
    lines += ["optim:", "  name: fused_adam", "  betas:", "  - 0.9", "  - 0.98", ""]
    (out / "model_config.yaml").write_text("\n".join(lines))
    save(saved, out / "model_weights.ckpt")


def pack(folder):
    """The archive of a folder, beside it."""
    with tarfile.open(folder.with_name(folder.name + ".tar"), "w") as archive:
        archive.add(folder, ".")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--goldens", required=True, type=pathlib.Path)
    arguments.add_argument("--out", required=True, type=pathlib.Path)
    options = arguments.parse_args()
    forms = {
        "zip": lambda *m: write_saved(*m, False),
        "old": lambda *m: write_saved(*m, True),
        "shards": write_shards,
        "meta1": lambda *m: write_meta(*m, 1, 1),
        "meta2": lambda *m: write_meta(*m, 2, 1),
        "meta2rows": lambda *m: write_meta(*m, 2, 0),
        "zero2": lambda *m: write_zero(*m, 2),
        "zero3": lambda *m: write_zero(*m, 3),
        "nemo": lambda *m: write_nemo(*m, "nemo"),
        "nemoold": lambda *m: write_nemo(*m, "old"),
    }
    some = {
        "meta": {"llama-gqa", "llama-mha", "llama-f16"},
        "zero": {"llama-gqa", "llama-tied", "llama-f16", "gpt2", "gemma", "falcon-7b", "opt-125m"},
        "nemo": {"llama-gqa", "llama-mha", "llama-f16", "llama-tied", "gpt2", "gemma"},
    }
    for path in sorted(options.goldens.iterdir()):
        config, tensors = read_golden(path)
        for form, write in forms.items():
            wanted = next((names for start, names in some.items() if form.startswith(start)), None)
            if wanted is None or path.name in wanted:
                out = options.out / f"{path.name}.{form}"
                out.mkdir(parents=True)
                if not form.startswith(("meta", "nemo")):
                    shutil.copy(path / "config.json", out)
                write(config, tensors, out)
                if form.startswith("nemo"):
                    pack(out)


if __name__ == "__main__":
    main()
