//! What every room that touches a disk shares: safetensors headers, whole-or-nothing outputs, digests.
