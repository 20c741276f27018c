//! Graphs as text, each with what must come of it in the same file: `tests/filetests/**.graph`.
//!
//! The first line says the kind of test, `; test verifier` or `; test pass fuse_gate`; comments
//! after it say what is tested. Then come cases, each a graph that begins with its line
//! `graph 1`. What must come of a case is either
//! - errors, each on the line that causes it: `v2 = add v0, v1 ; error: …`, or
//! - another text, after a line `; becomes`.
//!
//! `ENGRAFT_BLESS=1` writes into the files what came instead. A new kind is a function and its
//! row in [`KINDS`].

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::{Part, passes};
use engraft_files::FileError;
use engraft_ir::{AnyEntity, Graph, parse, verify};
use engraft_quant::{Grouping, Scheme, Stored};
use engraft_weights::{Provider, Supply, WeightError};
use similar::TextDiff;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What came of a case.
enum Outcome {
    /// Errors, each with its line in the case, from 1.
    Errors(Vec<(usize, String)>),
    /// A text.
    Becomes(String),
}

/// A kind of test: from its argument in the first line, and a case. An error is a case that the
/// kind has no use for; it cannot be blessed.
type Kind = fn(argument: &str, case: &str) -> Result<Outcome, String>;

const KINDS: &[(&str, Kind)] = &[
    ("text", text),
    ("parse", parse_errors),
    ("verifier", verifier),
    ("pass", pass),
    ("partition", partition),
    ("quantise", quantise),
];

/// A text that parses becomes its canonical form, which reads back as itself.
fn text(_: &str, case: &str) -> Result<Outcome, String> {
    let printed = read(case)?.to_string();
    let again = read(&printed)?.to_string();
    if again != printed {
        return Err(format!("what was printed does not read back:\n{printed}\nbut\n{again}"));
    }
    Ok(Outcome::Becomes(printed))
}

/// Errors of the parser and of inference, which it calls: the first of a case.
fn parse_errors(_: &str, case: &str) -> Result<Outcome, String> {
    let errors = parse(case).err().into_iter();
    let errors =
        errors.map(|error| (error.line, format!("column {}: {}", error.column, error.message)));
    Ok(Outcome::Errors(errors.collect()))
}

/// Errors of the verifier: all of a case.
fn verifier(_: &str, case: &str) -> Result<Outcome, String> {
    let graph = read(case)?;
    let errors = verify(&graph).err().map_or_else(Vec::new, |errors| errors.0);
    let errors = errors.into_iter();
    let errors = errors.map(|error| (line_of(&graph, case, error.location), error.message));
    Ok(Outcome::Errors(errors.collect()))
}

/// A graph that verifies becomes what the pass makes of it; `all` stands for all passes.
fn pass(name: &str, case: &str) -> Result<Outcome, String> {
    let graph = read(case)?;
    verify(&graph).map_err(|errors| errors.to_string())?;
    let after = match (name, passes::by_name(name)) {
        ("all", _) => passes::run(graph),
        (_, Some(pass)) => pass.run(graph),
        (_, None) => return Err(format!("there is no pass `{name}`")),
    };
    Ok(Outcome::Becomes(after.map_err(|error| error.to_string())?.to_string()))
}

/// A graph that verifies becomes what one rank has of it, and after it the tensors of the rank's
/// file: `; NAME = SOURCE CUT`. The argument says which rank, as the first line of its graph does,
/// and may end with `embedding=0`.
fn partition(argument: &str, case: &str) -> Result<Outcome, String> {
    let (rank, axis) = match argument.split_once(" embedding=") {
        Some((rank, axis)) => (rank, Some(axis.parse().map_err(|_| "embedding=0|1".to_string())?)),
        None => (argument, None),
    };
    let rank = read(&format!("graph 1 {rank}"))?.rank;
    let options = engraft_compile::partition::Options { parallel_embedding: axis };
    let part = match engraft_compile::partition(&read(case)?, rank, &options) {
        Ok(part) => part,
        Err(error) => return Ok(Outcome::Errors(vec![(1, error.to_string())])),
    };
    let mut text = part.graph.to_string();
    text.push('\n');
    for share in part.stored {
        writeln!(text, "; {} = {} {}", share.name, share.source, share.cut).unwrap();
    }
    Ok(Outcome::Becomes(text))
}

/// A graph that verifies becomes one whose blocks' products are by codes. The argument is the
/// scheme, and then `group=4`, `zeros`, `order` or `inputs`, for what of it may be there.
fn quantise(argument: &str, case: &str) -> Result<Outcome, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut words = argument.split(' ');
    let mut scheme = Scheme::from_name(words.next().unwrap_or_default()).map_err(|e| text(&e))?;
    for word in words {
        match word.split_once('=') {
            Some(("group", size)) => {
                let size = size.parse().map_err(|_| "group=4".to_string())?;
                scheme.grouping = Grouping::Group(size);
            }
            _ if word == "zeros" => scheme.zeros = true,
            _ if word == "order" => scheme.group_index = true,
            _ if word == "inputs" => scheme.input_scales = true,
            _ => return Err(format!("`{word}` is nothing of a scheme")),
        }
    }
    let graph = read(case)?;
    verify(&graph).map_err(|errors| errors.to_string())?;
    let weights: Vec<_> = graph.weights.values().map(|w| (w.name.clone(), w.shape())).collect();
    let of = |name: &str, shape: &[u64]| {
        (name.ends_with(".weight") && shape.len() > 1).then_some(scheme)
    };
    let stored = Stored::new(&weights, &of).map_err(|e| text(&e))?;
    let part = engraft_compile::quantise(Part::whole(graph), &stored, &Nothing);
    Ok(Outcome::Becomes(part.map_err(|e| text(&e))?.graph.to_string()))
}

/// Knows no type of any tensor, so that each has its usual one.
struct Nothing;

impl Provider for Nothing {
    fn names(&self) -> &[String] {
        &[]
    }

    fn get(&self, _: &str) -> Option<&Supply> {
        None
    }

    fn stream(
        &self,
        name: &str,
        _: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        Err(WeightError::Unknown { parameter: name.to_owned() })
    }
}

fn read(case: &str) -> Result<Graph, String> {
    parse(case).map_err(|error| format!("it does not parse: {error}\n{case}"))
}

/// The line of a case that defines an entity, from 1.
fn line_of(graph: &Graph, case: &str, entity: AnyEntity) -> usize {
    let first = match entity {
        AnyEntity::Node(node) => graph.nodes[node].results[0].into(),
        AnyEntity::Value(value) => graph.nodes[graph.values[value].node].results[0].into(),
        entity => entity,
    };
    let word = match first {
        AnyEntity::Place(_) => "place".to_string(),
        entity => entity.to_string(),
    };
    // Only places share their first word.
    let skipped = match first {
        AnyEntity::Place(place) => place.as_u32() as usize,
        _ => 0,
    };
    let begins = |line: &str| line.trim_start().split([' ', ',']).next() == Some(&word);
    let mut lines = case.lines().enumerate().filter(|(_, line)| begins(line));
    let line = lines.nth(skipped).unwrap_or_else(|| panic!("no line defines {entity}:\n{case}"));
    line.0 + 1
}

const ERROR: &str = "; error: ";
const BECOMES: &str = "; becomes";

/// The same file with what comes of its cases now, instead of what it says.
fn run(file: &str) -> Result<String, String> {
    let (header, cases) = split(file);
    let first = header.lines().next().unwrap_or_default();
    let words = first.strip_prefix("; test ").ok_or("the first line must be `; test KIND`")?;
    let (kind, argument) = words.split_once(' ').unwrap_or((words, ""));
    let kind = KINDS.iter().find(|(name, _)| *name == kind);
    let (_, kind) = kind.ok_or_else(|| format!("{words} is no kind of test"))?;
    if cases.is_empty() {
        return Err("it has no case: a graph begins with its line `graph 1`".to_string());
    }
    let mut out = header.clone();
    for case in cases {
        match kind(argument, &case)? {
            Outcome::Errors(errors) => {
                for (i, line) in case.lines().enumerate() {
                    out.push_str(line);
                    for (_, message) in errors.iter().filter(|(at, _)| *at == i + 1) {
                        write!(out, " {ERROR}{message}").unwrap();
                    }
                    out.push('\n');
                }
            }
            Outcome::Becomes(text) => {
                writeln!(out, "{}\n\n{BECOMES}\n\n{text}", case.trim_end()).unwrap();
            }
        }
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// Header and cases, these without what is expected of them.
fn split(file: &str) -> (String, Vec<String>) {
    enum Part {
        Header,
        Case,
        /// After `; becomes`: its text has a line `graph 1` too, and that begins no case.
        Awaited,
        Expected,
    }
    let (mut header, mut cases) = (String::new(), Vec::<String>::new());
    let mut part = Part::Header;
    for line in file.lines() {
        if line.starts_with("graph ") {
            part = match part {
                Part::Awaited => Part::Expected,
                Part::Header | Part::Case | Part::Expected => Part::Case,
            };
            if let Part::Case = part {
                cases.push(String::new());
            }
        } else if line == BECOMES {
            part = Part::Awaited;
        }
        let into = match part {
            Part::Header => &mut header,
            Part::Case => cases.last_mut().expect("it was pushed"),
            Part::Awaited | Part::Expected => continue,
        };
        into.push_str(line.split(ERROR).next().unwrap_or_default().trim_end());
        into.push('\n');
    }
    (header, cases)
}

fn graph_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            graph_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "graph") {
            found.push(path);
        }
    }
}

#[test]
fn what_comes_of_each_case_is_what_its_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut files = Vec::new();
    graph_files(&folder, &mut files);
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    let bless = std::env::var_os("ENGRAFT_BLESS").is_some_and(|value| value == "1");
    let mut failures = String::new();
    for path in files {
        let name = path.strip_prefix(&folder).unwrap().display();
        let expected = fs::read_to_string(&path).unwrap();
        match run(&expected) {
            Err(error) => writeln!(failures, "{name}: {error}\n").unwrap(),
            Ok(actual) if actual == expected => {}
            Ok(actual) if bless => fs::write(&path, actual).unwrap(),
            Ok(actual) => {
                let diff = TextDiff::from_lines(&expected, &actual);
                let diff =
                    diff.unified_diff().header("what the file says", "what came").to_string();
                writeln!(failures, "{name}:\n{diff}").unwrap();
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{failures}If what came is right, run again with ENGRAFT_BLESS=1 to write it down."
    );
}
