//! The checkpoint on disk: config.json and rank files, both directions.
