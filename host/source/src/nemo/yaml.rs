//! A config in YAML as JSON, as far as configs of training programs go: one document of plain
//! values. An alias could make a small file large, and no config needs one.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// The most lists and objects in one another.
const DEEPEST: usize = 64;

/// What is wrong with a text: line and column from one, and why.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) reason: String,
}

/// What is being filled.
enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Object(Map<String, Value>, Option<String>),
}

/// The value that a text says.
pub(super) fn value(text: &str) -> Result<Value, Fault> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Fault {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            reason: error.info().to_owned(),
        })?;
        let fault = |reason: &str| Fault {
            line: span.start.line(),
            column: span.start.col() + 1,
            reason: reason.to_owned(),
        };
        let done = match event {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Object(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Some(Value::Array(items)),
                Some(Open::Object(object, _)) => Some(Value::Object(object)),
                None => None,
            },
            Event::Scalar(text, style, ..) => match open.last_mut() {
                Some(Open::Object(_, key @ None)) => {
                    *key = Some(text.into_owned());
                    None
                }
                _ if style == ScalarStyle::Plain => Some(plain(&text)),
                _ => Some(Value::from(text.into_owned())),
            },
            Event::Alias(_) => return Err(fault("an alias is not read")),
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(fault("lists and objects are too deep in one another"));
        }
        let Some(value) = done else { continue };
        match open.last_mut() {
            Some(Open::List(items)) => items.push(value),
            Some(Open::Object(object, key)) => {
                let key = key.take().ok_or_else(|| fault("a key is no plain text"))?;
                if object.insert(key, value).is_some() {
                    return Err(fault("a key is there twice"));
                }
            }
            None if root.is_some() => return Err(fault("there is a second document")),
            None => root = Some(value),
        }
    }
    Ok(root.unwrap_or(Value::Null))
}

/// What a text without quotes is.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    if is_number && let Ok(number) = text.parse::<i64>() {
        return Value::from(number);
    }
    let number = text.parse().ok().filter(|_| is_number).and_then(Number::from_f64);
    number.map_or_else(|| Value::from(text), Value::Number)
}
