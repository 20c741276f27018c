//! What is written must be what the format says, to our reader and to another's.

use super::*;
use crate::header::bytes_of;
use crate::{digest, header};
use engraft_ir::DType;

type Tensors = Vec<(String, DType, Vec<u64>)>;

fn declared() -> Tensors {
    vec![
        ("b".to_owned(), DType::F32, vec![3]),
        ("empty".to_owned(), DType::F32, vec![0, 4]),
        ("a".to_owned(), DType::BF16, vec![2, 5]),
        ("scalar".to_owned(), DType::U8, vec![]),
    ]
}

fn metadata() -> BTreeMap<String, String> {
    [("digests", "00000000"), ("text", "a \"quoted\"\nline with \"digests\":\"00000000\" in it")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn write_all(path: &Path, align: usize) {
    let mut writer = SafetensorsWriter::create(path, metadata(), declared(), align).unwrap();
    // The last first: any order will do.
    for (name, dtype, shape) in declared().into_iter().rev() {
        let mut tensor = writer.tensor(&name).unwrap();
        let bytes: Vec<u8> = (0..bytes_of(dtype, &shape).unwrap()).map(|i| i as u8 + 1).collect();
        // In pieces, as they come.
        for piece in bytes.chunks(7) {
            tensor.write(piece).unwrap();
        }
        tensor.finish().unwrap();
    }
    let digest = writer.digests().unwrap()["b"][..8].to_owned();
    writer.patch("digests", &digest).unwrap();
    writer.finish().unwrap();
}

#[test]
fn our_reader_and_the_libraries_read_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    for align in [1, 64, 4096] {
        let path = directory.path().join(format!("{align}.safetensors"));
        write_all(&path, align);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, ours) = header::read(&path).unwrap();
        assert_eq!(ours.data_start % align as u64, 0);
        for (name, dtype, shape) in declared() {
            let entry = &ours.tensors[&name];
            assert_eq!((entry.dtype, &entry.shape), (dtype, &shape));
            assert_eq!(entry.start % align as u64, 0, "{name} is aligned");
            let data = &bytes[entry.start as usize..entry.end as usize];
            assert_eq!(theirs.tensor(&name).unwrap().data(), data);
            assert!(data.iter().enumerate().all(|(i, byte)| *byte == i as u8 + 1), "{name}");
        }
        let expected = digest::blake3_hex(&(1..=12).collect::<Vec<u8>>());
        assert_eq!(ours.metadata["digests"], expected[..8], "the patch, and only where it belongs");
        assert_eq!(ours.metadata["text"], metadata()["text"]);
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("1"), directory.path().join("2"));
    write_all(&one, 4096);
    write_all(&two, 4096);
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
}

#[test]
fn a_wrong_name_a_wrong_length_and_a_missing_tensor_are_our_own_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    let new = || SafetensorsWriter::create(&path, metadata(), declared(), 1).unwrap();
    let text = |result: Result<(), FileError>| result.unwrap_err().to_string();
    assert!(text(new().put("c", &[])).ends_with("`c` was not declared"));
    let mut writer = new();
    assert!(text(writer.put("b", &[0; 13])).ends_with("`b` gets 1 bytes too many"));
    assert!(text(writer.put("b", &[0; 11])).ends_with("`b` lacks 1 bytes"));
    writer.put("b", &[0; 12]).unwrap();
    assert!(text(writer.patch("digests", "1")).ends_with("changes its length"));
    assert!(text(writer.finish()).ends_with("`a` was never written"));
    let mut twice = declared();
    twice.extend(declared());
    assert!(SafetensorsWriter::create(&path, metadata(), twice, 1).is_err());
}

#[test]
fn what_an_earlier_run_left_is_kept_where_its_digest_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    write_all(&path, 64);
    let whole = std::fs::read(&path).unwrap();
    let digest_of = |count: u8| digest::blake3_hex(&(1..=count).collect::<Vec<u8>>());
    let mut writer = SafetensorsWriter::reopen(&path, metadata(), declared(), 64).unwrap();
    assert!(!writer.keep("b", &digest_of(11)).unwrap());
    assert!(writer.keep("b", &digest_of(12)).unwrap());
    assert!(writer.keep("a", &digest_of(20)).unwrap());
    assert!(writer.keep("empty", &digest_of(0)).unwrap());
    assert!(writer.digests().is_err());
    writer.put("scalar", &[1]).unwrap();
    let digest = writer.digests().unwrap()["b"][..8].to_owned();
    writer.patch("digests", &digest).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn a_full_disk_is_told_as_such() {
    // Every write to this device fails as on a full disk.
    let tensors = vec![("a".to_owned(), DType::U8, vec![4 << 20])];
    let error = SafetensorsWriter::create(Path::new("/dev/full"), metadata(), tensors, 1).err();
    let code = engraft_diagnostic::Diagnostic::code(&error.unwrap());
    assert_eq!(code.to_string(), "EG0013");
}
