//! Files that PyTorch wrote, without PyTorch and without running what they say.
//!
//! `torch.save` writes a pickle, which is a program, beside plain storages. Here the program is
//! read by a machine that can do nothing but build plain data ([`pickle`]), with a closed list of
//! names ([`names`]); the storages are found in the file and left there.

mod archive;
mod error;
mod names;
mod pickle;
mod rebuild;
mod tensors;
mod value;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use engraft_files::FileError;

use crate::SourceError;
use crate::source::TensorInfo;

pub(crate) use archive::Archive;
pub use error::TorchError;
pub(crate) use value::{Id, Value};

/// Opens the file at `path`: what it says, and the file.
pub(crate) fn open(path: &Path) -> Result<(File, Archive), SourceError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let size = file.metadata().map_err(FileError::io("read", path))?.len();
    let archive = archive::open(path, &file, 0..size)?;
    Ok((file, archive))
}

/// The same of a stretch of the file at `path`.
pub(crate) fn open_part(
    path: &Path,
    file: &File,
    range: Range<u64>,
) -> Result<Archive, SourceError> {
    archive::open(path, file, range)
}

impl Archive {
    /// The tensors of a model: those of the whole file, or of the one dictionary in it that has
    /// the model beside what else a training run keeps. `file` is the number that the file has
    /// in its source.
    pub(crate) fn model(
        &self,
        path: &Path,
        file: usize,
    ) -> Result<BTreeMap<String, TensorInfo>, SourceError> {
        let wrappers = ["state_dict", "model_state_dict", "model", "module"];
        let is_dict = |id: &Id| self.heap.entries(*id).is_some_and(|entries| !entries.is_empty());
        let inner = wrappers.iter().find_map(|key| self.heap.find(self.root, key).filter(is_dict));
        self.tensors(path, file, inner.unwrap_or(self.root))
    }

    /// The tensor that a value is, called `name` in errors.
    pub(crate) fn tensor(
        &self,
        path: &Path,
        file: usize,
        name: &str,
        id: Id,
    ) -> Result<TensorInfo, SourceError> {
        let fail = |fault| SourceError::Torch { path: path.to_owned(), fault };
        let Value::Tensor(tensor) = self.heap.get(id) else {
            let what = "should be a tensor".to_owned();
            return Err(fail(TorchError::Tensor { tensor: name.to_owned(), what }));
        };
        tensors::locate(&self.heap, &self.storages, name, tensor, file).map_err(fail)
    }

    /// The tensors below a value.
    pub(crate) fn tensors(
        &self,
        path: &Path,
        file: usize,
        below: Id,
    ) -> Result<BTreeMap<String, TensorInfo>, SourceError> {
        let fail = |fault| SourceError::Torch { path: path.to_owned(), fault };
        if matches!(self.heap.get(self.root), Value::Tensor(_)) {
            return Err(fail(TorchError::Form("one tensor without a name")));
        }
        let found = tensors::tensors(&self.heap, below).map_err(fail)?;
        let located = found.into_iter().map(|(name, tensor)| {
            let info = tensors::locate(&self.heap, &self.storages, &name, tensor, file);
            info.map(|info| (name, info)).map_err(fail)
        });
        located.collect()
    }
}

#[cfg(test)]
pub(crate) mod build;
#[cfg(test)]
mod tests;
