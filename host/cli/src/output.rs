//! What commands print: text for a person, or one JSON value.

use anyhow::Result;
use engraft_files::FileError;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether another process speaks for this one.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From here on, nothing is written to standard output or standard error.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Whether another process speaks for this one.
pub fn is_silent() -> bool {
    SILENT.load(Ordering::Relaxed)
}

/// Writes to standard output; a closed pipe is an error that ends the command quietly.
pub fn text(text: &str) -> Result<()> {
    if is_silent() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(FileError::io("write", Path::new("standard output"))(e).into())
        }
        done => Ok(done?),
    }
}

/// One JSON value, on lines of its own.
pub fn json(value: &serde_json::Value) -> Result<()> {
    text(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Sentences on standard error, a line each, that a person should read and nothing fails for.
pub fn notes<'a>(sentences: impl IntoIterator<Item = &'a str>) {
    for sentence in sentences {
        crate::legacy::say(&format!("note: {sentence}"));
    }
}

/// `270.3 MB`: decimal, as disks are sold and as `ls --si` shows.
pub fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A path as one word of a command line, in quotes where a shell would read it otherwise.
pub fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%~".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Rows of two columns, the first padded.
pub fn table(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| {
            let pad = " ".repeat(width - name.chars().count());
            format!("  {name}{pad}  {value}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(word(Path::new("a/b-c.wasm")), "a/b-c.wasm");
        assert_eq!(word(Path::new("it's here")), r"'it'\''s here'");
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(269_060_352), "269.1 MB");
    }
}
