//! What is said of two checkpoints or engines.

use super::leaves;
use super::side::Side;
use anyhow::Result;
use engraft_diagnostic::escape;
use engraft_weights::{Distance, Supply};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use std::collections::BTreeMap;

/// Rows of each part of the report, unless all are asked for.
const SHOWN: usize = 20;

/// Keys of a config that say how a model is spread over ranks, and nothing of the model.
const SPREAD: [&str; 2] = ["use_parallel_embedding", "embedding_sharding_dim"];

/// What a side says of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<u64>,
}

impl Tensor {
    pub(super) fn new(prefix: &str, name: &str, supply: &Supply) -> Tensor {
        let name = format!("{prefix}{name}");
        Tensor { name, dtype: supply.dtype.to_string(), shape: supply.shape() }
    }

    /// `f32 [4, 8]`
    fn describe(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "dtype": self.dtype, "shape": self.shape })
    }
}

/// A tensor that both have in the same shape.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) left: Tensor,
    pub(super) right: Tensor,
    pub(super) distance: Distance,
}

impl Row {
    fn is_equal(&self) -> bool {
        self.distance.different == 0 && self.left.dtype == self.right.dtype
    }
}

/// Everything in which two differ.
pub(super) struct Report {
    kinds: [&'static str; 2],
    /// How each is spread over ranks, where that differs.
    spread: Option<[String; 2]>,
    /// Key, and what each says.
    config: Vec<(String, Option<Value>, Option<Value>)>,
    /// Lines of the graphs, with their places.
    graph: Vec<String>,
    /// Whether there are two graphs.
    graphs: bool,
    /// Text files, with what is with them.
    files: Vec<String>,
    pub(super) only_left: Vec<Tensor>,
    pub(super) only_right: Vec<Tensor>,
    pub(super) shapes: Vec<(Tensor, Tensor)>,
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// All but the tensors.
    pub(super) fn new(left: &Side, right: &Side) -> Result<Report> {
        let (one, two) = (left.spread()?, right.spread()?);
        let other_spread = one.mapping != two.mapping || one != two;
        let mut report = Report {
            kinds: [left.kind(), right.kind()],
            spread: other_spread.then(|| [one.mapping.to_string(), two.mapping.to_string()]),
            config: Vec::new(),
            graph: Vec::new(),
            graphs: false,
            files: Vec::new(),
            only_left: Vec::new(),
            only_right: Vec::new(),
            shapes: Vec::new(),
            rows: Vec::new(),
        };
        let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
        leaves(&left.config()?, "", &mut a);
        leaves(&right.config()?, "", &mut b);
        // How an engine was built is compared with how another one was, and with nothing else.
        let built = left.kind() == right.kind();
        let counts = |key: &str| {
            (built || !key.starts_with("build_config."))
                && !(other_spread && (key.starts_with("mapping.") || SPREAD.contains(&key)))
        };
        let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys.into_iter().filter(|key| counts(key) && a.get(*key) != b.get(*key)) {
            report.config.push((key.clone(), a.get(key).cloned(), b.get(key).cloned()));
        }
        let (one, two) = (left.graphs(), right.graphs());
        if one.len() == two.len() && !one.is_empty() {
            report.graphs = true;
            for (rank, (a, b)) in one.iter().zip(&two).enumerate() {
                let prefix = if one.len() > 1 { format!("rank{rank}, ") } else { String::new() };
                report.graph.extend(changed_lines(&prefix, a, b));
            }
        }
        let (one, two) = (left.text_files()?, right.text_files()?);
        for (name, bytes) in &one {
            match two.get(name) {
                None => report.files.push(format!("{} is only in the first", escape(name))),
                Some(other) if other != bytes => {
                    report.files.push(format!("{} is another", escape(name)));
                }
                Some(_) => {}
            }
        }
        let others = two.keys().filter(|name| !one.contains_key(*name));
        report.files.extend(others.map(|name| format!("{} is only in the second", escape(name))));
        Ok(report)
    }

    /// The worst first, then by name.
    pub(super) fn sort(&mut self) {
        self.rows.sort_by(|a, b| {
            let worst = b.distance.relative.total_cmp(&a.distance.relative);
            worst
                .then(b.distance.different.cmp(&a.distance.different))
                .then_with(|| a.left.name.cmp(&b.left.name))
        });
    }

    pub(super) fn is_equal(&self) -> bool {
        self.config.is_empty()
            && self.graph.is_empty()
            && self.files.is_empty()
            && self.only_left.is_empty()
            && self.only_right.is_empty()
            && self.shapes.is_empty()
            && self.rows.iter().all(Row::is_equal)
    }

    pub(super) fn text(&self, all: bool) -> String {
        let most = if all { usize::MAX } else { SHOWN };
        let mut text = String::new();
        let mut section = |title: &str, lines: Vec<String>| {
            if lines.is_empty() {
                return;
            }
            text += &format!("{title}:\n");
            for line in lines.iter().take(most) {
                text += &format!("  {line}\n");
            }
            if let Some(more) = lines.len().checked_sub(most).filter(|more| *more > 0) {
                text += &format!("  and {more} more: --all lists them\n");
            }
        };
        if let Some([left, right]) = &self.spread {
            section(
                "spread, which is no difference of the model",
                vec![format!("{left} -> {right}")],
            );
        }
        let value = |value: &Option<Value>| {
            value.as_ref().map_or_else(|| "absent".to_owned(), |v| escape(&v.to_string()))
        };
        let config = self.config.iter();
        section(
            "config",
            config
                .map(|(k, a, b)| format!("{}: {} -> {}", escape(k), value(a), value(b)))
                .collect(),
        );
        section("graph", self.graph.clone());
        section("files", self.files.clone());
        let named = |t: &Tensor| format!("{} {}", escape(&t.name), t.describe());
        section("tensors only in the first", self.only_left.iter().map(named).collect());
        section("tensors only in the second", self.only_right.iter().map(named).collect());
        section(
            "tensors of another shape",
            self.shapes.iter().map(|(a, b)| format!("{} -> {}", named(a), b.describe())).collect(),
        );
        let other: Vec<&Row> = self.rows.iter().filter(|row| !row.is_equal()).collect();
        section("tensors that differ", rows(&other));
        let equal = self.rows.len() - other.len();
        text + &match self.is_equal() {
            true => {
                let graph = if self.graphs { ", the graph" } else { "" };
                format!("equal: the config{graph} and all {equal} tensors\n")
            }
            false => format!("{equal} of {} tensors are equal\n", self.tensors()),
        }
    }

    fn tensors(&self) -> usize {
        self.rows.len() + self.shapes.len() + self.only_left.len() + self.only_right.len()
    }

    pub(super) fn json(&self) -> Value {
        let number = |n: f64| if n.is_finite() { json!(n) } else { json!(n.to_string()) };
        let config = self.config.iter();
        let config: Vec<Value> =
            config.map(|(key, a, b)| json!({ "key": key, "left": a, "right": b })).collect();
        let tensors: Vec<Value> = self
            .rows
            .iter()
            .filter(|row| !row.is_equal())
            .map(|row| {
                json!({
                    "name": row.left.name, "shape": row.left.shape,
                    "left": row.left.dtype, "right": row.right.dtype,
                    "elements": row.distance.elements, "different": row.distance.different,
                    "max_abs": number(row.distance.largest),
                    "relative_l2": number(row.distance.relative),
                })
            })
            .collect();
        let shapes: Vec<Value> =
            self.shapes.iter().map(|(a, b)| json!({"left": a.json(), "right": b.json()})).collect();
        json!({
            "equal": self.is_equal(),
            "kinds": self.kinds,
            "spread": self.spread,
            "config": config,
            "graph": self.graph,
            "files": self.files,
            "only_left": self.only_left.iter().map(Tensor::json).collect::<Vec<_>>(),
            "only_right": self.only_right.iter().map(Tensor::json).collect::<Vec<_>>(),
            "shapes": shapes,
            "tensors": tensors,
            "equal_tensors": self.rows.iter().filter(|row| row.is_equal()).count(),
        })
    }
}

/// A table of tensors, with its head.
fn rows(rows: &[&Row]) -> Vec<String> {
    let width = rows.iter().map(|row| escape(&row.left.name).chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|row| {
            let name = escape(&row.left.name);
            let pad = " ".repeat(width - name.chars().count());
            let Distance { elements, different, largest, relative } = row.distance;
            let types = match row.left.dtype == row.right.dtype {
                true => row.left.dtype.clone(),
                false => format!("{} -> {}", row.left.dtype, row.right.dtype),
            };
            format!(
                "{name}{pad}  max {largest:.2e}, relative {relative:.2e}, {different} of {elements} \
                 elements, {types}"
            )
        })
        .collect()
}

/// What differs in two graphs, line by line, each with its place.
fn changed_lines(prefix: &str, left: &str, right: &str) -> Vec<String> {
    let mut place = "before all places".to_owned();
    let mut lines = Vec::new();
    for change in TextDiff::from_lines(left, right).iter_all_changes() {
        let line = change.value().trim_end();
        if let Some(rest) = line.strip_prefix("place ") {
            place = rest.trim_end_matches(" {").to_owned();
        }
        let sign = match change.tag() {
            ChangeTag::Equal => continue,
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
        };
        lines.push(format!("{prefix}{place}: {sign} {}", escape(line.trim_start())));
    }
    lines
}
