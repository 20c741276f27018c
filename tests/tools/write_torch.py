#!/usr/bin/env python3
"""Writes the goldens in the forms that PyTorch's users have them.

    write_torch.py --goldens DIR --out DIR

Each in folders called NAME.FORM: `zip` and `old` (torch.save's two forms), `shards` (with an index),
`meta1` and `meta2` (Meta's, in one file and cut over two), `zero2` and `zero3` (DeepSpeed's, cut over
three devices), and files NAME.nemo and NAME.old.nemo with NeMo's newer and older names. Python's own
pickler writes the pickles: stand-ins of PyTorch's classes reduce to the calls that PyTorch's reduce
to. No package is needed.
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
    }
    few = {"llama-gqa", "llama-tied", "llama-f16", "gpt2", "gemma", "falcon-7b", "opt-125m"}
    meta = {"llama-gqa", "llama-mha", "llama-f16"}
    for path in sorted(options.goldens.iterdir()):
        config, tensors = read_golden(path)
        for form, write in forms.items():
            wanted = meta if form.startswith("meta") else few if form.startswith("zero") else None
            if wanted is None or path.name in wanted:
                out = options.out / f"{path.name}.{form}"
                out.mkdir(parents=True)
                if not form.startswith("meta"):
                    shutil.copy(path / "config.json", out)
                write(config, tensors, out)


if __name__ == "__main__":
    main()
