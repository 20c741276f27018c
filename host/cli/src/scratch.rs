//! Engines that a command compiles for itself.

use anyhow::Result;
use engraft_compile::BuildOptions;
use engraft_convert::{Effort, Pipeline};
use engraft_files::OutputDir;
use std::path::Path;

/// An engine in a temporary folder, which is gone when this is dropped.
pub struct Scratch(OutputDir);

impl Scratch {
    /// Compiles a model; `what` tells the folder from others of this process.
    ///
    /// # Errors
    /// As [`Pipeline::compile`], and what the file system says of the folder.
    pub fn compile(pipeline: &Pipeline, what: &str, effort: &Effort<'_>) -> Result<Scratch> {
        let name = format!("engraft-{}-{what}", std::process::id());
        let directory = OutputDir::create(&std::env::temp_dir().join(name), false)?;
        pipeline.compile(BuildOptions::default(), directory.path(), effort, None)?;
        Ok(Scratch(directory))
    }

    /// The engine's directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
