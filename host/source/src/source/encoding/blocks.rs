//! Elements in ggml's blocks, de-quantised as they are read.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use engraft_files::{FileError, interrupt};

use super::{CHUNK, exactly};
use crate::gguf::BlockType;

/// Appends a range of the elements of a tensor of blocks that begins at byte `start`, as `F32`.
pub(super) fn read(
    file: &(PathBuf, File),
    start: u64,
    kind: BlockType,
    elements: Range<u64>,
    out: &mut Vec<u8>,
) -> Result<(), FileError> {
    let (per, size) = (kind.elements() as u64, kind.bytes() as u64);
    let mut block = elements.start / per;
    let last = elements.end.div_ceil(per);
    let mut raw = Vec::new();
    let mut values = vec![0.0; kind.elements()];
    out.reserve(((elements.end - elements.start) * 4) as usize);
    while block < last {
        interrupt::check()?;
        let count = (CHUNK / size).min(last - block);
        raw.resize((count * size) as usize, 0);
        exactly(file, start + block * size, &mut raw)?;
        for bytes in raw.chunks_exact(kind.bytes()) {
            kind.dequantize(bytes, &mut values);
            // A tensor of one axis may be asked for the middle of a block.
            let first = block * per;
            let from = elements.start.saturating_sub(first).min(per) as usize;
            let to = (elements.end - first).min(per) as usize;
            out.extend(values[from..to].iter().flat_map(|value| value.to_le_bytes()));
            block += 1;
        }
    }
    Ok(())
}
