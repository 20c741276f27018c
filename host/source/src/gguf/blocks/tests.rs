//! Blocks against what the `gguf` Python package makes of them.

use super::*;

/// Made by `fixtures/ggml_blocks.py`: for every kind, bytes and the weights expected of them.
const FIXTURE: &[u8] = include_bytes!("../../../fixtures/ggml_blocks.safetensors");

#[test]
fn every_kind_is_dequantised_bit_for_bit_as_the_reference() {
    let path = std::path::Path::new("ggml_blocks.safetensors");
    let header = engraft_files::header::read_bytes(path, FIXTURE).unwrap();
    let data = |name: String| {
        let entry = &header.tensors[&name];
        &FIXTURE[entry.start as usize..entry.end as usize]
    };
    for (kind, _, name, elements, bytes) in KINDS {
        let blocks = data(format!("{name}.blocks"));
        let expected = data(format!("{name}.f32"));
        assert_eq!(blocks.len() / bytes * elements * 4, expected.len(), "{name}");
        assert!(blocks.len() / bytes >= 4, "{name}");
        let mut out = vec![0.0; elements];
        for (block, expected) in blocks.chunks_exact(bytes).zip(expected.chunks_exact(elements * 4))
        {
            kind.dequantize(block, &mut out);
            let got: Vec<u8> = out.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(got, expected, "{name}");
        }
    }
}

#[test]
fn every_kind_is_at_its_place_in_the_table() {
    for (index, (kind, number, name, ..)) in KINDS.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
        assert_eq!(format!("{kind:?}"), name);
        assert_eq!(BlockType::from_number(number), Some(kind));
    }
    assert_eq!(BlockType::from_number(9), None);
}
