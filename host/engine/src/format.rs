//! The format of an engine, version 1.
//!
//! # The directory
//!
//! | file             | what                                                                      |
//! |------------------|---------------------------------------------------------------------------|
//! | `rank0.engine`   | graph, weights, config, provenance: enough to run on token ids; of several ranks, a file each |
//! | `config.json`    | `version`, `pretrained_config`, `build_config`: TensorRT-LLM's layout. A copy, for people and their tools, of what is in the engine file; where the two differ, opening fails |
//! | everything else  | text files of the model: `tokenizer.json`, `generation_config.json`, …     |
//!
//! # The engine file
//!
//! A valid safetensors file: eight bytes with the length of the header, the header (JSON, padded
//! with spaces), then the tensors back to back. Any tool that reads safetensors can open it.
//! What is particular:
//!
//! - **Alignment.** Every weight begins at a multiple of [`ALIGNMENT`] bytes in the file, and so
//!   in memory once it is mapped. Holes are filled by `U8` tensors named `~pad.0`, `~pad.1`, …,
//!   as safetensors allows no holes; all their bytes are zero.
//! - **Order.** Weights come in the order in which the graph declares them, which is the order in
//!   which a step reads them. A weight that is tied to another has no tensor.
//! - **Tensors** have the weight's name, and the dtype and shape that the graph declares. For the
//!   target `cpu` they are row-major, `[out, in]`, little-endian.
//!
//! Keys of `__metadata__`, whose values are text, as safetensors wants it:
//!
//! | key                  | value                                                                  |
//! |----------------------|------------------------------------------------------------------------|
//! | `engraft.format`     | the version of this format: `1`                                        |
//! | `engraft.header`     | BLAKE3 of all bytes before the first tensor, as 64 hexadecimal digits, taken while these 64 are `0` |
//! | `engraft.graph`      | the graph in its text form, after all passes                           |
//! | `engraft.config`     | JSON: what `config.json` holds                                         |
//! | `engraft.provenance` | JSON: where it comes from (plugin, source, flags); free in form         |
//! | `engraft.digests`    | JSON: name of a weight → BLAKE3 of its bytes, hexadecimal              |
//! | `engraft.files`      | JSON: name of a text file → BLAKE3 of its bytes, hexadecimal           |
//!
//! Unknown keys, and tensors that no weight names, are left alone.
//!
//! # Versions
//!
//! `engraft.format` is looked at first, before anything else is decoded. It grows when a reader
//! of today would misread a file of tomorrow; what a reader may leave alone, a new key or a new
//! tensor, does not change it. Versions that were released load for ever: a new one adds a
//! branch to the reader and takes none away. A file of a version that is not known yet is
//! refused, saying which.
//!
//! # Same input, same bytes
//!
//! Nothing in the file depends on time, place, or number of threads.

/// The version of the format that this build writes, and the newest that it reads.
pub const VERSION: &str = "1";

/// Every weight begins at a multiple of this many bytes: a page.
pub const ALIGNMENT: usize = 4096;

/// The name of the engine file in its directory.
pub const ENGINE_FILE: &str = "rank0.engine";

/// The name of a rank's engine file in its directory.
pub fn engine_file(rank: usize) -> String {
    format!("rank{rank}.engine")
}

/// The rank that a file's name says it is of.
pub(crate) fn rank_of(name: &str) -> Option<u32> {
    let rank = name.strip_prefix("rank")?.strip_suffix(".engine")?.parse().ok()?;
    (engine_file(rank as usize) == name).then_some(rank)
}

/// The name of the config in an engine's directory.
pub const CONFIG_FILE: &str = "config.json";

/// What the names of the tensors that fill holes begin with.
pub const PADDING: &str = engraft_files::writer::PAD_PREFIX;

/// Metadata key: the version of the format.
pub const KEY_FORMAT: &str = "engraft.format";
/// Metadata key: the digest of the header.
pub const KEY_HEADER: &str = "engraft.header";
/// Metadata key: the graph.
pub const KEY_GRAPH: &str = "engraft.graph";
/// Metadata key: what `config.json` holds.
pub const KEY_CONFIG: &str = "engraft.config";
/// Metadata key: where it comes from.
pub const KEY_PROVENANCE: &str = "engraft.provenance";
/// Metadata key: the weights' digests.
pub const KEY_DIGESTS: &str = "engraft.digests";
/// Metadata key: the text files' digests.
pub const KEY_FILES: &str = "engraft.files";

/// Hexadecimal digits of a digest.
pub(crate) const DIGEST_LEN: usize = 64;

/// Where the digits of `engraft.header` stand in the bytes of a header.
///
/// Found by its spelling: a quote inside a JSON text is written `\"`, so the key between plain
/// quotes can only be the key itself.
pub(crate) fn digest_position(header: &[u8]) -> Option<usize> {
    let needle = format!("\"{KEY_HEADER}\":\"");
    let at = header.windows(needle.len()).position(|w| w == needle.as_bytes())? + needle.len();
    let digits = header.get(at..at.checked_add(DIGEST_LEN)?)?;
    digits.iter().all(u8::is_ascii_hexdigit).then_some(at)
}

/// The digest of a header whose digits stand at `position`.
pub(crate) fn header_digest(header: &[u8], position: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..position]);
    hasher.update(&[b'0'; DIGEST_LEN]);
    hasher.update(&header[position + DIGEST_LEN..]);
    hasher.finalize().to_hex().to_string()
}
