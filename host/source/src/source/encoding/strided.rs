//! Elements in another order than the tensor's own: a transposed matrix, every second column.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use engraft_files::{FileError, interrupt};

use super::{CHUNK, TensorInfo, append, exactly};

/// One axis of what is read: its extent, and how many elements it steps, in the file and in the
/// result.
#[derive(Clone, Copy)]
struct Axis {
    extent: u64,
    file: u64,
    result: u64,
}

/// Appends `rows` of a tensor whose axes step by `strides` elements.
pub(super) fn read(
    file: &(PathBuf, File),
    info: &TensorInfo,
    strides: &[u64],
    rows: Range<u64>,
    out: &mut Vec<u8>,
) -> Result<(), FileError> {
    let size = info.dtype.size() as u64;
    let mut axes: Vec<Axis> = info
        .shape
        .iter()
        .zip(strides)
        .map(|(&extent, &file)| Axis { extent, file, result: 0 })
        .collect();
    let mut start = info.start;
    if let Some(outermost) = axes.first_mut() {
        start += rows.start * outermost.file * size;
        outermost.extent = rows.end - rows.start;
    }
    let mut elements = 1;
    for axis in axes.iter_mut().rev() {
        axis.result = elements;
        elements *= axis.extent;
    }
    // What steps least in the file is read at once, and the rest around it.
    axes.retain(|axis| axis.extent != 1);
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.file));
    let run = axes.pop().unwrap_or(Axis { extent: 1, file: 1, result: 1 });
    let room = append(out, elements * size);
    let mut scratch = Vec::new();
    for number in 0..elements / run.extent.max(1) {
        let (mut left, mut from, mut to) = (number, 0, 0);
        for axis in axes.iter().rev() {
            let index = left % axis.extent;
            left /= axis.extent;
            from += index * axis.file;
            to += index * axis.result;
        }
        if number % 1024 == 0 {
            interrupt::check()?;
        }
        read_run(
            file,
            start + from * size,
            size,
            run,
            &mut scratch,
            &mut room[(to * size) as usize..],
        )?;
    }
    Ok(())
}

/// Puts the elements of one run into `room`, chunk by chunk.
fn read_run(
    file: &(PathBuf, File),
    start: u64,
    size: u64,
    run: Axis,
    scratch: &mut Vec<u8>,
    room: &mut [u8],
) -> Result<(), FileError> {
    let step = run.file.max(1) * size;
    let most = (CHUNK / step).max(1);
    let mut done = 0;
    while done < run.extent {
        let count = most.min(run.extent - done);
        scratch.resize(((count - 1) * run.file * size + size) as usize, 0);
        exactly(file, start + done * run.file * size, scratch)?;
        for i in 0..count {
            let from = (i * run.file * size) as usize;
            let to = ((done + i) * run.result * size) as usize;
            let size = size as usize;
            room[to..to + size].copy_from_slice(&scratch[from..from + size]);
        }
        done += count;
    }
    Ok(())
}
