//! What a plugin read of a model's config, and what it did not.

use crate::output::table;
use anyhow::Result;
use engraft_convert::Pipeline;
use engraft_diagnostic::escape;
use engraft_plugin::{Reading, Said};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The section of a report: text, and JSON.
pub fn section(pipeline: &Pipeline) -> Result<(String, Value)> {
    let readings = pipeline.readings()?;
    let read: BTreeSet<&str> = readings.iter().map(|r| r.path.as_str()).collect();
    let ignorable: Vec<&str> =
        pipeline.source().ignorable_keys().into_iter().filter(|key| !read.contains(key)).collect();
    let text_of = |reading: &Reading| {
        let value = reading.value.as_ref().map(|value| escape(&value.to_json().to_string()));
        let path = escape(&reading.path);
        match (&reading.said, value) {
            (Said::Field(other), Some(value)) => format!("{path} = {value}, as {}", escape(other)),
            (_, Some(value)) => format!("{path} = {value}"),
            (_, None) => path,
        }
    };
    let of = |wanted: &dyn Fn(&Said) -> bool| -> Vec<String> {
        readings.iter().filter(|reading| wanted(&reading.said)).map(text_of).collect()
    };
    let fallback = |said: &Said| matches!(said, Said::Default | Said::Field(_));
    let unread: Vec<String> = pipeline.unread().iter().map(|key| escape(key)).collect();
    let mut rows = Vec::new();
    for (what, entries) in [
        ("read", of(&|said| *said == Said::Config)),
        ("fell back", of(&fallback)),
        ("by tensors", of(&|said| *said == Said::Tensors)),
        ("has none of", cut(of(&|said| *said == Said::Nobody))),
        ("says nothing", ignorable.iter().map(|key| escape(key)).collect()),
        ("NOT READ", unread),
    ] {
        for (i, line) in lines(&entries).into_iter().enumerate() {
            rows.push((if i == 0 { what } else { "" }.to_owned(), line));
        }
    }
    let said = |said: &Said| match said {
        Said::Config => json!("config"),
        Said::Default => json!("default"),
        Said::Field(other) => json!({ "field": other }),
        Said::Tensors => json!("tensors"),
        Said::Nobody => json!(null),
    };
    let one = |r: &Reading| {
        json!({
            "path": r.path,
            "value": r.value.as_ref().map(|value| value.to_json()),
            "said_by": said(&r.said),
        })
    };
    let details = json!({
        "fields": readings.iter().map(one).collect::<Vec<_>>(),
        "says_nothing": ignorable,
        "not_read": pipeline.unread(),
    });
    Ok((table(&rows), details))
}

/// The first of many that say nothing.
fn cut(mut entries: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 12;
    if entries.len() > SHOWN {
        let more = entries.split_off(SHOWN).len();
        entries.push(format!("… and {more} more (--json names them)"));
    }
    entries
}

/// Entries in lines that a terminal shows whole.
fn lines(entries: &[String]) -> Vec<String> {
    const WIDTH: usize = 84;
    let mut lines: Vec<String> = Vec::new();
    for entry in entries {
        match lines.last_mut() {
            Some(line) if line.len() + entry.len() + 2 <= WIDTH => {
                line.push_str("; ");
                line.push_str(entry);
            }
            _ => lines.push(entry.clone()),
        }
    }
    lines
}
