//! Progress of what takes more than a second, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A bar over bytes that shows itself after a second.
pub struct Bytes {
    bar: ProgressBar,
    since: Instant,
}

impl Bytes {
    /// `what` stands before the bar: `writing engine`.
    pub fn new(what: &'static str) -> Bytes {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        Bytes { bar, since: Instant::now() }
    }

    /// Says how far it is.
    pub fn set(&self, done: u64, total: u64) {
        if self.bar.is_hidden()
            && self.since.elapsed() > Duration::from_secs(1)
            && std::io::stderr().is_terminal()
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar over anything that is counted, on the same terms.
pub struct Count {
    bytes: Bytes,
}

impl Count {
    /// `scoring … tokens`
    pub fn new(what: &'static str, unit: &'static str) -> Count {
        let bytes = Bytes::new(what);
        let style =
            format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&style) {
            bytes.bar.set_style(style.progress_chars("=> "));
        }
        Count { bytes }
    }

    /// Says how far it is.
    pub fn set(&self, done: u64, total: u64) {
        self.bytes.set(done, total);
    }
}
