#!/usr/bin/env python3
"""Writes a GGUF file again with its quantised tensors as F16, everything else as it was.

    python3 gguf_f16.py FROM.gguf TO.gguf

Gives llama.cpp the weights that engraft has after `--dtype float16`: matrices in F16, norms in
F32, the same metadata and tokenizer. Needs the package gguf.
"""
import sys

import gguf
import numpy as np

FLOAT = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16}


def main(source, target):
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    writer = gguf.GGUFWriter(target, architecture)
    # The writer puts these in by itself.
    skipped = {gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE}
    for field in reader.fields.values():
        if field.name in skipped or field.name.startswith("GGUF."):
            continue
        kind, *inner = field.types
        writer.add_key_value(field.name, field.contents(), kind, inner[-1] if inner else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.tensor_type not in FLOAT:
            data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
