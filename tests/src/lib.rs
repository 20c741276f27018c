//! What the tests share: where fixtures and models are, how to compile one, how near is near.

pub mod command;
pub mod weights;

use engraft_compile::BuildOptions;
use engraft_convert::{Effort, Options, Pipeline};
use engraft_engine::Engine;
use engraft_files::OutputDir;
use engraft_ir::DType;
use engraft_plugin::{Found, Limits, Plugin, Shelf};
use engraft_runtime::{Generator, LoadOptions, Model, Request, evaluate};
use engraft_source::Source;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The folder of plugins: `cargo xtask plugins` builds them.
pub fn plugins() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins");
    let folders = std::env::var_os("ENGRAFT_PLUGINS");
    let given = folders.iter().flat_map(std::env::split_paths);
    let path = given.chain([built]).find(|folder| folder.join("llama.wasm").exists());
    path.expect("the plugins are not built: run the tests by `cargo xtask test`")
}

/// The `llama` plugin.
pub fn llama() -> PathBuf {
    plugins().join("llama.wasm")
}

/// The plugin that accepts a model, by the `architectures` of its config.
pub fn plugin(model: &Path) -> PathBuf {
    static ACCEPTS: OnceLock<Vec<(PathBuf, Vec<String>)>> = OnceLock::new();
    let load = |found: Found| {
        let plugin = Plugin::load(&found.path, &Limits::default()).expect("loads");
        (found.path, plugin.identity().accepts.clone())
    };
    let all = ACCEPTS.get_or_init(|| Shelf::new([plugins()]).all().into_iter().map(load).collect());
    let source = Source::open(model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let first = source.architectures().remove(0);
    let found = all.iter().find(|(_, accepts)| accepts.contains(&first));
    found.unwrap_or_else(|| panic!("no plugin accepts {first}")).0.clone()
}

/// A path that `cargo xtask test` prepares and hands over in an environment variable.
pub fn prepared(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| panic!("${variable} is not set: run the tests by `cargo xtask test`"))
}

/// Opens a model's pipeline with the plugin for it.
pub fn pipeline(model: &Path, dtype: Option<DType>) -> Pipeline {
    let plugin = Some(plugin(model).to_string_lossy().into_owned());
    let options = Options { model: model.to_path_buf(), plugin, dtype, ..Options::default() };
    Pipeline::open(&options).unwrap_or_else(|e| panic!("{}: {e}", model.display()))
}

/// Compiles a model into `out`.
pub fn compile(model: &Path, dtype: Option<DType>, out: &Path) {
    write_engine(&pipeline(model, dtype), out);
}

fn write_engine(pipeline: &Pipeline, out: &Path) {
    let dir = OutputDir::create(out, false).expect("a new directory");
    pipeline
        .compile(BuildOptions::default(), dir.path(), &Effort::default(), None)
        .expect("compiles");
    dir.commit().expect("commits");
}

/// An engine, and the temporary directory that it and its tokenizer lie in.
pub struct Compiled {
    engine: Arc<Engine>,
    _folder: tempfile::TempDir,
}

impl std::ops::Deref for Compiled {
    type Target = Arc<Engine>;
    fn deref(&self) -> &Arc<Engine> {
        &self.engine
    }
}

/// Compiles a model into a temporary directory and opens the engine.
pub fn engine(model: &Path, dtype: Option<DType>) -> Compiled {
    engine_of(&pipeline(model, dtype))
}

/// The same of a pipeline.
pub fn engine_of(pipeline: &Pipeline) -> Compiled {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let out = folder.path().join("engine");
    write_engine(pipeline, &out);
    Compiled { engine: Arc::new(Engine::open(&out).expect("opens")), _folder: folder }
}

/// Loads an engine.
pub fn load(engine: &Arc<Engine>, options: &LoadOptions) -> Model {
    Model::load(engine.clone(), options).expect("loads")
}

/// All logits of one prompt, by itself.
pub fn logits(model: &mut Model, prompt: &[u32]) -> Vec<f32> {
    evaluate::logits(model, &[prompt.to_vec()]).expect("runs").remove(0)
}

/// Greedy continuations of prompts, in one batch; no token ends them.
pub fn greedy(model: &mut Model, prompts: &[Vec<u32>], steps: usize) -> Vec<Vec<u32>> {
    let mut generator = Generator::new(model, None);
    for prompt in prompts {
        let (prompt, max_output_len) = (prompt.clone(), Some(steps));
        let request = Request { prompt, max_output_len, ..Request::default() };
        generator.submit(request).expect("fits");
    }
    generator.run(|_| {}).expect("runs").into_iter().map(|answer| answer.ids).collect()
}

/// What a golden expects.
pub struct Golden {
    /// Its folder.
    pub path: PathBuf,
    /// Three prompts.
    pub prompts: Vec<Vec<u32>>,
    /// Of each prompt, the logits of every position.
    pub logits: Vec<Vec<f32>>,
    /// Of each prompt, its greedy continuation.
    pub greedy: Vec<Vec<u32>>,
}

/// Every golden of the fixtures, in order of their names.
pub fn goldens() -> Vec<Golden> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures().join("golden"))
        .expect("the goldens")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    folders.sort();
    folders.into_iter().map(golden).collect()
}

/// One golden.
pub fn golden(path: PathBuf) -> Golden {
    let bytes = std::fs::read(path.join("expected.safetensors")).expect("expected.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    fn all<T>(tensors: &SafeTensors, stem: &str, read: fn(&[u8]) -> Vec<T>) -> Vec<Vec<T>> {
        (0..3)
            .map(|k| read(tensors.tensor(&format!("{stem}_{k}")).expect("three of each").data()))
            .collect()
    }
    Golden {
        prompts: all(&tensors, "prompt", ids),
        logits: all(&tensors, "logits", floats),
        greedy: all(&tensors, "greedy", ids),
        path,
    }
}

/// Little-endian I32 as token ids.
pub fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Little-endian F32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The relative L2 distance `‖got − want‖ / ‖want‖`.
pub fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "as many logits");
    let pairs = got.iter().zip(want).map(|(&g, &w)| (f64::from(g), f64::from(w)));
    let (apart, size) = pairs.fold((0.0, 0.0), |(a, s), (g, w)| (a + (g - w).powi(2), s + w * w));
    (apart / size).sqrt()
}

/// A copy of a folder of plain files.
pub fn copied(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        std::fs::copy(&path, folder.path().join(name)).expect("copied");
    }
    folder
}

/// The most memory that this process has had, in bytes.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes = line.trim().trim_end_matches("kB").trim_end();
    kilobytes.parse::<u64>().expect("a number") * 1024
}
