//! What was checked of a plugin, and what its author would do next.

use crate::output;
use anyhow::Result;
use serde_json::{Map, Value, json};

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Warning,
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        }
    }
}

/// One check.
struct Check {
    name: &'static str,
    outcome: Outcome,
    found: String,
}

/// A report that grows while checks run, and is shown however they end.
pub struct Report {
    head: String,
    identity: Value,
    checks: Vec<Check>,
    /// Text under a heading of its own.
    sections: Vec<(String, String)>,
    /// The same and more, for programs.
    details: Map<String, Value>,
    next: Vec<String>,
}

impl Report {
    /// Nothing checked yet.
    pub fn new(head: String, identity: Value) -> Report {
        let (checks, sections, details, next) = Default::default();
        Report { head, identity, checks, sections, details, next }
    }

    /// A check that passed, and what it found.
    pub fn passed(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::Ok, found: found.into() });
    }

    /// One that passed, with something to look at.
    pub fn warned(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::Warning, found: found.into() });
    }

    /// One that did not.
    pub fn failed(&mut self, name: &'static str, found: impl Into<String>) {
        self.checks.push(Check { name, outcome: Outcome::Failed, found: found.into() });
    }

    /// More about one, for people and for programs.
    pub fn section(&mut self, heading: impl Into<String>, text: String, key: &str, details: Value) {
        self.sections.push((heading.into(), text));
        self.details.insert(key.into(), details);
    }

    /// What an author would do next.
    pub fn next(&mut self, what: impl Into<String>) {
        self.next.push(what.into());
    }

    /// Whether every check passed.
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != Outcome::Failed)
    }

    /// Shows it; `error` is what stopped the checks, if anything did.
    pub fn print(self, as_json: bool, error: Option<Value>) -> Result<()> {
        if as_json {
            let passed = self.is_sound() && error.is_none();
            let one = |c: &Check| {
                let outcome = c.outcome.name().to_ascii_lowercase();
                json!({ "check": c.name, "outcome": outcome, "found": c.found })
            };
            let checks = self.checks.iter().map(one);
            let mut all = Map::new();
            all.insert("plugin".into(), self.identity);
            all.insert("passed".into(), passed.into());
            all.insert("checks".into(), checks.collect());
            all.extend(self.details);
            all.insert("next".into(), self.next.into());
            all.extend(error.map(|error| ("error".to_owned(), error)));
            return output::json(&Value::Object(all));
        }
        let row = |c: &Check| (format!("{} {}", c.outcome.name(), c.name), c.found.clone());
        let rows: Vec<_> = self.checks.iter().map(row).collect();
        let mut text = format!("{}{}", self.head, output::table(&rows));
        for (heading, section) in &self.sections {
            text += &format!("\n{heading}\n{section}");
        }
        if !self.sections.is_empty() && !self.next.is_empty() {
            text.push('\n');
        }
        for next in &self.next {
            text += &format!("next: {next}\n");
        }
        output::text(&text)
    }
}
