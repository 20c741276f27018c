#!/usr/bin/env python3
"""Writes a model with noise on its linear weights, so that they lie on no grid of few bits.

    python3 perturb.py FROM TO SHA256

FROM is a HuggingFace directory in f32 with one model.safetensors. Where its weights were expanded
from 4 bits, a quantiser whose grid holds that grid gives them back exactly, and looks better than
it is. Here every row of a linear is cut into blocks of 32; with step = (max - min) / 15 of a block,
what its 4-bit grid had,

    w' = w + 0.3 * step * n,   n ~ N(0, 1)

in float64, rounded to f32. The noise is as large as the error of a quantiser with that step
(step / sqrt(12)). It is numpy's RandomState, whose stream never changes, seeded by the tensor's
name. Fails where the file that comes out has another SHA256. Needs the package numpy.
"""
import hashlib
import json
import pathlib
import shutil
import struct
import sys
import zlib

import numpy as np

SEED = 20261121
FACTOR = 0.3
BLOCK = 32
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = "model.safetensors"


def read(path):
    """The F32 tensors of a file, by name."""
    raw = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", raw)[0]
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            sys.exit(f"{path}: {name} is {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(raw[start + begin : start + end], "<f4").reshape(entry["shape"])
    return tensors


def moved(name, weight):
    """The weight with its noise."""
    rows, columns = weight.shape
    wide = np.pad(weight.astype(np.float64), ((0, 0), (0, -columns % BLOCK)), mode="edge")
    blocks = wide.reshape(rows, -1, BLOCK)
    step = (blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)) / 15.0
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ SEED) & 0xFFFFFFFF)
    noisy = blocks + FACTOR * step * random.standard_normal(blocks.shape)
    return noisy.reshape(rows, -1)[:, :columns].astype("<f4")


def write(path, tensors):
    """Writes the file, tensors by name; returns its digest."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (struct.pack("<Q", len(text)), text, *(t.tobytes() for t in tensors.values())):
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def main(source, target, wanted):
    tensors = read(source / WEIGHTS)
    for name, weight in tensors.items():
        if weight.ndim == 2 and name.removesuffix(".weight").endswith(LINEARS):
            tensors[name] = moved(name, weight)
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix == ".json" and file.name != "fetch_info.json":
            shutil.copyfile(file, target / file.name)
    found = write(target / WEIGHTS, dict(sorted(tensors.items())))
    if found != wanted:
        sys.exit(f"{target / WEIGHTS}: its sha256 is {found}, not {wanted}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
