//! A reference: what another implementation of a model gives for some prompts.
//!
//! A safetensors file with, for some numbers or names K:
//!
//! | tensor     | element    | shape                   | what                                          |
//! |------------|------------|-------------------------|-----------------------------------------------|
//! | `prompt_K` | I32 or I64 | `[tokens]`              | token ids                                     |
//! | `logits_K` | F32        | `[tokens, vocab_size]`  | the logits of every position                  |
//! | `greedy_K` | I32 or I64 | `[steps]`               | if there: the greedy continuation             |
//! | `hidden_K` | F32        | `[n, tokens, width]`    | if there: what blocks 0, 1, … n-1 take        |

use anyhow::Result;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use engraft_files::{FileError, TensorEntry, header, interrupt};
use engraft_ir::DType;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file that is no reference.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ReferenceError {
    path: PathBuf,
    reason: String,
}

impl ReferenceError {
    pub fn new(path: &Path, reason: String) -> ReferenceError {
        ReferenceError { path: path.to_owned(), reason }
    }
}

impl Diagnostic for ReferenceError {
    fn code(&self) -> Code {
        Code(91)
    }
    fn fault(&self) -> Fault {
        Fault::Input
    }
    fn location(&self) -> Option<String> {
        Some(self.path.display().to_string())
    }
    fn help(&self) -> Option<String> {
        Some(
            "write it with `prompt_K` (I32 or I64 [tokens]) and `logits_K` (F32 [tokens, \
             vocab_size]) for each prompt K; see docs/adding-an-architecture.md"
                .into(),
        )
    }
}

/// One prompt and what is expected of it.
#[derive(Debug)]
pub struct Prompt {
    /// What is behind `prompt_`.
    pub name: String,
    pub ids: Vec<u32>,
    /// Row after row.
    pub logits: Vec<f32>,
    pub greedy: Option<Vec<u32>>,
    pub hidden: Option<Hidden>,
}

/// What each of the first blocks takes.
#[derive(Debug)]
pub struct Hidden {
    pub width: usize,
    /// Of each block, row after row.
    pub blocks: Vec<Vec<f32>>,
}

/// A reference, read whole.
#[derive(Debug)]
pub struct Reference {
    pub path: PathBuf,
    pub prompts: Vec<Prompt>,
    /// Names of tensors that are none of the above.
    pub others: Vec<String>,
}

impl Reference {
    pub fn read(path: &Path) -> Result<Reference> {
        let (file, header) = header::read(path)?;
        let wrong = |reason: String| ReferenceError::new(path, reason);
        let find = |stem: &str, name: &str| {
            let name = format!("{stem}_{name}");
            header.tensors.get(&name).map(|entry| (name, entry))
        };
        let mut prompts = Vec::new();
        let mut others = Vec::new();
        for (tensor, entry) in &header.tensors {
            let Some((stem, name)) = tensor.split_once('_') else {
                others.push(tensor.clone());
                continue;
            };
            let shown = escape(tensor);
            if ["logits", "greedy", "hidden"].contains(&stem) && find("prompt", name).is_some() {
                continue;
            }
            match stem {
                "prompt" => {}
                "logits" => {
                    let prompt = escape(&format!("prompt_{name}"));
                    return Err(wrong(format!("`{shown}` is there and `{prompt}` is not")).into());
                }
                _ => {
                    others.push(tensor.clone());
                    continue;
                }
            }
            let ids = ids(&file, path, tensor, entry)?;
            let Some((logits_name, logits)) = find("logits", name) else {
                let logits = escape(&format!("logits_{name}"));
                return Err(wrong(format!("`{shown}` is there and `{logits}` is not")).into());
            };
            let rows = ids.len() as u64;
            let fits = logits.shape.len() == 2 && logits.shape[0] == rows && logits.shape[1] > 0;
            if !fits || ids.is_empty() {
                return Err(wrong(format!(
                    "`{}` is {:?}, and `{shown}` has {rows} tokens: a row for each is needed",
                    escape(&logits_name),
                    logits.shape
                ))
                .into());
            }
            let logits = floats(&file, path, &logits_name, logits)?;
            let greedy = match find("greedy", name) {
                Some((name, entry)) => Some(self::ids(&file, path, &name, entry)?),
                None => None,
            };
            let hidden = match find("hidden", name) {
                Some((name, entry)) => Some(hidden(&file, path, &name, entry, rows)?),
                None => None,
            };
            prompts.push(Prompt { name: name.to_owned(), ids, logits, greedy, hidden });
        }
        if prompts.is_empty() {
            return Err(wrong("it has no `prompt_K` with its `logits_K`".into()).into());
        }
        Ok(Reference { path: path.to_owned(), prompts, others })
    }
}

fn bytes(file: &File, path: &Path, entry: &TensorEntry) -> Result<Vec<u8>> {
    interrupt::check()?;
    // The header was held against the file: it has as many.
    let mut bytes = vec![0; (entry.end - entry.start) as usize];
    file.read_exact_at(&mut bytes, entry.start).map_err(FileError::io("read", path))?;
    Ok(bytes)
}

fn ids(file: &File, path: &Path, name: &str, entry: &TensorEntry) -> Result<Vec<u32>> {
    let wrong = |reason: String| ReferenceError::new(path, format!("`{}` {reason}", escape(name)));
    let width = match (entry.dtype, entry.shape.len()) {
        (DType::I32, 1) => 4,
        (DType::I64, 1) => 8,
        (dtype, _) => {
            return Err(wrong(format!("is {dtype} {:?}, no list of token ids", entry.shape)).into());
        }
    };
    let mut ids = Vec::new();
    for piece in bytes(file, path, entry)?.chunks_exact(width) {
        let mut whole = [if piece[width - 1] >= 0x80 { 0xff } else { 0 }; 8];
        whole[..width].copy_from_slice(piece);
        let id = i64::from_le_bytes(whole);
        ids.push(u32::try_from(id).map_err(|_| wrong(format!("has {id}, which is no token id")))?);
    }
    Ok(ids)
}

fn floats(file: &File, path: &Path, name: &str, entry: &TensorEntry) -> Result<Vec<f32>> {
    let wrong = |reason: String| ReferenceError::new(path, format!("`{}` {reason}", escape(name)));
    if entry.dtype != DType::F32 {
        return Err(
            wrong(format!("is {}; a reference is computed and kept in f32", entry.dtype)).into()
        );
    }
    let bytes = bytes(file, path, entry)?;
    let all: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match all.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(wrong(format!("has {} at element {at}", all[at])).into()),
        None => Ok(all),
    }
}

fn hidden(file: &File, path: &Path, name: &str, entry: &TensorEntry, rows: u64) -> Result<Hidden> {
    let [blocks, tokens, width] = entry.shape[..] else {
        let reason =
            format!("`{}` is {:?}, not [blocks, tokens, width]", escape(name), entry.shape);
        return Err(ReferenceError::new(path, reason).into());
    };
    if blocks == 0 || tokens != rows || width == 0 {
        let reason = format!(
            "`{}` is {:?}, and [blocks, {rows}, width] is needed",
            escape(name),
            entry.shape
        );
        return Err(ReferenceError::new(path, reason).into());
    }
    let all = floats(file, path, name, entry)?;
    let one = (tokens * width) as usize;
    Ok(Hidden { width: width as usize, blocks: all.chunks(one).map(<[f32]>::to_vec).collect() })
}
