#!/usr/bin/env python3
"""Makes tests/fixtures/gemma3/cases.json: what llama.cpp says of Gemma 3 270M.

    make_gemma3_cases.py --gguf gemma-3-270m-q4_k_m.gguf --out cases.json

Token ids of many texts, and of some prompts the greedy continuation and the largest logits after
the prompt. llama.cpp multiplies quantised weights by activations that it quantises too, which
costs more than what is tested; so it is given the same weights in F32, dequantised by the package
`gguf`, and keeps its cache in F32.

Needs the packages `gguf`, `llama-cpp-python` and `numpy`; takes some minutes.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import gguf
import numpy as np

STEPS = 24
# How far apart the two likeliest tokens must be for a step to be certain: llama.cpp looks GELU up
# in a table of F16.
MARGIN = 0.05
TOP = 64

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was",
    "Water boils at a temperature of",
    "1, 2, 3, 4, 5,",
    "def fibonacci(n):\n    if n <",
    "Die Hauptstadt von Deutschland ist",
]

TEXTS = [
    "", "Hello, world!", "The capital of France is", " leading space", "trailing space ",
    "two  spaces", "three   spaces", "    four at first", "a\nb", "a\n\nb", "a\n\n\nb\n", "\n",
    "\n\n\n\n", " \n \n", "  \n  \n", "tabs\tand\t\ttabs", "\t\tindent", "\r\nline ends\r\n",
    "1234567890", "3.14159e-10", "x=1;y=2", "100,000.00 USD", "C++ vs C# & F#",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n", "line1\n    line2\n        line3",
    "naïve café über", "Größe straße", "日本語のテキスト", "中文文本，标点。", "한국어 문장",
    "हिन्दी पाठ", "العربية", "עברית", "ไทย", "mixed 中文 and English 123",
    "🦙🚀 emoji 👩‍👩‍👧", "🏳️‍🌈", "\u200b zero width", "\u00a0no break\u00a0", "e\u0301 combined",
    "ﬁ ligature", "①②③", "½ ¾", "µm Ω", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈 gothic", "ÿþ", "\x00\x01 control",
    "▁ block▁block", "tok▁▁en", "<start_of_turn>user\nhi<end_of_turn>\n", "<unused5> text",
    "<b>bold</b> &amp; <i>it</i>", "</table>", "<h1>Title</h1>", "[multimodal] x",
    "http://example.com/a?b=c&d=e#f", "ALL CAPS TEXT", "iPhone15ProMax", "don't can't we're I'll",
    "“quotes” ‘single’ — dash … ellipsis", "a" * 50, "ab" * 40, " " * 10, " " * 31, "\n" * 12,
    "-" * 20, "=-=-=-", "Supercalifragilisticexpialidocious",
]


def widened(source, path):
    """Writes the same file with all weights in F32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    left_out = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in left_out:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(reversed(tensor.shape.tolist()))
        writer.add_tensor(tensor.name, values.reshape(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def continued(model, prompt):
    """A prompt's greedy continuation and the largest logits after it."""
    ids = model.tokenize(prompt.encode(), add_bos=True, special=True)
    model.reset()
    model.eval(ids)
    greedy, certain, first = [], None, None
    for step in range(STEPS):
        row = np.array(model.scores[len(ids) + step - 1])
        order = np.argsort(-row, kind="stable")
        first = (order[:TOP], row[order[:TOP]]) if step == 0 else first
        if certain is None and row[order[0]] - row[order[1]] < MARGIN:
            certain = step
        greedy.append(int(order[0]))
        model.eval([greedy[-1]])
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "greedy_ids": greedy,
        "safe_steps": STEPS if certain is None else certain,
        "top_ids": first[0].tolist(),
        "top_logits": [round(float(logit), 6) for logit in first[1]],
    }


def by_lines(cases):
    """JSON with a line for each case."""
    lists = []
    for name, entries in cases.items():
        lines = ",\n  ".join(json.dumps(entry) for entry in entries)
        lists.append(f' "{name}": [\n  {lines}\n ]')
    return "{\n" + ",\n".join(lists) + "\n}\n"


def main():
    from llama_cpp import Llama

    parser = argparse.ArgumentParser(description="what llama.cpp says of Gemma 3 270M")
    parser.add_argument("--gguf", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wide = f"{folder}/wide.gguf"
        widened(args.gguf, wide)
        whole = {"type_k": 0, "type_v": 0, "flash_attn": False}
        model = Llama(wide, n_ctx=128, logits_all=True, verbose=False, **whole)
        texts = [
            {"text": text, "ids": model.tokenize(text.encode(), add_bos=False, special=True)}
            for text in TEXTS
        ]
        answers = [continued(model, prompt) for prompt in PROMPTS]
    args.out.write_text(by_lines({"tokenizer": texts, "generation": answers}))


if __name__ == "__main__":
    sys.exit(main())
