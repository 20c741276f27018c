//! Words, numbers and strings of one line of the text form.
//!
//! The text has no construct that spans lines, so a line is all that is ever looked at: no
//! recursion, and nothing allocated that the line does not spell out.

use crate::parse::ParseError;
use engraft_diagnostic::escape;
use std::str::FromStr;

/// The longest part of an unexpected text that a message shows.
const SHOWN: usize = 32;

/// A line, and how far it has been read.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    /// Where the next token begins or the space before it; always between characters.
    at: usize,
    /// From 1.
    line: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str, line: usize) -> Cursor<'a> {
        Cursor { text, at: 0, line }
    }

    /// The next byte that is no space; 0 where the line or its statement is over.
    pub(crate) fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        match bytes.get(self.at) {
            None | Some(b';') => 0,
            Some(&byte) => byte,
        }
    }

    /// An error at the next token.
    pub(crate) fn fail<T>(&mut self, message: impl Into<String>) -> Result<T, ParseError> {
        self.peek();
        let column = self.column();
        self.fail_at(column, message)
    }

    /// An error at a column of this line.
    pub(crate) fn fail_at<T>(
        &self,
        column: usize,
        message: impl Into<String>,
    ) -> Result<T, ParseError> {
        Err(ParseError { line: self.line, column, message: message.into() })
    }

    /// Where it has been read to, in bytes from 1.
    pub(crate) fn column(&self) -> usize {
        self.at + 1
    }

    /// The number of the line, from 1.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// An error that says what should stand here, and what does.
    pub(crate) fn expected<T>(&mut self, what: &str) -> Result<T, ParseError> {
        if self.peek() == 0 {
            return self.fail(format!("expected {what}, the line ends"));
        }
        let rest = &self.text[self.at..];
        let end = rest.find([' ', ',', ';']).unwrap_or(rest.len()).max(1);
        let end = (end.min(SHOWN)..=rest.len()).find(|&i| rest.is_char_boundary(i));
        let found = escape(&rest[..end.unwrap_or(rest.len())]);
        self.fail(format!("expected {what}, found `{found}`"))
    }

    /// An error unless the statement is over.
    pub(crate) fn end(&mut self) -> Result<(), ParseError> {
        if self.peek() == 0 { Ok(()) } else { self.expected("the end of the line") }
    }

    /// Takes an ASCII character if it is next.
    pub(crate) fn take(&mut self, symbol: u8) -> bool {
        let next = self.peek() == symbol;
        if next {
            self.at += 1;
        }
        next
    }

    pub(crate) fn expect(&mut self, symbol: u8) -> Result<(), ParseError> {
        if self.take(symbol) {
            return Ok(());
        }
        self.expected(&format!("`{}`", char::from(symbol)))
    }

    /// The next bytes that a test holds for; ASCII alone may pass it.
    fn run(&mut self, test: impl Fn(u8) -> bool) -> &'a str {
        self.peek();
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|byte| !test(byte)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A word of letters, digits and `_`; empty where there is none.
    pub(crate) fn word(&mut self) -> &'a str {
        self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    /// Puts back the word that was just read.
    pub(crate) fn back(&mut self, word: &str) {
        self.at -= word.len();
    }

    /// `[` items `,` … `]`
    pub(crate) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        self.expect(b'[')?;
        let mut items = Vec::new();
        while !self.take(b']') {
            if !items.is_empty() {
                self.expect(b',')?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The word that must stand here.
    pub(crate) fn keyword(&mut self, keyword: &str) -> Result<(), ParseError> {
        let start = self.at;
        if self.word() == keyword {
            return Ok(());
        }
        self.at = start;
        self.expected(&format!("`{keyword}`"))
    }

    /// What a word stands for, in a table.
    pub(crate) fn choice<T>(
        &mut self,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ParseError> {
        let start = self.at;
        let word = self.word();
        match find(word) {
            Some(found) => Ok(found),
            None => {
                self.at = start;
                self.expected(what)
            }
        }
    }

    /// The number of an entity: `12` of `v12`.
    pub(crate) fn entity(&mut self, letter: char) -> Result<u32, ParseError> {
        let start = self.at;
        let digits = self.word().strip_prefix(letter).filter(|digits| {
            // One spelling each.
            !digits.starts_with(['+', '0']) || *digits == "0"
        });
        match digits.and_then(|digits| digits.parse().ok()).filter(|&number| number < u32::MAX) {
            Some(number) => Ok(number),
            None => {
                self.at = start;
                self.expected(&format!("`{letter}` and a number"))
            }
        }
    }

    /// The entity that is defined next.
    pub(crate) fn define(&mut self, letter: char, number: usize) -> Result<(), ParseError> {
        let start = self.at;
        if self.entity(letter).is_ok_and(|found| found as usize == number) {
            return Ok(());
        }
        self.at = start;
        self.expected(&format!("`{letter}{number}`, the next in order"))
    }

    /// A whole number.
    pub(crate) fn integer<T: FromStr>(&mut self, what: &str) -> Result<T, ParseError> {
        let start = self.at;
        let digits = self.run(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(number) => Ok(number),
            Err(_) => {
                self.at = start;
                self.expected(what)
            }
        }
    }

    /// A finite number.
    pub(crate) fn number(&mut self) -> Result<f64, ParseError> {
        let start = self.at;
        let digits = self.run(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'+' | b'-'));
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => {
                self.at = start;
                self.expected("a finite number")
            }
        }
    }

    /// `name=`
    pub(crate) fn attribute(&mut self, name: &str) -> Result<(), ParseError> {
        let start = self.at;
        if self.word() == name && self.take(b'=') {
            return Ok(());
        }
        self.at = start;
        self.expected(&format!("`{name}=`"))
    }

    /// Whether a word is next.
    pub(crate) fn sees(&mut self, keyword: &str) -> bool {
        let start = self.at;
        let word = self.word();
        self.at = start;
        word == keyword
    }

    /// Takes a word if it is next.
    pub(crate) fn maybe_keyword(&mut self, keyword: &str) -> bool {
        let next = self.sees(keyword);
        if next {
            self.word();
        }
        next
    }

    /// `name=` and a whole number of 32 bits.
    pub(crate) fn integer_attribute(&mut self, name: &str) -> Result<u32, ParseError> {
        self.attribute(name)?;
        self.integer("a number of 32 bits")
    }

    /// `name=` and a finite number.
    pub(crate) fn number_attribute(&mut self, name: &str) -> Result<f64, ParseError> {
        self.attribute(name)?;
        self.number()
    }

    /// A string in quotes.
    pub(crate) fn string(&mut self) -> Result<String, ParseError> {
        if !self.take(b'"') {
            return self.expected("a string in quotes");
        }
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(|c: char| c == '"' || c == '\\' || c.is_control());
            let Some(plain) = plain else {
                return self.fail("the string has no closing quote");
            };
            string.push_str(&rest[..plain]);
            self.at += plain;
            let rest = &rest[plain..];
            let (length, c) = match rest.as_bytes() {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(string);
                }
                [b'\\', c @ (b'"' | b'\\'), ..] => (2, Some(char::from(*c))),
                [b'\\', b'u', b'{', ..] => match rest.split_once('}') {
                    Some((digits, _)) => (digits.len() + 1, unicode(&digits[3..])),
                    None => (0, None),
                },
                _ => (0, None),
            };
            let Some(c) = c else {
                return self.fail("expected `\\\"`, `\\\\` or `\\u{…}` in the string");
            };
            string.push(c);
            self.at += length;
        }
    }
}

/// The character with a number in base 16.
fn unicode(digits: &str) -> Option<char> {
    if digits.starts_with('+') {
        return None;
    }
    char::from_u32(u32::from_str_radix(digits, 16).ok()?)
}
