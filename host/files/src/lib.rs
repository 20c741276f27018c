//! What every room that touches a disk shares.
//!
//! - [`header`] reads safetensors headers, believing nothing that they say;
//! - [`writer`] writes safetensors files whose bytes depend on their content alone;
//! - [`output`] makes directories that appear whole under their final name, or not at all;
//! - [`digest`] hashes bytes and files in bounded memory;
//! - [`interrupt`] lets a long loop stop between two chunks;
//! - [`journal`] says what an interrupted run has done already;
//! - [`read`] reads small files whole, with a bound.

pub mod digest;
mod error;
pub mod header;
pub mod interrupt;
pub mod journal;
pub mod layout;
pub mod output;
mod output_file;
pub mod read;
pub mod space;
pub mod writer;

pub use error::FileError;
pub use header::{Header, HeaderError, TensorEntry};
pub use journal::Journal;
pub use layout::Layout;
pub use output::OutputDir;
pub use output_file::OutputFile;
pub use writer::SafetensorsWriter;
