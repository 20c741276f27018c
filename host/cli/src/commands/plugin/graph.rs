//! The graph in a report: one block of it, or all.

use engraft_ir::{Graph, PlaceKind};
use std::collections::BTreeMap;

/// The text of one place: from its line to its closing bracket.
fn place(text: &str, kind: PlaceKind) -> Option<&str> {
    let begin = text.find(&format!("\nplace {kind} {{\n"))? + 1;
    let end = text[begin..].find("\n}\n")?;
    Some(&text[begin..begin + end + 2])
}

/// The first block, with a heading.
pub fn summary(graph: &Graph) -> (String, String) {
    let text = graph.to_string();
    let shown = place(&text, PlaceKind::Block(0)).or_else(|| place(&text, PlaceKind::Embed));
    ("graph of block 0 (--graph shows all)".into(), format!("{}\n", shown.unwrap_or_default()))
}

/// How often each operation runs: `linear 15, rms_norm 7`.
pub fn operations(graph: &Graph) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, node) in graph.schedule() {
        *counts.entry(graph.nodes[node].op.name()).or_default() += 1;
    }
    let counts: Vec<_> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    counts.join(", ")
}
