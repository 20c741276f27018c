#!/usr/bin/env python3
"""Times llama.cpp on a GGUF file: one JSON line with a prefill and a decode rate.

    python3 llama_cpp_peer.py MODEL.gguf --threads N [--prompt 512] [--generate 128]

The same measurement as `engraft-bench` makes: the prompt in one batch with logits for its last
token alone, then tokens one at a time from an empty cache; the tokens are given, nothing is
sampled; each is done once before it is timed. Settings are llama.cpp's own defaults but for the
threads and the context's length. Needs the package llama-cpp-python.
"""
import argparse
import ctypes
import json
import time

import llama_cpp as llama


def token(vocabulary, at):
    return (at * 7919 + 301) % vocabulary


def decode(context, batch, tokens, start):
    """One step over `tokens` at positions from `start`, with logits for the last."""
    batch.n_tokens = len(tokens)
    for i, value in enumerate(tokens):
        batch.token[i] = value
        batch.pos[i] = start + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = i == len(tokens) - 1
    status = llama.llama_decode(context, batch)
    if status != 0:
        raise SystemExit(f"llama_decode gave {status}")
    llama.llama_synchronize(context)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    args = parser.parse_args()

    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    started = time.perf_counter()
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {args.model}")
    settings = llama.llama_context_default_params()
    settings.n_ctx = max(args.prompt, args.generate + 1)
    settings.n_threads = settings.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, settings)
    if not context:
        raise SystemExit("llama.cpp cannot make a context")
    load = time.perf_counter() - started
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    memory = llama.llama_get_memory(context)
    batch = llama.llama_batch_init(max(args.prompt, 1), 0, 1)

    def prefill(count):
        llama.llama_memory_clear(memory, True)
        text = [token(vocabulary, i) for i in range(count)]
        begin = time.perf_counter()
        decode(context, batch, text, 0)
        return count / (time.perf_counter() - begin)

    def generate(count):
        llama.llama_memory_clear(memory, True)
        begin = time.perf_counter()
        for i in range(count):
            decode(context, batch, [token(vocabulary, i)], i)
        return count / (time.perf_counter() - begin)

    told = llama.llama_print_system_info().decode().replace("CPU : ", "").split(" | ")
    features = [feature.removesuffix(" = 1") for feature in told if feature.endswith(" = 1")]

    prefill(args.prompt)
    prefill_rate = prefill(args.prompt)
    generate(min(args.generate, 8))
    decode_rate = generate(args.generate)
    print(json.dumps({
        "device": f"llama.cpp ({llama.__version__}), {args.threads} threads",
        "load_ms": load * 1e3,
        "prefill": prefill_rate,
        "decode": decode_rate,
        "system": " ".join(features),
    }))


if __name__ == "__main__":
    main()
