//! The pipeline: a source and a plugin become a checkpoint or, without one on disk, an engine.
