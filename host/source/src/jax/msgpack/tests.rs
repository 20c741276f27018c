//! Small files by hand.

use std::io::Write;

use super::*;

fn parsed(bytes: &[u8]) -> Result<Vec<(String, Array)>, SourceError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    arrays(&file, Path::new("f"))
}

fn error(bytes: &[u8]) -> String {
    parsed(bytes).unwrap_err().to_string()
}

/// An extension of so many bytes that fit one length byte.
fn extension(kind: u8, inside: &[u8]) -> Vec<u8> {
    [&[0xc7, inside.len() as u8, kind], inside].concat()
}

fn array(shape: &[u8], kind: &str, bytes: &[u8]) -> Vec<u8> {
    let head = [0x93, 0x90 | shape.len() as u8];
    let kind = [&[0xa0 | kind.len() as u8], kind.as_bytes()].concat();
    let inside = [&head[..], shape, &kind, &[0xc4, bytes.len() as u8], bytes].concat();
    extension(1, &inside)
}

fn map(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = vec![0x80 | entries.len() as u8];
    for (key, value) in entries {
        all.extend([&[0xd9, key.len() as u8], key.as_bytes(), value].concat());
    }
    all
}

#[test]
fn values_of_all_kinds_are_stepped_over() {
    let values: &[&[u8]] = &[
        &[0x05],
        &[0xff],
        &[0xc0],
        &[0xc3],
        &[0xca, 0, 0, 0, 0],
        &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xcd, 1, 0],
        &[0xd3, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0xa2, b'h', b'i'],
        &[0xc4, 1, 9],
        &[0x92, 1, 2],
        &[0xdc, 0, 1, 0x80],
        &[0xde, 0, 0],
        &[0xd4, 2, 0],
    ];
    for value in values {
        let file = map(&[("a", value), ("b", &array(&[2], "uint8", &[7, 8]))]);
        let found = parsed(&file).unwrap();
        let start = file.len() as u64 - 2;
        let expected = Array { kind: "uint8".into(), shape: vec![2], pieces: vec![(start, 2)] };
        assert_eq!(found, [("b".to_owned(), expected)], "{value:?}");
    }
}

#[test]
fn pieces_are_one_array_and_none_may_be_missing() {
    let piece = array(&[1], "uint8", &[7]);
    let pieces = |numbers: &[&str]| {
        let chunks: Vec<(&str, &[u8])> = numbers.iter().map(|n| (*n, &piece[..])).collect();
        let shape = map(&[("0", &[1]), ("1", &[2])]);
        map(&[("w", &map(&[(CHUNKED, &[0xc3]), ("shape", &shape), ("chunks", &map(&chunks))]))])
    };
    let found = parsed(&pieces(&["1", "0"])).unwrap();
    let [(name, Array { shape, pieces: places, .. })] = &found[..] else { panic!("{found:?}") };
    assert_eq!((name.as_str(), &shape[..], places.len()), ("w", &[1, 2][..], 2));
    assert!(places[0].0 > places[1].0, "by number and not as they come");
    assert!(error(&pieces(&["0", "2"])).contains("missing"));
    assert!(error(&pieces(&[])).contains("there are none"));
    assert!(error(&map(&[(CHUNKED, &[0xc3]), ("more", &[1])])).contains("more than"));
}

#[test]
fn what_is_malformed_is_told_with_its_place() {
    for (bytes, what) in [
        (vec![], "at byte 0: a number needs 1 bytes, but 0 are left"),
        (vec![0xc1], "c1"),
        (vec![0x81, 0xc0, 1], "a key is neither"),
        (vec![0x81, 0xa1, 0xff, 1], "a key is not UTF-8"),
        (vec![0xdb, 255, 255, 255, 255], "a text needs 4294967295 bytes"),
        (vec![0x81, 0xdb, 255, 255, 255, 255], "too long"),
        (vec![0x91; 100], "more than 64 deep"),
        (extension(9, &[1]), "extension 9 is none"),
        (extension(1, &[0x92, 1, 1]), "its shape, type and bytes"),
        (extension(1, &[0x93, 1, 1, 1]), "no list"),
        (extension(1, &[0x93, 0x91, 0xff, 1, 1]), "below zero"),
        (extension(1, &[0x93, 0x90, 1, 1]), "no text"),
        (extension(1, &[0x93, 0x90, 0xa1, b'x', 0xc4, 0, 0]), "takes 6 bytes of the 7"),
        (vec![0xc9, 255, 255, 255, 255, 1, 0x93], "an array needs 4294967295 bytes"),
    ] {
        assert!(error(&bytes).contains(what), "{bytes:x?}: {}", error(&bytes));
    }
}
