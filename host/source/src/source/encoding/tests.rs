//! Every way of lying gives the rows of the same tensor.

use std::io::Write;

use super::*;

/// Files whose elements are these, one byte each.
fn files(contents: &[Vec<u8>]) -> Weights {
    let made = contents.iter().map(|bytes| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        (PathBuf::from("f"), file)
    });
    made.collect()
}

/// Reads every range of rows of a tensor of bytes and holds it against the whole.
fn agrees(weights: &Weights, shape: &[u64], start: u64, encoding: Encoding, whole: &[u8]) {
    let info = TensorInfo {
        dtype: DType::U8,
        stored: "U8".to_owned(),
        shape: shape.to_vec(),
        file: 0,
        start,
        end: start + whole.len() as u64,
        encoding,
    };
    let row = info.row() as usize;
    for first in 0..shape[0] {
        for last in first..=shape[0] {
            let mut out = vec![77];
            let elements = first * info.row()..last * info.row();
            read(weights, &info, elements, &mut out).unwrap();
            assert_eq!(out[0], 77);
            assert_eq!(out[1..], whole[first as usize * row..last as usize * row], "{info:?}");
        }
    }
}

#[test]
fn strides_in_any_order_and_with_gaps_are_followed() {
    let bytes: Vec<u8> = (0..120).collect();
    let weights = files(std::slice::from_ref(&bytes));
    for (shape, strides) in [
        ([2, 3, 4], [12, 4, 1]),
        ([4, 3, 2], [1, 4, 12]),
        ([3, 2, 4], [4, 12, 1]),
        ([3, 1, 5], [30, 99, 3]),
        ([2, 3, 4], [0, 7, 2]),
    ] {
        let mut whole = Vec::new();
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                for k in 0..shape[2] {
                    let at = 5 + i * strides[0] + j * strides[1] + k * strides[2];
                    whole.push(bytes[at as usize]);
                }
            }
        }
        agrees(&weights, &shape, 5, Encoding::Strided(strides.to_vec()), &whole);
    }
}

#[test]
fn a_stride_longer_than_a_chunk_is_followed() {
    let mut bytes = vec![0; 3 * CHUNK as usize];
    (bytes[1], bytes[CHUNK as usize + 6], bytes[2 * CHUNK as usize + 11]) = (1, 2, 3);
    let weights = files(&[bytes]);
    agrees(&weights, &[3], 1, Encoding::Strided(vec![CHUNK + 5]), &[1, 2, 3]);
}

#[test]
fn pieces_along_either_axis_are_joined() {
    let whole: Vec<u8> = (0..24).collect();
    // Four rows of six: the first four columns in one file, the last two in another.
    let cut = |from: usize, to: usize| -> Vec<u8> {
        let rows = whole.chunks(6).map(|row| row[from..to].to_vec());
        [vec![99], rows.collect::<Vec<_>>().concat()].concat()
    };
    let columns = files(&[cut(0, 4), cut(4, 6)]);
    let pieces = vec![
        Piece { file: 0, start: 1, first: 0, row: 4, every: 6, rows: 4 },
        Piece { file: 1, start: 1, first: 4, row: 2, every: 6, rows: 4 },
    ];
    agrees(&columns, &[4, 6], 0, Encoding::Pieces(pieces.clone()), &whole);
    agrees(&columns, &[2, 2, 6], 0, Encoding::Pieces(pieces.clone()), &whole);
    agrees(&columns, &[24], 0, Encoding::Pieces(pieces), &whole);
    // Runs that end anywhere, in three places of two files.
    let runs = files(&[whole[..7].to_vec(), [&whole[7..20], &[99; 3], &whole[20..]].concat()]);
    let run = |file, start, first, row| Piece { file, start, first, row, every: row, rows: 1 };
    let pieces = vec![run(0, 0, 0, 7), run(1, 0, 7, 13), run(1, 16, 20, 4)];
    agrees(&runs, &[4, 6], 0, Encoding::Pieces(pieces.clone()), &whole);
    agrees(&runs, &[24, 1], 0, Encoding::Pieces(pieces), &whole);
    // Rows without a gap between them are one run.
    let rows = vec![Piece { file: 0, start: 0, first: 0, row: 6, every: 6, rows: 4 }];
    agrees(&files(std::slice::from_ref(&whole)), &[4, 6], 0, Encoding::Pieces(rows), &whole);
}
