//! An interrupt in the middle of an output. The flag is the whole process's, so this test is
//! alone in its own.

use std::collections::BTreeMap;

use engraft_files::{FileError, OutputDir, SafetensorsWriter, interrupt};
use engraft_ir::DType;

#[test]
fn an_interrupt_stops_the_writer_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let output = OutputDir::create(&root.path().join("out"), false).unwrap();
    let tensors = vec![("a".to_owned(), DType::F32, vec![2])];
    let path = output.path().join("rank0.safetensors");
    let writer = SafetensorsWriter::create(&path, BTreeMap::new(), tensors, 1).unwrap();
    let mut tensor = writer.tensor("a").unwrap();
    tensor.write(&[0; 4]).unwrap();
    assert!(!interrupt::requested());
    interrupt::request();
    assert!(matches!(tensor.write(&[0; 4]), Err(FileError::Interrupted)));
    assert!(matches!(engraft_files::digest::blake3_file(&path), Err(FileError::Interrupted)));
    drop(output);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
