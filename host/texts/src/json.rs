//! JSON lines, and one array of objects: a text of each object.
//!
//! Objects are parsed one at a time, and of each only the fields that may hold its text.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use engraft_files::{FileError, interrupt};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::LISTED;
use crate::plain::MARK;
use crate::taken::Taken;
use crate::{FIELDS, Place, TextsError};

/// How many bytes an object may have: several times the longest book.
const LIMIT: usize = 64 << 20;

/// Reads objects from the beginning of a file.
///
/// # Errors
/// What the file system says, [`TextsError::Json`], [`TextsError::NoField`] and
/// [`TextsError::TooLong`].
pub(crate) fn read(path: &Path, taken: &mut Taken) -> Result<(), TextsError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let mut reader =
        Reader { path, reader: BufReader::new(file), record: Vec::new(), lines: 0, limit: LIMIT };
    if reader.skip_to_value()? == Some(b'[') {
        reader.reader.consume(1);
        reader.elements(taken)
    } else {
        reader.lines(taken)
    }
}

struct Reader<'a, R> {
    path: &'a Path,
    reader: R,
    /// The object at hand, as it stands in the file.
    record: Vec<u8>,
    /// How many lines were left out before the first.
    lines: u64,
    limit: usize,
}

impl<R: BufRead> Reader<'_, R> {
    /// The next byte that is no white space and no byte order mark, still to be read.
    fn skip_to_value(&mut self) -> Result<Option<u8>, TextsError> {
        loop {
            let buffer = self.reader.fill_buf();
            let buffer = buffer.map_err(FileError::io("read", self.path))?;
            if buffer.starts_with(MARK) {
                self.reader.consume(MARK.len());
                continue;
            }
            match buffer.first() {
                Some(byte) if byte.is_ascii_whitespace() => {
                    self.lines += u64::from(*byte == b'\n');
                    self.reader.consume(1);
                }
                other => return Ok(other.copied()),
            }
        }
    }

    fn lines(&mut self, taken: &mut Taken) -> Result<(), TextsError> {
        for number in self.lines + 1.. {
            if taken.full() {
                break;
            }
            interrupt::check()?;
            self.record.clear();
            let mut within = (&mut self.reader).take(self.limit as u64 + 1);
            let count = within.read_until(b'\n', &mut self.record);
            if count.map_err(FileError::io("read", self.path))? == 0 {
                break;
            }
            let place = Place::Line(number);
            if self.record.len() > self.limit {
                return Err(self.too_long(place));
            }
            if !self.record.trim_ascii().is_empty() {
                self.take(place, taken)?;
            }
        }
        Ok(())
    }

    /// The elements of an array whose bracket was read.
    fn elements(&mut self, taken: &mut Taken) -> Result<(), TextsError> {
        for number in 1.. {
            if taken.full() {
                break;
            }
            interrupt::check()?;
            let place = Place::Element(number);
            let last = self.element(place)?;
            // An empty array, or a comma before its end.
            if !(last && self.record.trim_ascii().is_empty()) {
                self.take(place, taken)?;
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Reads to the comma or bracket behind an element; whether it was the bracket. What is
    /// between is left to the parser.
    fn element(&mut self, place: Place) -> Result<bool, TextsError> {
        self.record.clear();
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        loop {
            let buffer = self.reader.fill_buf();
            let buffer = buffer.map_err(FileError::io("read", self.path))?;
            if buffer.is_empty() {
                let reason = "the file ends within the array".to_owned();
                return Err(TextsError::Json { path: self.path.to_owned(), place, reason });
            }
            let mut end = None;
            for (i, &byte) in buffer.iter().enumerate() {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    _ if quoted => {}
                    b',' | b']' if depth == 0 => {
                        end = Some((i, byte == b']'));
                        break;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
            }
            let count = end.map_or(buffer.len(), |(i, _)| i);
            self.record.extend_from_slice(&buffer[..count]);
            self.reader.consume(count + usize::from(end.is_some()));
            if self.record.len() > self.limit {
                return Err(self.too_long(place));
            }
            if let Some((_, last)) = end {
                return Ok(last);
            }
        }
    }

    fn take(&self, place: Place, taken: &mut Taken) -> Result<(), TextsError> {
        let path = || self.path.to_owned();
        let object: Object = serde_json::from_slice(&self.record)
            .map_err(|error| TextsError::Json { path: path(), place, reason: reason(&error) })?;
        match object.text {
            Some(text) => taken.put(&text),
            // As in a table, a text that is null is none.
            None if object.null => {}
            None => return Err(TextsError::NoField { path: path(), place, fields: object.fields }),
        }
        Ok(())
    }

    fn too_long(&self, place: Place) -> TextsError {
        TextsError::TooLong { path: self.path.to_owned(), place, limit: self.limit }
    }
}

/// What the parser says, with its column only: the line is known better.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what}, at byte {}", error.column()),
        None => text,
    }
}

/// An object, as far as it matters here.
#[derive(Default)]
struct Object {
    /// The first of [`FIELDS`] that is a string.
    text: Option<String>,
    /// Whether one of them is null.
    null: bool,
    /// The names of the first fields.
    fields: Vec<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        let mut rank = FIELDS.len();
        while let Some(key) = map.next_key::<String>()? {
            match FIELDS.iter().position(|field| *field == key) {
                Some(found) => match map.next_value()? {
                    Value::Text(text) if found < rank => {
                        (rank, object.text) = (found, Some(text));
                    }
                    Value::Null => object.null = true,
                    Value::Text(_) | Value::Other => {}
                },
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            if object.fields.len() < LISTED {
                object.fields.push(key);
            }
        }
        Ok(object)
    }
}

/// The value of a field that may hold a text.
enum Value {
    Text(String),
    Null,
    Other,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Wanted;

    fn run(text: &str, limit: usize) -> Result<Vec<String>, TextsError> {
        let mut taken = Taken::new(&Wanted { texts: 10, bytes: 1000, seed: None }, 10);
        let reader = BufReader::with_capacity(3, text.as_bytes());
        let mut reader =
            Reader { path: Path::new("f"), reader, record: Vec::new(), lines: 0, limit };
        if reader.skip_to_value()? == Some(b'[') {
            reader.reader.consume(1);
            reader.elements(&mut taken)?;
        } else {
            reader.lines(&mut taken)?;
        }
        Ok(taken.texts)
    }

    #[test]
    fn a_record_without_an_end_is_not_read_to_it() {
        let long = format!("{{\"text\": \"{}\"}}", "x".repeat(100));
        for (text, place) in [
            (long.clone(), Place::Line(1)),
            (format!("\n{long}"), Place::Line(2)),
            (format!("[{{\"text\": \"a\"}}, {long}]"), Place::Element(2)),
        ] {
            match run(&text, 50) {
                Err(TextsError::TooLong { place: found, limit: 50, .. }) => {
                    assert_eq!(found, place);
                }
                other => panic!("{other:?}"),
            }
            assert!(run(&text, 200).is_ok());
        }
    }

    #[test]
    fn brackets_and_quotes_within_strings_end_nothing() {
        let text = r#" [ {"text": "a ] \" , b"} , {"x": [1, {"y": "}"}], "text": "c"} ] "#;
        assert_eq!(run(text, 100).unwrap(), ["a ] \" , b", "c"]);
    }
}
