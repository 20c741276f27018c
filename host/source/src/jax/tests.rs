//! One tree as the real packages write it, in each of their forms: `tests/tools` has the script.

use std::fs;

use engraft_diagnostic::{Code, Diagnostic};
use half::{bf16, f16};
use tempfile::TempDir;

use super::*;
use crate::Source;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/jax")
}

/// A copy of a fixture with all that is in it, and a config.
fn copied(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            match path.is_dir() {
                true => copy(&path, &to),
                false => assert!(fs::copy(&path, &to).is_ok()),
            }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    copy(&fixtures().join(name), directory.path());
    fs::copy(fixtures().join("config.json"), directory.path().join("config.json")).unwrap();
    directory
}

fn whole(source: &Source, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let rows = source.tensors()[name].shape.first().copied().unwrap_or(1);
    source.read(name, 0..rows, &mut bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    // Row by row is the same.
    let mut rowwise = Vec::new();
    (0..rows).for_each(|row| source.read(name, row..row + 1, &mut rowwise).unwrap());
    assert!(bytes == rowwise, "{name}");
    bytes
}

fn floats(values: impl Iterator<Item = u16>) -> Vec<u8> {
    values.flat_map(|value| f32::from(value).to_le_bytes()).collect()
}

/// 0, 1, 2, … as `[rows, columns]`, transposed.
fn transposed(rows: u16, columns: u16) -> Vec<u8> {
    floats((0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)))
}

#[test]
fn every_form_of_a_tree_gives_the_same_tensors() {
    for form in ["flax", "pieces", "ocdbt", "zarr", "zarr3", "ocdbt_zarr3"] {
        let source = Source::open(&fixtures().join(form)).unwrap_or_else(|e| panic!("{form}: {e}"));
        assert_eq!(source.dialect(), "hugging-face");
        assert_eq!(source.architectures(), ["TinyForCausalLM"]);
        assert_eq!(source.dtype(), DType::F32);
        let shapes: Vec<_> = source
            .tensors()
            .iter()
            .map(|(name, info)| (name.as_str(), info.dtype, info.shape.as_slice()))
            .collect();
        assert_eq!(
            shapes,
            [
                ("lm_head.weight", DType::F32, &[6, 4][..]),
                ("model.embed.weight", DType::BF16, &[5, 4]),
                ("model.layers.0.norm.weight", DType::F16, &[7]),
                ("model.layers.0.proj.bias", DType::BF16, &[30]),
                ("model.layers.0.proj.weight", DType::F32, &[30, 40]),
                ("model.layers.1.proj.weight", DType::F32, &[30, 40]),
            ],
            "{form}"
        );
        assert_eq!(whole(&source, "lm_head.weight"), transposed(4, 6), "{form}");
        assert_eq!(whole(&source, "model.layers.0.proj.weight"), transposed(40, 30), "{form}");
        assert_eq!(whole(&source, "model.layers.1.proj.weight"), vec![0; 4800], "{form}");
        let table = (0..20u8).flat_map(|n| bf16::from_f32(n.into()).to_le_bytes());
        assert_eq!(whole(&source, "model.embed.weight"), table.collect::<Vec<_>>(), "{form}");
        let gains = (0..7u8).flat_map(|n| f16::from_f32(n.into()).to_le_bytes());
        assert_eq!(whole(&source, "model.layers.0.norm.weight"), gains.collect::<Vec<_>>());
    }
}

#[test]
fn chunks_in_a_deep_tree_and_chunks_in_chunks_are_found() {
    let deep = Source::open(&fixtures().join("deep")).unwrap();
    assert_eq!(deep.tensors().len(), 12);
    for i in 0..12u16 {
        let values = (0..6).flat_map(|c| (0..5).map(move |r| r * 6 + c + i));
        let name = format!("layers.{i}.some.long.name.weight");
        assert_eq!(whole(&deep, &name), floats(values));
    }
    let sharded = Source::open(&fixtures().join("sharded")).unwrap();
    let values = (0..7).flat_map(|c| (0..5).map(move |r| r * 7 + c + 1));
    assert_eq!(whole(&sharded, "proj.weight"), floats(values));
}

fn refused(path: &Path) -> SourceError {
    let error = Source::open(path).map(|_| ()).unwrap_err();
    assert!(error.help().is_some() && error.location().is_some(), "{error:?}");
    error
}

#[test]
fn a_checkpoint_is_found_below_its_manager_and_a_config_above_it() {
    let manager = tempfile::tempdir().unwrap();
    let step = manager.path().join("3");
    fs::create_dir(&step).unwrap();
    fs::rename(copied("ocdbt").keep(), step.join("default")).unwrap();
    let opened = Source::open(manager.path()).unwrap();
    assert_eq!(opened.config_path(), step.join("default/config.json"));
    fs::rename(step.join("default/config.json"), manager.path().join("config.json")).unwrap();
    assert_eq!(Source::open(manager.path()).unwrap().tensors().len(), 6);
    assert_eq!(Source::open(&step).unwrap().tensors().len(), 6);
    let error = refused(&step.join("default"));
    assert_eq!(error.code(), Code(162));
    assert!(error.help().unwrap().contains("config.json"));
    fs::rename(copied("zarr").keep(), manager.path().join("4")).unwrap();
    let error = refused(manager.path());
    assert_eq!(error.code(), Code(154));
    assert_eq!(error.to_string(), "the directory holds 2 checkpoints: 3/default, 4");
}

#[test]
fn what_a_checkpoint_lacks_is_named() {
    let lost = copied("zarr");
    fs::remove_file(lost.path().join("params.lm_head.kernel/0.0")).unwrap();
    let error = refused(lost.path());
    let what = "array `params.lm_head.kernel` lacks its chunk `params.lm_head.kernel/0.0`";
    assert_eq!((error.code(), error.to_string().as_str()), (Code(158), what));
    let unmerged = copied("ocdbt");
    fs::remove_file(unmerged.path().join("manifest.ocdbt")).unwrap();
    let error = refused(unmerged.path());
    assert_eq!(error.code(), Code(155));
    assert!(error.to_string().ends_with("what its processes wrote was not merged"), "{error}");
    let no_data = copied("ocdbt");
    fs::remove_dir_all(no_data.path().join("d")).unwrap();
    assert_eq!(refused(no_data.path()).code(), Code(11));
    let shards = copied("flax");
    let index = r#"{"weight_map": {"lm_head/kernel": "a.msgpack", "x": "b.msgpack"}}"#;
    fs::write(shards.path().join("flax_model.msgpack.index.json"), index).unwrap();
    fs::rename(shards.path().join("flax_model.msgpack"), shards.path().join("a.msgpack")).unwrap();
    assert_eq!(refused(shards.path()).to_string(), "1 of 2 shards are missing: b.msgpack");
    fs::copy(shards.path().join("a.msgpack"), shards.path().join("b.msgpack")).unwrap();
    assert_eq!(refused(shards.path()).code(), Code(109));
}

#[test]
fn ways_of_storing_that_are_not_read_are_told() {
    let metadata = |change: &str| {
        let base = r#"{"chunks":[1],"compressor":null,"dtype":"<f4","filters":null,"order":"C","shape":[1],"zarr_format":2}"#;
        let mut value: serde_json::Value = serde_json::from_str(base).unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        value.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        value.to_string()
    };
    for (change, code, what) in [
        (r#"{"compressor":{"id":"blosc"}}"#, 157, "compressor `blosc`"),
        (r#"{"filters":[{"id":"delta"}]}"#, 157, "filters"),
        (r#"{"shape":[1,1],"chunks":[1,1],"order":"F"}"#, 157, "order `F`"),
        (r#"{"chunks":[0]}"#, 156, "`chunks`"),
        (r#"{"chunks":[1,1]}"#, 156, "`chunks`"),
        (r#"{"shape":"x"}"#, 156, "`shape`"),
        (r#"{"zarr_format":4}"#, 156, "`zarr_format`"),
        (r#"{"dtype":">f4"}"#, 152, "unknown type `>f4`"),
        (r#"{"shape":[2]}"#, 158, "lacks its chunk `a.w/1`"),
        (r#"{"shape":[18446744073709551615],"chunks":[18446744073709551615]}"#, 156, "counting"),
        (r#"{"shape":[18446744073709551615]}"#, 156, "counting"),
        (r#"{"shape":[2],"chunks":[2]}"#, 151, "chunk `a.w/0` has 4 bytes and not 8"),
    ] {
        let directory = copied("zarr");
        let array = directory.path().join("params.a.w");
        fs::create_dir(&array).unwrap();
        fs::write(array.join(".zarray"), metadata("{}")).unwrap();
        fs::write(array.join("0"), [0; 4]).unwrap();
        fs::create_dir(array.join("0.0")).ok();
        fs::write(array.join(".zarray"), metadata(change)).unwrap();
        let error = refused(directory.path());
        assert_eq!(error.code(), Code(code), "{change}: {error}");
        let text = error.to_string().replace("params.a", "a");
        assert!(text.contains(what), "{change}: {text}");
    }
}

/// Opens a source and reads all of it; an error is as good as none.
fn open_and_read(path: &Path) {
    let Ok(source) = Source::open(path) else { return };
    for (name, info) in source.tensors() {
        let rows = info.shape.first().copied().unwrap_or(1).min(64);
        let _ = source.read(name, 0..rows, &mut Vec::new());
    }
}

#[test]
fn no_file_cut_or_with_a_flipped_bit_does_harm() {
    for form in ["flax", "pieces", "ocdbt", "zarr", "ocdbt_zarr3", "sharded"] {
        let directory = copied(form);
        let mut files = vec![directory.path().to_owned()];
        while let Some(at) = files.iter().position(|path| path.is_dir()) {
            let folder = files.swap_remove(at);
            files.extend(fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        }
        for path in files.iter().filter(|path| !path.ends_with("config.json")) {
            let sound = fs::read(path).unwrap();
            // Every byte of a database's structure, some of the rest.
            let every = form == "ocdbt" && sound.len() < 700;
            let step = if every { 1 } else { sound.len() / 20 + 1 };
            for at in (0..sound.len()).step_by(step) {
                fs::write(path, &sound[..at]).unwrap();
                open_and_read(directory.path());
                let mut flipped = sound.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(path, &flipped).unwrap();
                open_and_read(directory.path());
            }
            fs::write(path, &sound).unwrap();
        }
        assert_eq!(Source::open(directory.path()).map(|_| ()).ok(), Some(()));
    }
}

#[test]
fn a_cut_msgpack_file_is_always_an_error() {
    let directory = copied("flax");
    let path = directory.path().join("flax_model.msgpack");
    let sound = fs::read(&path).unwrap();
    for end in (0..sound.len()).step_by(7) {
        fs::write(&path, &sound[..end]).unwrap();
        let error = refused(directory.path());
        assert_eq!(error.code(), Code(150), "{end}: {error}");
    }
    fs::write(&path, [&sound[..], b"x"].concat()).unwrap();
    assert!(refused(directory.path()).to_string().ends_with("1 bytes follow the end"));
}
