"""Says how far a quantised checkpoint's weights are from those of a float one.

Reads both with nothing but numpy, and takes codes apart by the formulas of TensorRT-LLM's checkpoint
format: `weight = (code - zero) * scale`, with what activations are multiplied by on top. Prints JSON: for
each quantised weight its signal to noise ratio in decibels, its largest error and its cosine.

    dequantise.py QUANTISED_CHECKPOINT FLOAT_CHECKPOINT
"""

import json
import pathlib
import struct
import sys

import numpy as np

PLAIN = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1", "I16": "<i2", "I32": "<i4"}


def e4m3(code):
    """What a byte of E4M3 stands for: a sign, four bits of exponent, three of fraction."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, fraction = code >> 3 & 15, code & 7
    if exponent == 15 and fraction == 7:
        return float("nan")
    if exponent == 0:
        return sign * fraction / 512
    return sign * (1 + fraction / 8) * 2.0 ** (exponent - 7)


E4M3 = np.array([e4m3(code) for code in range(256)])


def read(directory):
    """The tensors of a checkpoint of one rank."""
    data = (pathlib.Path(directory) / "rank0.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + at for at in entry["data_offsets"])
        raw, kind = data[start:end], entry["dtype"]
        if kind == "F8_E4M3":
            values = E4M3[np.frombuffer(raw, "u1")]
        elif kind == "BF16":
            halves = np.frombuffer(raw, "<u2").astype("<u4") << 16
            values = halves.view("<f4")
        else:
            values = np.frombuffer(raw, PLAIN[kind])
        tensors[name] = (kind, values.reshape(entry["shape"]))
    return tensors


def weight(tensors, module):
    """What a module's tensors stand for."""
    kind, codes = tensors[f"{module}.weight"]
    get = lambda suffix: tensors.get(f"{module}.{suffix}", (None, None))[1]
    scales = get("weights_scaling_factor")
    scales = get("per_channel_scale") if scales is None else scales
    rows = scales.shape[0] if scales.ndim > 0 and scales.size > 1 else codes.shape[0]
    if kind == "I8" and codes.shape[0] * 2 == rows:
        pairs = codes.view("u1")
        codes = np.stack([pairs & 15, pairs >> 4], 1).reshape(rows, -1).astype("i2")
        codes = np.where(codes > 7, codes - 16, codes)
    values = codes.astype("f8")
    inputs = values.shape[1]
    if scales.ndim == 2:
        order = get("g_idx")
        order = np.arange(inputs) // (inputs // scales.shape[1]) if order is None else order
        zeros = get("weights_zero_point")
        values = values - (0 if zeros is None else zeros[:, order])
        values = values * scales[:, order].astype("f8")
    elif scales.size == 1:
        values = values * float(scales.reshape(-1)[0])
    else:
        values = values * scales.astype("f8")[:, None]
    factors = get("prequant_scaling_factor")
    return values if factors is None else values * factors.astype("f8")


def main():
    quantised, plain = read(sys.argv[1]), read(sys.argv[2])
    found = {}
    for name in quantised:
        module = name.removesuffix(".weights_scaling_factor").removesuffix(".per_channel_scale")
        if module == name:
            continue
        was = plain[f"{module}.weight"][1].astype("f8")
        now = weight(quantised, module)
        error = now - was
        found[f"{module}.weight"] = {
            "sqnr": 10 * np.log10((was**2).sum() / (error**2).sum()),
            "max_error": np.abs(error).max(),
            "cosine": (was * now).sum() / np.sqrt((was**2).sum() * (now**2).sum()),
        }
    print(json.dumps(found))


main()
