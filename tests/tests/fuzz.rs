//! Random settings for every shipped plugin, and shipped components with random bytes changed.
//!
//! Whatever goes in, what comes out is an answer that was checked, a refusal, or a typed error: no
//! panic, no hang, no end of the process, and memory within bounds. A case is made of one number,
//! its seed, and nothing else. A plain run takes the same first cases each time;
//! `ENGRAFT_FUZZ_SECONDS` goes on with others for as long as it says, and `ENGRAFT_FUZZ_SEED` runs
//! one again. The seed of the case in hand is kept in a file, for what ends the process.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_diagnostic::Diagnostic;
use engraft_ir::DType;
use engraft_plugin::{
    Field, Limits, Plugin, PluginError, Problem, Refusal, Setting, SettingsError, Value, nest,
    resolve,
};
use engraft_source::Source;
use engraft_tests::{fixtures, peak_memory, plugin};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Says which case it was, where one panics.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this case again: ENGRAFT_FUZZ_SEED={}", self.0);
        }
    }
}

/// Runs cases; counts what came out of them.
fn fuzz(name: &str, cases: u64, mut case: impl FnMut(&mut Random) -> Outcome) {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let seconds = number("ENGRAFT_FUZZ_SECONDS").map(Duration::from_secs);
    let started = Instant::now();
    let (first, cases) = match (number("ENGRAFT_FUZZ_SEED"), seconds) {
        (Some(seed), _) => (seed, 1),
        (None, Some(_)) => {
            let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
            (clock << 24, u64::MAX)
        }
        (None, None) => (0, cases),
    };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}.seed"));
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    for at in 0..cases {
        if seconds.is_some_and(|seconds| started.elapsed() > seconds) {
            break;
        }
        let seed = first.wrapping_add(at);
        fs::write(&kept, seed.to_string()).unwrap();
        let (guard, begun) = (Case(seed), Instant::now());
        *outcomes.entry(case(&mut Random(seed))).or_default() += 1;
        assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
        drop(guard);
    }
    println!("{name}: {outcomes:?} in {:?}, {} MiB", started.elapsed(), peak_memory() >> 20);
    assert!(peak_memory() < 1 << 30, "{} bytes of memory", peak_memory());
    assert!(first != 0 || outcomes.len() > 1, "{outcomes:?}");
}

/// What came out of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Answered,
    Refused,
    Config,
    Component,
    Limit,
    Trapped,
    Failed,
    Rejected,
    Answer,
    Other,
}

/// What is told must be one line that a terminal can show, with a code.
fn told(error: &dyn Diagnostic) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 16_384, "{} bytes", text.len());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(error.help().is_some(), "{text}");
}

impl From<PluginError> for Outcome {
    fn from(error: PluginError) -> Outcome {
        told(&error);
        match *error.kind {
            Problem::NotAComponent(_)
            | Problem::Invalid(_)
            | Problem::ForbiddenImport { .. }
            | Problem::UnknownVersion { .. }
            | Problem::NoExport(_)
            | Problem::Unlinkable(_)
            | Problem::TooMuchToCompile { .. } => Outcome::Component,
            Problem::Limit(_) => Outcome::Limit,
            Problem::Trapped(_) => Outcome::Trapped,
            Problem::Failed(_) => Outcome::Failed,
            Problem::Rejected(_) => Outcome::Rejected,
            Problem::Answer(_) => Outcome::Answer,
            // Nothing that a plugin does leads here.
            _ => panic!("{error:?}"),
        }
    }
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Outcome {
        told(&refusal);
        Outcome::Refused
    }
}

impl From<SettingsError> for Outcome {
    fn from(error: SettingsError) -> Outcome {
        told(&error);
        match error {
            SettingsError::Declaration { .. } => Outcome::Other,
            _ => Outcome::Config,
        }
    }
}

/// A model that a shipped plugin reads.
struct Subject {
    plugin: PathBuf,
    dialect: String,
    config: Json,
    tensors: Vec<String>,
}

fn subjects() -> Vec<Subject> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(fixtures().join("golden")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    let subject = |path: &PathBuf| {
        let source = Source::open(path).unwrap();
        Subject {
            plugin: plugin(path),
            dialect: source.dialect().to_owned(),
            config: source.config().clone(),
            tensors: source.tensors().keys().cloned().collect(),
        }
    };
    folders.iter().map(subject).collect()
}

/// Limits within which a case is soon over.
fn limits() -> Limits {
    Limits { fuel: 100_000_000, blocks: 64, ..Limits::default() }
}

/// Asks a plugin all that there is to ask. `change` may alter what it made of the config.
fn ask(
    plugin: &Plugin,
    dialect: &str,
    config: &Json,
    has_tensor: &dyn Fn(&str) -> bool,
    change: &mut dyn FnMut(&mut Vec<Setting>, &[Field]),
) -> Result<Outcome, Outcome> {
    let mut session = plugin.session()?;
    let fields = session.source_fields(dialect)?;
    let (settings, _) = resolve(&fields, config, has_tensor)?;
    let mut settings = session.configure(dialect, &settings)??;
    let own = session.fields()?;
    let (rest, _) = resolve(&own, &Json::Object(nest(&settings)), &|_| false)?;
    settings.retain(|setting| own.iter().all(|field| field.path != setting.path));
    settings.extend(rest);
    change(&mut settings, &own);
    session.open(&settings)??;
    let outline = session.outline()?;
    for place in outline.places() {
        session.parameters(place, dialect)?;
    }
    session.unused(dialect)?;
    let graph = session.write(&|_, _| DType::BF16)?;
    let text = graph.to_string();
    assert_eq!(engraft_ir::parse(&text).expect("it reads back").to_string(), text);
    Ok(Outcome::Answered)
}

/// A number that somebody forgot to think of, or one near another.
fn integer(random: &mut Random, near: i64) -> i64 {
    let odd = [0, 1, -1, 2, 3, 7, 64, 255, 4096, i64::from(i32::MAX), i64::from(u32::MAX), 1 << 53];
    match random.below(4) {
        0 => *random.of(&odd),
        1 => *random.of(&[i64::MAX, i64::MIN, near.wrapping_neg(), near.wrapping_mul(2)]),
        2 => near.wrapping_add(random.below(7) as i64 - 3),
        _ => near / random.of(&[2, 3, 4, 8]),
    }
}

fn real(random: &mut Random, near: f64) -> f64 {
    let odd = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE];
    if random.once_in(2) { *random.of(&odd) } else { near * (random.below(9) as f64 - 2.0) }
}

fn words(random: &mut Random) -> String {
    let odd = [
        "",
        "silu",
        "default",
        "gelu",
        "linear",
        "yarn",
        "llama3",
        "full_attention",
        "alibi",
        "\u{1b}[2J",
        "ß\u{0}\u{10ffff}",
        "a.b.c",
        "../x",
        "true",
    ];
    match random.below(8) {
        0 => "x".repeat(random.below(100_000)),
        _ => (*random.of(&odd)).to_owned(),
    }
}

/// A JSON value in the place of another: most often of its kind.
fn another(random: &mut Random, before: &Json) -> Json {
    if random.once_in(8) {
        let any = [
            json!(null),
            json!(true),
            json!(-1),
            json!(0.5),
            json!("x"),
            json!([1, 2]),
            json!({"a": 1}),
            json!([]),
            json!({}),
        ];
        return random.of(&any).clone();
    }
    match before {
        Json::Bool(before) => json!(!before),
        Json::Number(n) if n.is_f64() => json!(real(random, n.as_f64().unwrap())),
        Json::Number(n) => json!(integer(random, n.as_i64().unwrap_or(1))),
        Json::String(_) => json!(words(random)),
        Json::Array(all) if !all.is_empty() => {
            let mut all = all.clone();
            match random.below(3) {
                0 => all.truncate(random.below(all.len())),
                1 => all.extend(all.clone()),
                _ => {
                    let at = random.below(all.len());
                    all[at] = another(random, &all[at].clone());
                }
            }
            Json::Array(all)
        }
        Json::Object(inner) => {
            let mut inner = Json::Object(inner.clone());
            change_config(random, &mut inner);
            inner
        }
        _ => json!(integer(random, 1)),
    }
}

/// Changes or takes away some keys of an object.
fn change_config(random: &mut Random, config: &mut Json) {
    let map = config.as_object_mut().unwrap();
    let keys: Vec<String> = map.keys().cloned().collect();
    for _ in 0..random.below(4) {
        let Some(key) = (!keys.is_empty()).then(|| random.of(&keys)) else { return };
        let before = map.get(key).cloned().unwrap_or(Json::Null);
        if random.once_in(5) {
            map.remove(key);
        } else {
            map.insert(key.clone(), another(random, &before));
        }
    }
}

/// Changes or takes away some settings, each within its kind: the host sees to that.
fn change_settings(random: &mut Random, settings: &mut [Setting]) {
    for _ in 0..random.below(4) {
        let at = random.below(settings.len().max(1));
        let Some(Setting { value, .. }) = settings.get_mut(at) else { return };
        *value = match value.take() {
            _ if random.once_in(6) => None,
            Some(Value::Flag(before)) => Some(Value::Flag(!before)),
            Some(Value::Integer(before)) => Some(Value::Integer(integer(random, before))),
            Some(Value::Number(before)) => Some(Value::Number(real(random, before))),
            Some(Value::Text(_)) => Some(Value::Text(words(random))),
            Some(Value::Integers(mut all)) => {
                all.push(integer(random, 1));
                Some(Value::Integers(all))
            }
            Some(Value::Numbers(mut all)) => {
                all.push(real(random, 1.0));
                Some(Value::Numbers(all))
            }
            Some(Value::Texts(mut all)) => {
                all.push(words(random));
                Some(Value::Texts(all))
            }
            None => None,
        };
    }
}

#[test]
fn shipped_plugins_survive_any_settings() {
    let subjects = subjects();
    let mut loaded: BTreeMap<PathBuf, Plugin> = BTreeMap::new();
    fuzz("settings", 400, |random| {
        let subject = random.of(&subjects);
        let plugin = loaded
            .entry(subject.plugin.clone())
            .or_insert_with(|| Plugin::load(&subject.plugin, &limits()).unwrap());
        let dialects = &plugin.identity().dialects;
        let dialect =
            if random.once_in(8) { random.of(dialects) } else { &subject.dialect }.clone();
        let mut config = subject.config.clone();
        change_config(random, &mut config);
        let lie = random.once_in(6);
        let has = |name: &str| subject.tensors.iter().any(|own| own == name) != lie;
        let mut change = |settings: &mut Vec<Setting>, _: &[Field]| {
            if random.once_in(2) {
                change_settings(random, settings);
            }
        };
        let outcome = ask(plugin, &dialect, &config, &has, &mut change).unwrap_or_else(|o| o);
        // Stricter than the sandbox needs: what ships here turns a model down, and never panics.
        let panics = matches!(outcome, Outcome::Trapped | Outcome::Failed);
        assert!(!panics, "{} panics on {config}", subject.plugin.display());
        outcome
    });
}

/// Changes some bytes: anywhere, or so that what comes out is likely to be valid still.
fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let kinds: [(u8, u8); 4] = [(0x46, 0x4f), (0x6a, 0x78), (0x45, 0x45), (0x0c, 0x0d)];
        match random.below(10) {
            // A constant.
            0..=3 => {
                let constant = (at..bytes.len() - 1).find(|&i| bytes[i] == 0x41);
                if let Some(at) = constant {
                    bytes[at + 1] ^= 1 << random.below(7);
                }
            }
            // An operator of the same type: comparisons, arithmetic, branches.
            4..=6 => {
                let (low, high) = *random.of(&kinds);
                let found = (at..bytes.len()).find(|&i| (low..=high).contains(&bytes[i]));
                if let Some(at) = found {
                    bytes[at] = low + random.below(usize::from(high - low) + 1) as u8;
                }
            }
            7 => bytes[at] ^= 1 << random.below(8),
            8 => bytes.truncate(bytes.len() - random.below(bytes.len().min(64))),
            _ => {
                let other = random.of(others);
                let length = random.below(64).min(other.len()).min(bytes.len() - at);
                let from = random.below(other.len() - length + 1);
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
}

#[test]
fn changed_components_end_in_an_answer_or_an_error() {
    let subjects = subjects();
    let components: Vec<Vec<u8>> = subjects.iter().map(|s| fs::read(&s.plugin).unwrap()).collect();
    fuzz("components", 60, |random| {
        let at = random.below(subjects.len());
        let Subject { dialect, config, tensors, .. } = &subjects[at];
        let mut bytes = components[at].clone();
        change_bytes(random, &mut bytes, &components);
        let plugin = match Plugin::from_bytes("changed", &bytes, &limits()) {
            Ok(plugin) => plugin,
            Err(error) => return error.into(),
        };
        let has = |name: &str| tensors.iter().any(|own| own == name);
        ask(&plugin, dialect, config, &has, &mut |_, _| {}).unwrap_or_else(|other| other)
    });
}
