"""Writes host/source/fixtures/jax: one small tree as Flax and Orbax themselves write it.

    pip install flax orbax-checkpoint
    python tests/tools/make_jax_fixtures.py host/source/fixtures/jax

The files are committed; this ran with flax 0.12.8, orbax-checkpoint 0.12.8 and tensorstore 0.1.86.
"""

import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization

OUT = Path(sys.argv[1]).absolute()


def count(*shape, dtype=np.float32):
    """0, 1, 2, … in a shape."""
    return jnp.asarray(np.arange(int(np.prod(shape))).reshape(shape), dtype)


# As a training state has it: a step, an optimizer's moments, parameters below `params`.
TREE = {
    "step": 7,
    "opt_state": [{"mu": {"lm_head": {"kernel": count(4, 6)}}}],
    "params": {
        "model": {
            "layers": {
                "0": {
                    "proj": {"kernel": count(40, 30), "bias": count(30, dtype=jnp.bfloat16)},
                    "norm": {"scale": count(7, dtype=jnp.float16)},
                },
                "1": {"proj": {"kernel": jnp.zeros((40, 30))}},
            },
            "embed": {"embedding": count(5, 4, dtype=jnp.bfloat16)},
        },
        "lm_head": {"kernel": count(4, 6)},
    },
}


def orbax(name, tree, **options):
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)).save(OUT / name, tree)


def write(name, text):
    (OUT / name).write_text(text)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    write("config.json", '{"architectures": ["TinyForCausalLM"]}\n')

    (OUT / "flax").mkdir()
    write("flax/config.json", '{"architectures": ["TinyForCausalLM"]}\n')
    (OUT / "flax/flax_model.msgpack").write_bytes(serialization.to_bytes(TREE["params"]))
    # Arrays of more than 2^30 bytes are in pieces; here all of more than 1000.
    serialization.MAX_CHUNK_SIZE = 1000
    (OUT / "pieces").mkdir()
    write("pieces/config.json", '{"architectures": ["TinyForCausalLM"]}\n')
    (OUT / "pieces/flax_model.msgpack").write_bytes(serialization.to_bytes(TREE["params"]))

    orbax("ocdbt", TREE)
    orbax("zarr", TREE, use_ocdbt=False)
    orbax("zarr3", TREE, use_ocdbt=False, use_zarr3=True)
    orbax("ocdbt_zarr3", TREE, use_zarr3=True)

    # A tree of many small nodes, and arrays of several chunks.
    config = {"max_decoded_node_bytes": 600}
    store = {"driver": "ocdbt", "base": f"file://{OUT}/deep/", "config": config}
    for i in range(12):
        name = f"params.layers.{i}.some.long.name.kernel/"
        metadata = {"compressor": {"id": "gzip", "level": 6}, "chunks": [3, 4]}
        spec = {"driver": "zarr", "kvstore": {**store, "path": name}, "metadata": metadata}
        array = ts.open(spec, create=True, dtype=ts.float32, shape=[5, 6]).result()
        array.write(np.arange(30, dtype=np.float32).reshape(5, 6) + i).result()
    write("deep/config.json", '{"architectures": ["TinyForCausalLM"]}\n')
    # An array of version 3 whose larger chunks hold smaller ones.
    spec = {
        "driver": "zarr3",
        "kvstore": f"file://{OUT}/sharded/params.proj.kernel/",
        "metadata": {
            "shape": [5, 7],
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 6]}},
            "codecs": [{
                "name": "sharding_indexed",
                "configuration": {"chunk_shape": [2, 3], "codecs": ["bytes", "zstd"]},
            }],
        },
    }
    array = ts.open(spec, create=True).result()
    array.write(np.arange(35, dtype=np.float32).reshape(5, 7) + 1).result()
    write("sharded/config.json", '{"architectures": ["TinyForCausalLM"]}\n')

    # What nobody reads.
    for path in OUT.rglob("*"):
        if path.name in ("commit_success.txt", "_sharding", "array_metadatas"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


main()
