//! Text as it comes, token by token: characters split over tokens, and stop strings split over
//! pieces of text.

use crate::error::RuntimeError;
use crate::tokenizer::Tokenizer;

/// Turns ids into text piece by piece. All pieces and [`Detokenizer::finish`] together are what
/// decoding all ids at once gives.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    ids: Vec<u32>,
    /// Where the ids begin that give the next piece its context.
    context: usize,
    /// Up to where text was given out.
    given: usize,
}

impl Detokenizer {
    /// Takes an id; the text that is certain by now and was not given yet.
    ///
    /// # Errors
    /// Where the tokenizer cannot decode.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, RuntimeError> {
        self.ids.push(id);
        let text = self.pending(tokenizer)?;
        // A replacement character at the end may be the beginning of a real one.
        if text.is_empty() || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        self.context = self.given;
        self.given = self.ids.len();
        Ok(text)
    }

    /// The rest, whole character or not.
    ///
    /// # Errors
    /// Where the tokenizer cannot decode.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String, RuntimeError> {
        let text = self.pending(tokenizer)?;
        self.given = self.ids.len();
        Ok(text)
    }

    /// What follows the text given out; decoders look at neighbours, so some of the ids before
    /// are decoded with it.
    fn pending(&self, tokenizer: &Tokenizer) -> Result<String, RuntimeError> {
        let before = tokenizer.decode(&self.ids[self.context..self.given], true)?;
        let all = tokenizer.decode(&self.ids[self.context..], true)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_string())
    }
}

/// Looks for stop strings in text that comes in pieces, and holds back what may be the
/// beginning of one.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Stops at the first of these; empty ones stop nothing.
    pub fn new(strings: impl IntoIterator<Item = String>) -> StopStrings {
        let strings = strings.into_iter().filter(|s| !s.is_empty()).collect();
        StopStrings { strings, held: String::new() }
    }

    /// Takes a piece: the text that may be shown by now, and the stop string if one is complete.
    /// The stop string itself and what follows it are never shown.
    pub fn push(&mut self, piece: &str) -> (String, Option<String>) {
        self.held.push_str(piece);
        let found = self
            .strings
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at, stop)))
            .min_by_key(|(at, stop)| (*at, stop.len()));
        if let Some((at, stop)) = found {
            let stop = stop.clone();
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Some(stop));
        }
        let keep = self.strings.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut filter = StopStrings::new(stops.iter().map(|s| s.to_string()));
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, stop) = filter.push(piece);
            shown.push(text);
            if stop.is_some() {
                return (shown, stop);
            }
        }
        shown.push(filter.finish());
        (shown, None)
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_never_shown() {
        let (shown, stop) = run(&["</end>"], &["one <", "/en", "d> two"]);
        assert_eq!(shown, ["one ", "", ""]);
        assert_eq!(stop.as_deref(), Some("</end>"));
    }

    #[test]
    fn what_only_began_like_one_is_shown_late() {
        let (shown, stop) = run(&["</end>"], &["a <", "/e", "lse", " b <"]);
        assert_eq!(shown, ["a ", "", "</else", " b ", "<"]);
        assert_eq!(stop, None);
    }

    #[test]
    fn the_earliest_stop_wins_and_repeated_beginnings_are_found() {
        let (shown, stop) = run(&["aab"], &["a", "a", "a", "b"]);
        assert_eq!(shown.concat(), "a");
        assert_eq!(stop.as_deref(), Some("aab"));
        let (shown, stop) = run(&["zz", "b"], &["a b zz"]);
        assert_eq!((shown.concat().as_str(), stop.as_deref()), ("a ", Some("b")));
    }

    #[test]
    fn characters_of_many_bytes_are_not_cut() {
        let (shown, stop) = run(&["é中"], &["x é", "é", "中 y"]);
        assert_eq!(shown.concat(), "x é");
        assert_eq!(stop.as_deref(), Some("é中"));
        assert_eq!(run(&["🦀🦀"], &["🦀", "x"]).0.concat(), "🦀x");
    }

    #[test]
    fn characters_come_whole_and_pieces_add_up_to_the_text() {
        let tokenizer = crate::tokenizer::tests::bytes_tokenizer(serde_json::json!({}));
        // `é`, a byte that is no character, `x`, the beginning of a character.
        let ids = [0xc3, 0xa9, 0xff, 120, 257, 0xe4, 0xb8];
        let mut detokenizer = Detokenizer::default();
        let mut pieces: Vec<String> =
            ids.iter().map(|&id| detokenizer.push(&tokenizer, id).expect("decodes")).collect();
        pieces.push(detokenizer.finish(&tokenizer).expect("decodes"));
        assert_eq!(pieces[..4], ["", "é", "", "\u{fffd}x"]);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).expect("decodes"));
    }

    #[test]
    fn without_stop_strings_nothing_is_held() {
        assert_eq!(run(&[""], &["a", "b"]), (vec!["a".into(), "b".into(), String::new()], None));
    }
}
