//! A tame plugin in the text form of WebAssembly, of which each test makes one function hostile.
//!
//! Only the core module is written here; `wit-component` makes the component, as for real plugins.

use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

/// Where answers that a test lays out itself may lie.
pub const FREE: u32 = 8192;

/// One exported function: its name in the contract, its type, its tame body.
const FUNCTIONS: [(&str, &str, &str); 10] = [
    ("identify", "(result i32)", "i32.const 1024"),
    ("source-fields", "(param i32 i32) (result i32)", "i32.const 1088"),
    ("fields", "(result i32)", "i32.const 1088"),
    ("configure", "(param i32 i32 i32 i32) (result i32)", "i32.const 1104"),
    ("[static]model.open", "(param i32 i32) (result i32)", OPEN),
    ("[method]model.outline", "(param i32) (result i32)", "i32.const 1120"),
    ("[method]model.parameters", "(param i32 i32 i32 i32 i32) (result i32)", PARAMETERS),
    ("[method]model.unused", "(param i32 i32 i32) (result i32)", "i32.const 1088"),
    ("[method]model.write", "(param i32 i32 i32 i32 i32 i32) (result i32)", WRITE),
    ("[dtor]model", "(param i32)", ""),
];

/// `ok(model)`
const OPEN: &str = "(i32.store (i32.const 1144) (call $new (i32.const 1))) i32.const 1140";

/// One weight in the embedding, a norm's in the block, a tied one in the head.
const PARAMETERS: &str = "(i32.add (i32.const 1160) (i32.mul (local.get 1) (i32.const 8)))";

/// The embedding looks up, the block normalises, the head multiplies.
const WRITE: &str = "
    (local $x i32)
    (local.set $x (i32.load (local.get 4)))
    (if (i32.eq (local.get 2) (i32.const 0)) (then (i32.store (i32.const 4096)
        (call $embedding (local.get 1) (local.get $x)
            (call $parameter (local.get 1) (i32.const 2048) (i32.const 8))))))
    (if (i32.eq (local.get 2) (i32.const 1)) (then (i32.store (i32.const 4096)
        (call $norm (local.get 1) (local.get $x)
            (call $parameter (local.get 1) (i32.const 2064) (i32.const 4)) (f64.const 1e-5)))))
    (if (i32.eq (local.get 2) (i32.const 2)) (then (i32.store (i32.const 4096)
        (call $linear (local.get 1) (local.get $x)
            (call $parameter (local.get 1) (i32.const 2080) (i32.const 14))
            (i32.const 0) (i32.const 0)))))
    (call $give_back (local.get 1))
    (i32.store (i32.const 4104) (i32.const 4096))
    (i32.store (i32.const 4108) (i32.const 1))
    i32.const 4104";

/// The tame `write` as a function that a hostile one may call.
pub fn tame_write() -> String {
    format!("(func $tame (param i32 i32 i32 i32 i32 i32) (result i32) {WRITE})")
}

/// What a test changes.
#[derive(Clone, Default)]
pub struct Guest {
    bodies: Vec<(&'static str, String)>,
    extra: String,
    memory: Option<String>,
    contract: Vec<(String, String)>,
}

impl Guest {
    /// The tame one.
    pub fn tame() -> Guest {
        Guest::default()
    }

    /// Another body for one of the contract's functions.
    pub fn with(mut self, function: &'static str, body: impl Into<String>) -> Guest {
        assert!(FUNCTIONS.iter().any(|f| f.0 == function), "{function}");
        self.bodies.push((function, body.into()));
        self
    }

    /// More fields of the module: data, globals, functions.
    pub fn and(mut self, fields: impl AsRef<str>) -> Guest {
        self.extra += fields.as_ref();
        self
    }

    /// Another memory than four pages.
    pub fn memory(mut self, memory: &str) -> Guest {
        self.memory = Some(memory.to_owned());
        self
    }

    /// The contract with other words in it, as the guest sees it.
    pub fn contract(mut self, from: &str, to: &str) -> Guest {
        self.contract.push((from.to_owned(), to.to_owned()));
        self
    }

    /// The component.
    pub fn component(&self) -> Vec<u8> {
        let mut text = self.text();
        let mut resolve = wit_parser::Resolve::default();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/v0.1");
        let mut sources = wit_parser::SourceMap::default();
        for file in folder.read_dir().expect("the contract") {
            let path = file.expect("an entry").path();
            let mut words = std::fs::read_to_string(&path).expect("a text");
            for (from, to) in &self.contract {
                words = words.replace(from, to);
                text = text.replace(from, to);
            }
            sources.push(&path, words);
        }
        let contract = sources.parse().map_err(|(_, e)| e.to_string()).expect("it parses");
        let Ok(package) = resolve.push_group(contract) else { panic!("it does not resolve") };
        let mut module = wat::parse_str(text).expect("the text parses");
        let world = resolve.select_world(&[package], Some("plugin")).expect("a world");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("metadata");
        let encoder = ComponentEncoder::default().module(&module).expect("a module");
        encoder.validate(true).encode().expect("a component")
    }

    fn text(&self) -> String {
        let memory = self.memory.as_deref().unwrap_or("4");
        let mut text = format!(
            r#"(module
            (import "[export]engraft:plugin/architecture@0.1.0" "[resource-new]model"
                (func $new (param i32) (result i32)))
            (import "engraft:plugin/report@0.1.0" "fail" (func $fail (param i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.parameter"
                (func $parameter (param i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.label"
                (func $label (param i32 i32 i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.embedding"
                (func $embedding (param i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.linear"
                (func $linear (param i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.rms-norm"
                (func $norm (param i32 i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.add"
                (func $add (param i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.layer-norm"
                (func $layer_norm (param i32 i32 i32 i32 i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.rms-norm-heads"
                (func $norm_heads (param i32 i32 i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.positions"
                (func $positions (param i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.scale"
                (func $scale (param i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.softcap"
                (func $softcap (param i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.clamp"
                (func $clamp (param i32 i32 f64 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[constructor]attention"
                (func $attention (param i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]attention.window"
                (func $window (param i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]attention.softcap"
                (func $cap (param i32 f64)))
            (import "engraft:plugin/graph@0.1.0" "[method]attention.alibi"
                (func $alibi (param i32 i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[constructor]rotary"
                (func $rotary (param i32 i32 f64) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.linear-heads"
                (func $linear_heads (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.concat"
                (func $concat (param i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.attend"
                (func $attend (param i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.mix"
                (func $mix (param i32 i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.convolve"
                (func $convolve (param i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]builder.recur"
                (func $recur (param i32 i32 i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]attention.sinks"
                (func $sinks (param i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]attention.latent"
                (func $latent (param i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[constructor]mixture"
                (func $mixture (param i32 i32 i32) (result i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]mixture.scale"
                (func $weigh (param i32 f64)))
            (import "engraft:plugin/graph@0.1.0" "[method]mixture.prefer"
                (func $prefer (param i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]mixture.groups"
                (func $groups (param i32 i32 i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]mixture.biases"
                (func $biases (param i32 i32 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]mixture.bounded"
                (func $bounded (param i32 f64 f64)))
            (import "engraft:plugin/graph@0.1.0" "[method]rotary.scale-long"
                (func $long (param i32 i32 i32 i32 i32 f64 i32)))
            (import "engraft:plugin/graph@0.1.0" "[method]rotary.untruncated"
                (func $untruncated (param i32)))
            (import "engraft:plugin/graph@0.1.0" "[resource-drop]builder"
                (func $give_back (param i32)))
            (memory (export "memory") {memory})
            (global $heap (mut i32) (i32.const 65536))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            {}"#,
            data()
        );
        for (name, ty, tame) in FUNCTIONS {
            let changed = self.bodies.iter().rev().find(|(of, _)| *of == name);
            let body = changed.map_or(tame, |(_, body)| body.as_str());
            // The name is what an error shows of a frame.
            let label = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            text += &format!(
                "(func $guest_{label} (export \"engraft:plugin/architecture@0.1.0#{name}\") \
                 {ty} {body})\n"
            );
        }
        text + &self.extra + ")"
    }
}

/// A data segment of little-endian words.
pub fn words(at: u32, words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes_at(at, &bytes)
}

/// A data segment.
pub fn bytes_at(at: u32, bytes: &[u8]) -> String {
    let bytes: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{bytes}\")\n")
}

/// A parameter at `at`, in 40 bytes: its name, its origin's tag and payload, no precision kept.
pub fn parameter(at: u32, name: (u32, u32), tag: u32, payload: [u32; 6]) -> String {
    let [a, b, c, d, e, f] = payload;
    words(at, &[name.0, name.1, tag, a, b, c, d, e, f, 0])
}

/// What the tame functions point to.
fn data() -> String {
    let text = bytes_at(2048, b"embed.we") // 8 bytes, the embedding's parameter
        + &bytes_at(2064, b"gain")
        + &bytes_at(2080, b"lm_head.weight")
        + &bytes_at(2096, b"tame")
        + &bytes_at(2104, b"0.1.0")
        + &bytes_at(2112, b"TameForCausalLM")
        + &bytes_at(2128, b"hugging-face")
        + &bytes_at(2144, b"tensor");
    // identify: name, version, accepts, dialects, doc.
    let identity = words(1024, &[2096, 4, 2104, 5, 1072, 1, 1080, 1, 2096, 4]);
    let lists = words(1072, &[2112, 15, 2128, 12]) + &words(1088, &[0, 0]);
    let configured = words(1104, &[0, 0, 0]);
    let outline = words(1120, &[1, 8, 16]);
    // parameters: a list for each place.
    let places = words(1160, &[1200, 1, 1240, 1, 1280, 1]);
    let all = parameter(1200, (2048, 8), 0, [2144, 6, 0, 0, 1344, 2])
        + &parameter(1240, (2064, 4), 0, [2144, 6, 0, 0, 1376, 1])
        + &parameter(1280, (2080, 14), 3, [2048, 8, 0, 0, 0, 0]);
    // Axes: size as two words, meaning, padding.
    let axes = words(1344, &[8, 0, 1, 0, 4, 0, 0, 0]) + &words(1376, &[4, 0, 0, 0]);
    text + &identity + &lists + &configured + &outline + &places + &all + &axes
}
