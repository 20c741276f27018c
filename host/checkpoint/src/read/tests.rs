//! Checkpoints written and read back, and what is turned down.

use super::*;
use crate::{WEIGHTS_FILE, write};
use engraft_diagnostic::{Diagnostic, Fault};
use engraft_ir::{Axis, DType, Meaning};
use engraft_weights::{Cut, Effort, Provider, Share, WeightError};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

/// Parameters in memory: name, shape, `f32` elements, what it is tied to.
struct Memory {
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
    bytes: BTreeMap<String, Vec<u8>>,
}

impl Memory {
    fn new() -> Memory {
        Memory { names: Vec::new(), supplies: BTreeMap::new(), bytes: BTreeMap::new() }
    }

    fn with(mut self, name: &str, shape: &[u64], tied: Option<&str>) -> Memory {
        let seed = if tied.is_some() { 0 } else { self.names.len() as u64 };
        let count: u64 = shape.iter().product();
        let values = (0..count).map(|i| (i * 31 + seed * 7) as f32 / 16.0);
        let bytes = values.flat_map(f32::to_le_bytes).collect();
        let axes = shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
        let supply = Supply { dtype: DType::F32, axes, tied: tied.map(str::to_owned) };
        self.names.push(name.to_owned());
        self.supplies.insert(name.to_owned(), supply);
        self.bytes.insert(name.to_owned(), bytes);
        self
    }

    /// A model of two blocks in the order of its places, which is not that of the alphabet.
    fn model() -> Memory {
        Memory::new()
            .with(EMBEDDING, &[10, 4], None)
            .with("transformer.layers.0.mlp.fc.weight", &[3, 4], None)
            .with("transformer.layers.0.input_layernorm.weight", &[4], None)
            .with("transformer.layers.10.input_layernorm.weight", &[4], None)
            .with("transformer.ln_f.weight", &[4], None)
            .with(HEAD, &[10, 4], Some(EMBEDDING))
    }
}

impl Provider for Memory {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        for piece in self.bytes[name].chunks(24) {
            sink(piece)?;
        }
        Ok(())
    }
}

fn config(own: Value) -> Config {
    let mut value = json!({
        "architecture": "LlamaForCausalLM", "dtype": "float32", "hidden_size": 4,
        "num_hidden_layers": 2, "num_attention_heads": 1,
    });
    value.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    Config::from_json(&value).unwrap()
}

fn tied() -> Config {
    config(json!({"tie_word_embeddings": true, "rotary_scaling": {"factor": 2.0}}))
}

/// All parameters, whole.
fn all(model: &Memory) -> Vec<Share> {
    let share = |name: &String| {
        let cut = Cut::whole(&model.supplies[name].shape());
        Share { name: name.clone(), source: name.clone(), cut }
    };
    model.names.iter().map(share).collect()
}

fn written(config: &Config, model: &Memory) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let texts = BTreeMap::from([("tokenizer.json".to_owned(), b"{}".to_vec())]);
    let provenance = json!({"source": "model", "plugin": {"name": "llama"}});
    write(directory.path(), config, model, &[all(model)], &texts, &provenance, &Effort::default())
        .unwrap();
    directory
}

fn stream(provider: &dyn Provider, name: &str) -> Result<Vec<u8>, WeightError> {
    let mut out = Vec::new();
    provider.stream(name, &mut |bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(out)
}

/// A directory with a weight file of other tensors, as another tool would write it.
fn foreign(config: &Config, tensors: &[(&str, &[usize], Vec<f32>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let path = directory.path();
    safetensors::serialize_to_file(views, None, &path.join(WEIGHTS_FILE)).unwrap();
    std::fs::write(path.join(CONFIG_FILE), config.to_json().to_string()).unwrap();
    directory
}

/// Joins a checkpoint of one rank, which has all of these.
fn expect(reader: &Reader, wholes: &[(String, Vec<u64>)]) -> Result<Joined, CheckpointError> {
    let share = |(name, shape): &(String, Vec<u64>)| Share {
        name: name.clone(),
        source: name.clone(),
        cut: Cut::whole(shape),
    };
    reader.join(&[wholes.iter().map(share).collect()], wholes)
}

fn open_error(directory: &Path) -> CheckpointError {
    Reader::open(directory).err().unwrap()
}

#[test]
fn what_is_written_reads_back_bit_for_bit_and_in_the_order_of_places() {
    let model = Memory::model();
    let directory = written(&tied(), &model);
    let mut reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.names(), model.names());
    assert_eq!(*reader.config(), tied());
    let shape = |name: &String| (name.clone(), model.get(name).unwrap().shape());
    let wholes: Vec<_> = model.names().iter().map(shape).collect();
    for piece in [8, 16, PIECE] {
        Arc::get_mut(&mut reader.files).unwrap().piece = piece;
        let joined = expect(&reader, &wholes).unwrap();
        for name in model.names() {
            assert_eq!(stream(&joined, name).unwrap(), model.bytes[name], "{name}");
            assert_eq!(reader.get(name), model.get(name));
        }
    }
    assert_eq!(reader.text_files()["tokenizer.json"], b"{}");
    assert_eq!(reader.provenance().unwrap()["plugin"]["name"], "llama");
    assert_eq!(reader.digests()[0].len(), 6);
    let verified = reader.verify(&|done, total| assert!(done <= total)).unwrap();
    assert_eq!((verified.len(), verified[0].tensors), (1, 6));
    let joined = expect(&reader, &wholes).unwrap();
    assert!(matches!(stream(&joined, "x"), Err(WeightError::Unknown { .. })));
}

#[test]
fn a_record_of_the_first_versions_is_read() {
    let directory = written(&tied(), &Memory::model());
    let path = directory.path().join(RECORD_FILE);
    let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut old = json!({"format": 1, "engraft": "0.1.0", "provenance": record["provenance"]});
    std::fs::write(&path, old.to_string()).unwrap();
    assert!(open_error(directory.path()).to_string().contains("it has no digests"));
    old["digests"] = record["ranks"][0].clone();
    std::fs::write(&path, old.to_string()).unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.verify(&|_, _| ()).unwrap()[0].tensors, 6);
}

#[test]
fn the_weight_file_is_plain_and_holds_a_tied_head_as_well() {
    let directory = written(&tied(), &Memory::model());
    let bytes = std::fs::read(directory.path().join(WEIGHTS_FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 6);
    assert_eq!(file.tensor(HEAD).unwrap().data(), file.tensor(EMBEDDING).unwrap().data());
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let (one, two) = (written(&tied(), &Memory::model()), written(&tied(), &Memory::model()));
    for name in [CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE, "tokenizer.json"] {
        let read =
            |directory: &tempfile::TempDir| std::fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read(&one), read(&two), "{name}");
    }
}

#[test]
fn progress_ends_where_it_said_it_would() {
    let directory = tempfile::tempdir().unwrap();
    let heard = std::sync::Mutex::new(Vec::new());
    let note = |done, total| heard.lock().unwrap().push((done, total));
    let effort = Effort { progress: &note, ..Effort::default() };
    let (model, texts) = (Memory::model(), BTreeMap::new());
    let ranks = [all(&model)];
    write(directory.path(), &tied(), &model, &ranks, &texts, &Value::Null, &effort).unwrap();
    let heard = heard.into_inner().unwrap();
    let total = 4 * (40 + 12 + 4 + 4 + 4 + 40);
    assert_eq!((heard[0], heard[heard.len() - 1]), ((0, total), (total, total)));
    assert!(heard.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn a_tied_head_may_be_absent_or_the_embedding_but_nothing_else() {
    let table: Vec<f32> = (0..8).map(|i| i as f32).collect();
    let head = |values: Vec<f32>, shape: &'static [usize]| {
        foreign(&tied(), &[(EMBEDDING, &[4, 2], table.clone()), (HEAD, shape, values)])
    };
    let absent = foreign(&tied(), &[(EMBEDDING, &[4, 2], table.clone())]);
    let same = head(table.clone(), &[4, 2]);
    for directory in [absent, same] {
        let reader = Reader::open(directory.path()).unwrap();
        assert_eq!(reader.names(), [EMBEDDING, HEAD]);
        assert_eq!(reader.get(HEAD).unwrap().tied.as_deref(), Some(EMBEDDING));
        let shape = vec![4, 2];
        let expected = [(EMBEDDING.to_owned(), shape.clone()), (HEAD.to_owned(), shape)];
        let joined = expect(&reader, &expected).unwrap();
        assert_eq!(stream(&joined, HEAD).unwrap(), stream(&joined, EMBEDDING).unwrap());
    }
    let mut other = table.clone();
    other[5] = -1.0;
    let error = open_error(head(other, &[4, 2]).path());
    assert!(error.to_string().ends_with("row 2 is another"), "{error}");
    let error = open_error(head(table.clone(), &[2, 4]).path());
    assert!(error.to_string().contains("it is f32 [2, 4], not f32 [4, 2]"), "{error}");
}

#[test]
fn all_tensors_that_do_not_fit_are_listed_at_once() {
    let directory = foreign(
        &config(json!({})),
        &[
            (EMBEDDING, &[2, 2], vec![0.0; 4]),
            ("transformer.layers.0.stray", &[1], vec![0.0]),
            ("transformer.layers.0.attention.alibi_slopes", &[1], vec![0.0]),
            ("rotary_inv_freq", &[1], vec![0.0]),
            ("embed_positions_long_factors", &[1], vec![0.0]),
        ],
    );
    let reader = Reader::open(directory.path()).unwrap();
    let expected = [(EMBEDDING.to_owned(), vec![2, 3]), ("lm_head.bias".to_owned(), vec![2])];
    let error = expect(&reader, &expected).unwrap_err();
    assert!(error.to_string().contains("1 missing, 1 superfluous, 1 of another"), "{error}");
    let location = error.location().unwrap();
    for line in [
        "`lm_head.bias` [2]",
        "`transformer.layers.0.stray` [1]",
        "`transformer.vocab_embedding.weight` [2, 2], not [2, 3]",
    ] {
        assert!(location.contains(line), "{location}");
    }
}

#[test]
fn a_foreign_checkpoint_has_no_provenance_and_its_nans_are_found() {
    let mut values = vec![0.5; 12];
    values[7] = f32::NAN;
    let directory = foreign(&config(json!({})), &[(EMBEDDING, &[4, 3], values)]);
    let mut reader = Reader::open(directory.path()).unwrap();
    assert_eq!(reader.provenance(), None);
    assert!(matches!(reader.verify(&|_, _| ()), Err(CheckpointError::NoDigests { .. })));
    for piece in [8, PIECE] {
        Arc::get_mut(&mut reader.files).unwrap().piece = piece;
        let joined = expect(&reader, &[(EMBEDDING.to_owned(), vec![4, 3])]).unwrap();
        let error = stream(&joined, EMBEDDING).unwrap_err();
        assert_eq!(error.to_string(), format!("`{EMBEDDING}`[2, 1] is NaN"));
        assert!(error.location().unwrap().ends_with(WEIGHTS_FILE));
    }
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let directory = written(&tied(), &Memory::model());
    let path = directory.path().join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 40 * 4 - 2; // in the norm before the head
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Reader::open(directory.path()).unwrap().verify(&|_, _| ()).unwrap_err();
    assert_eq!(error.fault(), Fault::Check);
    assert!(error.location().unwrap().ends_with("\n`transformer.ln_f.weight`"), "{error:?}");
}

#[test]
fn what_is_missing_or_malformed_is_named_by_its_file() {
    let directory = written(&tied(), &Memory::model());
    let config_path = directory.path().join(CONFIG_FILE);
    let good = std::fs::read_to_string(&config_path).unwrap();

    std::fs::write(&config_path, "{\"architecture\": ").unwrap();
    let error = open_error(directory.path());
    assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");

    std::fs::write(&config_path, good.replace("\"hidden_size\": 4", "\"hidden_size\": \"4\""))
        .unwrap();
    let error = open_error(directory.path());
    let location = error.location().unwrap();
    assert!(location.ends_with("config.json, `hidden_size`"), "{location}");

    let quantised =
        |name: &str| good.replace("\"quant_algo\": null", &format!("\"quant_algo\": \"{name}\""));
    std::fs::write(&config_path, quantised("W4A8_QSERVE_PER_GROUP")).unwrap();
    let error = open_error(directory.path()).to_string();
    assert!(error.contains("quantised with W4A8_QSERVE_PER_GROUP"), "{error}");
    std::fs::write(&config_path, quantised("MIXED_PRECISION")).unwrap();
    assert!(open_error(directory.path()).to_string().contains("quant_cfg.json"));
    let layers = json!({"quantized_layers": {
        "a": {"quant_algo": "FP8"}, "b": {"quant_algo": "FP8"}, "c": {"quant_algo": "W4A16_AWQ"},
    }});
    std::fs::write(directory.path().join(mixed::FILE), layers.to_string()).unwrap();
    let error = open_error(directory.path()).to_string();
    assert!(error.contains("(FP8 in 2 layers, W4A16_AWQ in 1 layers)"), "{error}");

    std::fs::write(&config_path, &good).unwrap();
    std::fs::write(directory.path().join(RECORD_FILE), "{\"format\": 9}").unwrap();
    let error = open_error(directory.path());
    assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");
    std::fs::remove_file(directory.path().join(RECORD_FILE)).unwrap();
    std::fs::remove_file(directory.path().join(WEIGHTS_FILE)).unwrap();
    assert_eq!(open_error(directory.path()).fault(), Fault::Input);
    std::fs::remove_file(&config_path).unwrap();
    assert!(open_error(directory.path()).to_string().contains("config.json"));
}

#[test]
fn a_provider_that_gives_too_few_bytes_leaves_no_finished_file() {
    let mut model = Memory::model();
    model.bytes.get_mut(EMBEDDING).unwrap().truncate(8);
    let directory = tempfile::tempdir().unwrap();
    let texts = BTreeMap::new();
    let (ranks, effort) = ([all(&model)], Effort::default());
    let result = write(directory.path(), &tied(), &model, &ranks, &texts, &Value::Null, &effort);
    assert_eq!(result.unwrap_err().code().to_string(), "EG0020");
    assert!(!directory.path().join(CONFIG_FILE).exists());
}
