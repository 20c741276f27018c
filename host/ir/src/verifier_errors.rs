//! What the verifier says, and a graph's text with it: each error under the line it belongs to.

use crate::entities::AnyEntity;
use crate::graph::Graph;
use crate::write::write_graph;
use engraft_diagnostic::{Code, Diagnostic, Fault};
use std::collections::BTreeMap;
use std::fmt;

/// A rule that a graph breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierError {
    /// What breaks it.
    pub location: AnyEntity,
    /// The line of the text form that defines it, where there is one.
    pub context: Option<String>,
    /// How.
    pub message: String,
}

impl fmt::Display for VerifierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.message)
    }
}

/// The rules that a graph breaks: at least one, at most a hundred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierErrors(pub Vec<VerifierError>);

impl fmt::Display for VerifierErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("the graph does not verify"),
            [only] => write!(f, "the graph does not verify: {only}"),
            [first, rest @ ..] => {
                write!(f, "the graph does not verify: {first} ({} more)", rest.len())
            }
        }
    }
}

impl std::error::Error for VerifierErrors {}

impl Diagnostic for VerifierErrors {
    fn code(&self) -> Code {
        Code(803)
    }

    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn location(&self) -> Option<String> {
        self.0.first().and_then(|first| first.context.clone())
    }

    fn help(&self) -> Option<String> {
        Some("mend what wrote the graph: a plugin, a pass, or a hand".to_string())
    }
}

/// The text of a graph with each error as a comment under the line that it belongs to.
pub fn display_errors(graph: &Graph, errors: &VerifierErrors) -> String {
    let mut by_entity: BTreeMap<AnyEntity, Vec<&VerifierError>> = BTreeMap::new();
    for error in &errors.0 {
        let line = match error.location {
            AnyEntity::Value(value) => match graph.values.get(value) {
                Some(data) => data.node.into(),
                None => AnyEntity::Graph,
            },
            entity => entity,
        };
        by_entity.entry(line).or_default().push(error);
    }
    let mut text = String::new();
    // A string takes whatever is written.
    let _ = write_graph(&mut text, graph, &mut |out, entity| {
        for error in by_entity.remove(&entity).into_iter().flatten() {
            writeln!(out, "; ^ error: {error}")?;
        }
        Ok(())
    });
    for error in by_entity.into_values().flatten() {
        text.push_str(&format!("; error: {error}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Value, parse, verify};

    #[test]
    fn errors_stand_under_their_lines() {
        let text = "graph 1
            place embed {
                w0 = weight \"e\" f32 [10 vocabulary, 8]
                v0 = tokens
                v1 = embedding v0, w0
                return v1
            }";
        let mut graph = parse(text).expect("it parses");
        graph.values[Value::from_u32(1)].ty.width = Some(9);
        let errors = verify(&graph).expect_err("it is spoilt");
        let shown = display_errors(&graph, &errors);
        let lines: Vec<&str> = shown.lines().map(str::trim).collect();
        let at =
            lines.iter().position(|line| line.starts_with("v1 = embedding")).expect("its line");
        assert!(lines[at + 1].starts_with("; ^ error: v1: v1 is f32 [tokens, 9]"), "{shown}");
    }
}
