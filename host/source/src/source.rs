//! One model on disk, of whatever form.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use engraft_files::FileError;
use engraft_ir::DType;
use serde_json::Value;

use crate::lora::{Lora, Merged, Vocabulary};
use crate::packed::{self, Packed, Packing, View};
use crate::{LoraError, SourceError, directory};

pub(crate) mod encoding;
pub(crate) use encoding::{Encoding, Piece, Weights, grid};

/// One tensor of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type in which its elements are handed out. Blocks are handed out as `F32`.
    pub dtype: DType,
    /// The type in which the file stores them, as the file's format spells it: `BF16`, `Q4_1`.
    pub stored: String,
    /// Its extents, outermost first.
    pub shape: Vec<u64>,
    /// Which of the source's weight files holds it; of several, the first.
    pub(crate) file: usize,
    /// Its first byte in that file. [`Encoding::Pieces`] say for themselves where they lie.
    pub(crate) start: u64,
    /// As many bytes later as it takes.
    pub(crate) end: u64,
    /// How its elements lie there.
    pub(crate) encoding: Encoding,
}

impl TensorInfo {
    /// The elements of one row of the outermost axis.
    pub(crate) fn row(&self) -> u64 {
        // The product of all extents was found to fit the file when it was opened; where one is
        // zero there may be no such bound on the others.
        self.shape.iter().skip(1).fold(1, |product, extent| product.saturating_mul(*extent))
    }

    /// A tensor in pieces, which are not all empty and are sorted.
    pub(crate) fn of_pieces(dtype: DType, shape: Vec<u64>, pieces: Vec<Piece>) -> TensorInfo {
        let file = pieces.first().map_or(0, |piece| piece.file);
        let elements: u64 = pieces.iter().map(|piece| piece.row * piece.rows).sum();
        TensorInfo {
            dtype,
            stored: dtype.safetensors_name().to_owned(),
            shape,
            file,
            start: 0,
            end: elements * dtype.size() as u64,
            encoding: Encoding::Pieces(pieces),
        }
    }

    /// The bytes that it takes in its file.
    pub fn stored_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// What a form of source brings; [`Source`] is this with its files open.
pub(crate) struct Contents {
    pub(crate) dialect: &'static str,
    pub(crate) config: Value,
    pub(crate) config_path: PathBuf,
    pub(crate) architectures: Vec<String>,
    pub(crate) dtype: DType,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    pub(crate) text_files: BTreeMap<String, Vec<u8>>,
    /// The files that hold weights, by [`TensorInfo::file`].
    pub(crate) weights: Weights,
    /// Every file that was read.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) is_ignorable: fn(&str) -> bool,
    /// What of it is left alone, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// A model on disk: tensors by name, a config, the texts around it.
pub struct Source {
    path: PathBuf,
    contents: Contents,
    pub(crate) packed: Option<Packed>,
    lora: Option<Lora>,
}

impl Source {
    /// Opens the model at `path`: a directory or a file, of any form that is read.
    ///
    /// # Errors
    /// [`SourceError`], for whatever can be wrong without looking at a weight.
    pub fn open(path: &Path) -> Result<Source, SourceError> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::Missing { path: path.to_owned() });
            }
            Err(error) => return Err(FileError::io("open", path)(error).into()),
        };
        let mut contents =
            if metadata.is_dir() { directory::open(path)? } else { directory::open_file(path)? };
        let Contents { config, config_path, tensors, .. } = &mut contents;
        let packed = Packed::find(config, config_path, tensors)?;
        Ok(Source { path: path.to_owned(), contents, packed, lora: None })
    }

    /// Opens the model at `path` with the LoRA adapter in a directory merged into its weights.
    ///
    /// # Errors
    /// As [`Source::open`]; [`SourceError::Lora`] for whatever does not fit.
    pub fn open_with_lora(path: &Path, adapter: &Path) -> Result<Source, SourceError> {
        let mut source = Source::open(path)?;
        let contents = &mut source.contents;
        if contents.dialect != "hugging-face" {
            let fault = LoraError::Dialect(contents.dialect.to_owned());
            return Err(SourceError::Lora { path: source.path, fault });
        }
        let key = |key: &str| contents.config.get(key);
        let vocabulary = Vocabulary {
            size: key("vocab_size").and_then(Value::as_u64),
            tied: key("tie_word_embeddings").and_then(Value::as_bool) == Some(true),
        };
        let lora = Lora::open(adapter, &contents.tensors, &vocabulary)?;
        contents.tensors.extend(lora.infos().map(|(name, info)| (name.to_owned(), info)));
        contents.files.extend(lora.files());
        source.lora = Some(lora);
        Ok(source)
    }

    /// What of a LoRA adapter was merged.
    pub fn merged(&self) -> Option<&Merged> {
        self.lora.as_ref().map(Lora::merged)
    }

    /// Which of its weights are stored in few bits, and are de-quantised as they are read.
    pub fn packed(&self) -> Option<String> {
        self.packed.as_ref().map(Packed::summary)
    }

    /// How a weight is packed in few bits; none where it is not, or an adapter changes it.
    ///
    /// # Errors
    /// What cannot be read; groups that there are not.
    pub fn packing(&self, name: &str) -> Result<Option<Packing>, SourceError> {
        match &self.packed {
            Some(packed) if !self.lora.as_ref().is_some_and(|lora| lora.has(name)) => {
                packed.packing(name, &|info| self.whole(info), &self.path)
            }
            _ => Ok(None),
        }
    }

    /// About how many bytes are held while a tensor is read, beside those that are asked for.
    pub fn held(&self, name: &str) -> u64 {
        self.packed.as_ref().map_or(0, |packed| packed.memory(name))
    }

    /// Shows something else in place of the elements of packed weights.
    pub fn show(&mut self, view: View) {
        if let Some(packed) = &mut self.packed {
            packed.view = view;
        }
    }

    /// What of it is left alone or missing, and is no error: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.contents.notes.clone();
        let has_other = self.path.join("tokenizer.model").exists();
        if !self.contents.text_files.contains_key("tokenizer.json")
            && (has_other || self.dialect() != "hugging-face")
        {
            let what = if has_other { ", and tokenizer.model is not read" } else { "" };
            notes.push(format!(
                "there is no tokenizer.json{what}: put one beside the weights, or run the engine \
                 with --input_ids and --output_ids alone"
            ));
        }
        notes
    }

    /// What names and layouts its tensors have: `hugging-face`, `gguf`, `meta`,
    /// `nemo`, `nemo-old`, `jax`.
    pub fn dialect(&self) -> &'static str {
        self.contents.dialect
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its config: a HuggingFace `config.json` as it is; of a GGUF file, the metadata as one flat
    /// object whose keys have dots, without the tokenizer's lists.
    pub fn config(&self) -> &Value {
        &self.contents.config
    }

    /// The file that [`Source::config`] was read from.
    pub fn config_path(&self) -> &Path {
        &self.contents.config_path
    }

    /// The names that a plugin may accept it by: `LlamaForCausalLM`, `gguf:llama`.
    pub fn architectures(&self) -> Vec<String> {
        self.contents.architectures.clone()
    }

    /// The float type that its weights are best kept in, which is what `--dtype auto` means:
    /// what the config says, else that of most bytes; `BF16` for blocks.
    pub fn dtype(&self) -> DType {
        self.contents.dtype
    }

    /// Every tensor by its name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.contents.tensors
    }

    /// `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `chat_template.jinja`, as far as there are such; of a GGUF
    /// file, made from its metadata.
    pub fn text_files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.contents.text_files
    }

    /// Every file that belongs to it, for provenance.
    pub fn files(&self) -> &[PathBuf] {
        &self.contents.files
    }

    /// Where tensors begin in its weight file, for a form of source that has one file with all in
    /// it.
    pub fn data_start(&self) -> Option<u64> {
        let whole = self.contents.weights.len() == 1 && self.contents.files.len() == 1;
        let starts = self.contents.tensors.values().map(|info| info.start);
        starts.min().filter(|start| whole && *start > 0)
    }

    /// The file that holds a tensor; the source's own path for a name that it does not have.
    pub fn file_of(&self, name: &str) -> &Path {
        let info = self.contents.tensors.get(name);
        info.and_then(|info| self.contents.weights.get(info.file))
            .map_or(self.path.as_path(), |(path, _)| path.as_path())
    }

    /// Those top-level keys of the config that say nothing about the arithmetic, or nothing that
    /// is not seen to here.
    pub fn ignorable_keys(&self) -> Vec<&str> {
        let keys = self.contents.config.as_object().into_iter().flat_map(|config| config.keys());
        let is_read = |key: &str| self.packed.is_some() && key == packed::KEY;
        let is_ignorable = |key: &&str| (self.contents.is_ignorable)(key) || is_read(key);
        keys.map(String::as_str).filter(is_ignorable).collect()
    }

    /// Appends `rows` of the tensor `name` to `out`: little-endian elements of its `dtype`, a
    /// row being all that one index of the outermost axis selects (a scalar is one row).
    ///
    /// # Errors
    /// What the file system says; [`FileError::Interrupted`]; [`SourceError::NoSuchRows`] for
    /// an unknown tensor or rows that it does not have.
    pub fn read(&self, name: &str, rows: Range<u64>, out: &mut Vec<u8>) -> Result<(), SourceError> {
        let no_such_rows = |what| SourceError::NoSuchRows { path: self.path.clone(), what };
        let Some(info) = self.contents.tensors.get(name) else {
            return Err(no_such_rows(format!("there is no tensor `{name}`")));
        };
        let extent = info.shape.first().copied().unwrap_or(1);
        if rows.start > rows.end || rows.end > extent {
            return Err(no_such_rows(format!("tensor `{name}` has {extent} rows, not {rows:?}")));
        }
        if info.end == info.start || rows.is_empty() {
            return Ok(());
        }
        self.read_elements(name, rows.start * info.row()..rows.end * info.row(), out)
    }

    /// The same by numbers of elements, in row-major order.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn read_elements(
        &self,
        name: &str,
        elements: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let no_such_rows = |what| SourceError::NoSuchRows { path: self.path.clone(), what };
        let Some(info) = self.contents.tensors.get(name) else {
            return Err(no_such_rows(format!("there is no tensor `{name}`")));
        };
        let count = info.shape.iter().fold(1u64, |n, &extent| n.saturating_mul(extent));
        if elements.start > elements.end || elements.end > count {
            let what = format!("tensor `{name}` has {count} elements, not {elements:?}");
            return Err(no_such_rows(what));
        }
        if elements.is_empty() {
            return Ok(());
        }
        let is_packed = self.packed.as_ref().is_some_and(|packed| packed.has(name));
        if !is_packed && !self.lora.as_ref().is_some_and(|lora| lora.has(name)) {
            return encoding::read(&self.contents.weights, info, elements, out);
        }
        // What is computed is computed by rows, of which the first and the last may be cut.
        let row = info.row();
        let rows = elements.start / row..elements.end.div_ceil(row);
        let bytes = |elements: u64| (elements - rows.start * row) as usize * info.dtype.size();
        let at = out.len();
        self.read_computed(name, rows.clone(), elements.end == count, out)?;
        out.truncate(at + bytes(elements.end));
        out.drain(at..at + bytes(elements.start));
        Ok(())
    }

    /// All bytes of a tensor as it is stored.
    fn whole(&self, info: &TensorInfo) -> Result<Vec<u8>, SourceError> {
        let mut bytes = Vec::new();
        let count = info.shape.iter().product();
        encoding::read(&self.contents.weights, info, 0..count, &mut bytes)?;
        Ok(bytes)
    }

    /// Appends rows of a tensor that is packed, or that an adapter changes; `last` says that no
    /// others will be asked for.
    fn read_computed(
        &self,
        name: &str,
        rows: Range<u64>,
        last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let weights = &self.contents.weights;
        let whole = |info: &TensorInfo| self.whole(info);
        let own = |info: &TensorInfo, out: &mut Vec<u8>| match &self.packed {
            Some(packed) if packed.has(name) => {
                packed.read(name, rows.clone(), last, &whole, &self.path, out)
            }
            _ => {
                let elements = rows.start * info.row()..rows.end * info.row();
                encoding::read(weights, info, elements, out)
            }
        };
        match &self.lora {
            Some(lora) if lora.has(name) => lora.read(name, rows.clone(), &own, out),
            _ => own(&self.contents.tensors[name], out),
        }
    }
}

#[cfg(test)]
mod tests;
