//! Chunks of any shape, packed or not, give the rows of the same tensor in every order of axes.

use std::path::PathBuf;

use super::store::{Packing, Place};
use super::*;

/// The elements of an array, by their indices: each its number in row-major order.
fn number(extents: &[u64], index: &[u64]) -> u64 {
    extents.iter().zip(index).fold(0, |number, (extent, at)| number * extent + at)
}

fn indices(extents: &[u64]) -> Vec<Vec<u64>> {
    let count = extents.iter().product();
    let of = |mut left: u64| {
        let mut index = vec![0; extents.len()];
        for (at, extent) in index.iter_mut().zip(extents).rev() {
            (*at, left) = (left % extent, left / extent);
        }
        index
    };
    (0..count).map(of).collect()
}

/// An element's bytes.
fn element(number: u64, size: u64) -> Vec<u8> {
    (number * 2_654_435_761).to_le_bytes()[..size as usize].to_vec()
}

fn grid(size: u64, extents: &[u64], chunk: &[u64], order: &[usize]) -> Grid {
    let counts: Vec<u64> = extents.iter().zip(chunk).map(|(e, c)| e.div_ceil(*c)).collect();
    let chunks = indices(&counts).into_iter().map(|at| {
        let mut bytes = Vec::new();
        for inside in indices(chunk) {
            let index: Vec<u64> =
                at.iter().zip(chunk).zip(&inside).map(|((a, c), i)| a * c + i).collect();
            let within = index.iter().zip(extents).all(|(i, e)| i < e);
            let number = if within { number(extents, &index) } else { u64::MAX / 3_000_000_000 };
            bytes.extend(element(number, size));
        }
        // In two places, wherever that cuts.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        let places = vec![Place::Inline(first.into()), Place::Inline(second.into())];
        Chunk { places, packing: Packing::None }
    });
    Grid {
        size,
        extents: extents.to_vec(),
        chunk: chunk.to_vec(),
        chunks: chunks.collect(),
        order: order.to_vec(),
        store: Arc::new(Store::new(Vec::new())),
    }
}

/// Reads every range of rows and holds it against the elements one by one.
fn agrees(grid: &Grid) {
    let shape = grid.shape();
    let rows = shape.first().copied().unwrap_or(1);
    let row: u64 = shape.iter().skip(1).product();
    let whole: Vec<u8> = indices(&shape)
        .into_iter()
        .flat_map(|index| {
            let mut stored = vec![0; index.len()];
            grid.order.iter().zip(&index).for_each(|(axis, at)| stored[*axis] = *at);
            element(number(&grid.extents, &stored), grid.size)
        })
        .collect();
    for first in 0..rows {
        for last in first..=rows {
            let mut room = vec![0; ((last - first) * row * grid.size) as usize];
            read(grid, first..last, &mut room).unwrap();
            let from = (first * row * grid.size) as usize;
            assert!(room == whole[from..from + room.len()], "{first}..{last} of {grid:?}");
        }
    }
}

#[test]
fn chunks_and_orders_of_all_kinds() {
    agrees(&grid(4, &[], &[], &[]));
    agrees(&grid(2, &[7], &[3], &[0]));
    for size in [1, 2, 4, 8] {
        for chunk in [[1, 1], [5, 7], [2, 3], [5, 2], [8, 9], [1, 7]] {
            agrees(&grid(size, &[5, 7], &chunk, &[0, 1]));
            agrees(&grid(size, &[5, 7], &chunk, &[1, 0]));
        }
    }
    for chunk in [[4, 3, 5], [2, 2, 2], [1, 3, 4]] {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            agrees(&grid(2, &[4, 3, 5], &chunk, &order));
            agrees(&grid(2, &[4, 1, 5], &chunk, &order));
        }
    }
}

/// A matrix of more than what is turned at once, both ways.
#[test]
fn large_matrices_are_turned_piece_by_piece() {
    for (extents, rows) in
        [([3, 400_000], 399_990..399_995), ([400_000, 3], 0..3), ([900, 1100], 0..1100)]
    {
        let grid = grid(4, &extents, &extents, &[1, 0]);
        let mut room = vec![0; ((rows.end - rows.start) * extents[0] * 4) as usize];
        read(&grid, rows.clone(), &mut room).unwrap();
        let expected = rows.flat_map(|column| {
            (0..extents[0]).flat_map(move |row| element(row * extents[1] + column, 4))
        });
        assert!(room.into_iter().eq(expected), "{extents:?}");
    }
}

/// A zstd frame whose blocks are raw: a frame that any packer might write.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((bytes.len() as u32).to_le_bytes());
    let blocks: Vec<&[u8]> = bytes.chunks(1 << 17).collect();
    for (i, block) in blocks.iter().enumerate() {
        let last = u32::from(i + 1 == blocks.len());
        frame.extend(&(last | (block.len() as u32) << 3).to_le_bytes()[..3]);
        frame.extend(*block);
    }
    frame
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn packed_chunks_are_unpacked_small_and_large() {
    type Pack = fn(&[u8]) -> Vec<u8>;
    let packers: [(Packing, Pack); 3] =
        [(Packing::Zstd, zstd), (Packing::Gzip, gzip), (Packing::Zlib, zlib)];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chunk");
    for (packing, pack) in packers {
        // The second is larger than what is held in memory.
        for extents in [[30, 40], [1000, 600]] {
            let plain: Vec<u8> = (0..extents[0] * extents[1]).flat_map(|n| element(n, 4)).collect();
            let packed = pack(&plain);
            std::fs::write(&path, &packed).unwrap();
            let of = |length: u64, extents: [u64; 2]| {
                let places = vec![Place::File { file: 0, start: 0, length }];
                Grid {
                    size: 4,
                    extents: extents.to_vec(),
                    chunk: extents.to_vec(),
                    chunks: vec![Chunk { places, packing }],
                    order: vec![0, 1],
                    store: Arc::new(Store::new(vec![PathBuf::from(&path)])),
                }
            };
            let mut room = vec![0; plain.len() / 2];
            let rows = extents[0] / 2..extents[0];
            read(&of(packed.len() as u64, extents), rows, &mut room).unwrap();
            assert!(room == plain[plain.len() / 2..], "{packing:?}");
            // Less than it should be, more, and cut.
            for (length, extents) in [
                (packed.len() as u64, [extents[0] + 1, extents[1]]),
                (packed.len() as u64, [extents[0] - 1, extents[1]]),
                (packed.len() as u64 - 9, extents),
            ] {
                let error = read(&of(length, extents), 0..1, &mut [0; 4000]).unwrap_err();
                assert!(error.to_string().starts_with("a chunk is malformed"), "{error}");
            }
        }
    }
}
