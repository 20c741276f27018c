//! What people have on disk, as tensors by name, a config and a tokenizer.
