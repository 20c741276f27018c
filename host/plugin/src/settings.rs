//! Fields of a config: declared by a plugin, resolved here, and written back.
//!
//! A plugin never sees a config. It declares what it reads; we find each value, check its kind and
//! remember which keys were asked for, so that a key that nobody read can be reported.

use crate::Limits;
use engraft_diagnostic::{Code, Diagnostic, Fault, escape};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Flag,
    /// A whole number of 64 bits, with sign.
    Integer,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A list of whole numbers.
    Integers,
    /// A list of numbers.
    Numbers,
    /// A list of texts.
    Texts,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Flag => "true or false",
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Text => "a text",
            Kind::Integers => "a list of whole numbers",
            Kind::Numbers => "a list of numbers",
            Kind::Texts => "a list of texts",
        })
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// True or false.
    Flag(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list of whole numbers.
    Integers(Vec<i64>),
    /// A list of numbers.
    Numbers(Vec<f64>),
    /// A list of texts.
    Texts(Vec<String>),
}

impl Value {
    /// What it is a value of.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Flag(_) => Kind::Flag,
            Value::Integer(_) => Kind::Integer,
            Value::Number(_) => Kind::Number,
            Value::Text(_) => Kind::Text,
            Value::Integers(_) => Kind::Integers,
            Value::Numbers(_) => Kind::Numbers,
            Value::Texts(_) => Kind::Texts,
        }
    }

    /// Reads a value of a kind. A whole number may be spelled `1.0`, a number may be spelled `1`.
    pub fn from_json(kind: Kind, json: &Json) -> Option<Value> {
        fn list<T>(json: &Json, one: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
            json.as_array()?.iter().map(one).collect()
        }
        Some(match kind {
            Kind::Flag => Value::Flag(json.as_bool()?),
            Kind::Integer => Value::Integer(integer(json)?),
            Kind::Number => Value::Number(json.as_f64()?),
            Kind::Text => Value::Text(json.as_str()?.to_owned()),
            Kind::Integers => Value::Integers(list(json, integer)?),
            Kind::Numbers => Value::Numbers(list(json, Json::as_f64)?),
            Kind::Texts => Value::Texts(list(json, |j| j.as_str().map(str::to_owned))?),
        })
    }

    /// As JSON. A number that JSON cannot spell (NaN, infinity) becomes `null`.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Flag(v) => (*v).into(),
            Value::Integer(v) => (*v).into(),
            Value::Number(v) => (*v).into(),
            Value::Text(v) => v.as_str().into(),
            Value::Integers(v) => v.clone().into(),
            Value::Numbers(v) => v.clone().into(),
            Value::Texts(v) => v.clone().into(),
        }
    }
}

fn integer(json: &Json) -> Option<i64> {
    // 2^53: beyond it a float no longer says which whole number is meant.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    json.as_i64().or_else(|| {
        json.as_f64().filter(|v| v.fract() == 0.0 && v.abs() <= EXACT).map(|v| v as i64)
    })
}

/// What happens where a config lacks a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Fallback {
    /// The model is turned down.
    Required,
    /// The plugin is handed nothing.
    Absent,
    /// This.
    Value(Value),
    /// What another declared field resolved to.
    SameAs(String),
}

/// One declared field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// A dotted path; `tensor:NAME` asks whether the source has that tensor.
    pub path: String,
    /// What it holds.
    pub kind: Kind,
    /// Where the config lacks it.
    pub fallback: Fallback,
    /// One sentence.
    pub doc: String,
}

/// A field with the value that it resolved to.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The field's path.
    pub path: String,
    /// None where the config lacks it and it falls back to nothing.
    pub value: Option<Value>,
}

/// A config that does not fit the declared fields, or declarations that do not fit together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// A required field is not there.
    #[error("`{key}` is missing: {doc}")]
    Missing {
        /// The field.
        key: String,
        /// What it says.
        doc: String,
    },
    /// A field holds something else.
    #[error("`{key}` should be {expected}, and is {found}")]
    Mistyped {
        /// The field.
        key: String,
        /// What the plugin declared.
        expected: Kind,
        /// What the config says, as JSON.
        found: String,
    },
    /// A plugin declared fields that cannot be resolved.
    #[error("the plugin's field `{key}` {problem}")]
    Declaration {
        /// The field.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A config is no JSON object.
    #[error("the config is not a JSON object")]
    NotAnObject,
}

impl Diagnostic for SettingsError {
    fn code(&self) -> Code {
        Code(match self {
            SettingsError::Missing { .. } => 212,
            SettingsError::Mistyped { .. } | SettingsError::NotAnObject => 213,
            SettingsError::Declaration { .. } => 214,
        })
    }
    fn fault(&self) -> Fault {
        match self {
            SettingsError::Declaration { .. } => Fault::Plugin,
            _ => Fault::Input,
        }
    }
    fn location(&self) -> Option<String> {
        match self {
            SettingsError::Missing { key, .. }
            | SettingsError::Mistyped { key, .. }
            | SettingsError::Declaration { key, .. } => Some(format!("key `{key}`")),
            SettingsError::NotAnObject => None,
        }
    }
    fn help(&self) -> Option<String> {
        Some(match self {
            SettingsError::Missing { key, .. } => {
                format!("add `{key}` to the model's config, or check that the plugin is for it")
            }
            SettingsError::Mistyped { key, expected, .. } => {
                format!("make `{key}` {expected} in the model's config")
            }
            SettingsError::Declaration { .. } => {
                "correct the fields that the plugin declares, or report it to its author: `engraft \
                 plugin check` finds it too"
                    .into()
            }
            SettingsError::NotAnObject => "give a config that starts with `{`".into(),
        })
    }
}

/// The value at a path: a key that has dots itself first, then a descent into objects.
pub(crate) fn lookup<'a>(config: &'a Json, path: &str) -> Option<&'a Json> {
    let found = match config.get(path) {
        Some(found) => found,
        None => path.split('.').try_fold(config, |at, key| at.get(key))?,
    };
    (!found.is_null()).then_some(found)
}

/// Resolves declared fields against a config. Also returns every path that was asked for.
/// `null` counts as absent.
///
/// # Errors
/// [`SettingsError`]: the first field that is missing, mistyped or badly declared.
pub fn resolve(
    fields: &[Field],
    config: &Json,
    has_tensor: &dyn Fn(&str) -> bool,
) -> Result<(Vec<Setting>, BTreeSet<String>), SettingsError> {
    if !config.is_object() {
        return Err(SettingsError::NotAnObject);
    }
    let mut declared = BTreeMap::new();
    for field in fields {
        if declared.insert(field.path.as_str(), field).is_some() {
            return Err(declaration(&field.path, "is declared twice"));
        }
    }
    let mut settings = Vec::with_capacity(fields.len());
    let mut read = BTreeSet::new();
    for field in fields {
        let value = value_of(field, &declared, config, has_tensor)?;
        if !field.path.starts_with(TENSOR) {
            read.insert(field.path.clone());
        }
        settings.push(Setting { path: field.path.clone(), value });
    }
    Ok((settings, read))
}

pub(crate) const TENSOR: &str = "tensor:";

fn declaration(key: &str, problem: impl Into<String>) -> SettingsError {
    SettingsError::Declaration { key: escape(key), problem: problem.into() }
}

/// Follows `same-as` from field to field; more hops than there are fields is a cycle.
fn value_of(
    first: &Field,
    declared: &BTreeMap<&str, &Field>,
    config: &Json,
    has_tensor: &dyn Fn(&str) -> bool,
) -> Result<Option<Value>, SettingsError> {
    let mut field = first;
    for _ in 0..=declared.len() {
        if let Some(tensor) = field.path.strip_prefix(TENSOR) {
            if field.kind != Kind::Flag {
                return Err(declaration(&field.path, "asks for a tensor and is no flag"));
            }
            return Ok(Some(Value::Flag(has_tensor(tensor))));
        }
        if let Some(found) = lookup(config, &field.path) {
            return match Value::from_json(field.kind, found) {
                Some(value) => Ok(Some(convert(value, first)?)),
                None => Err(SettingsError::Mistyped {
                    key: escape(&field.path),
                    expected: field.kind,
                    found: escape(&found.to_string()),
                }),
            };
        }
        field = match &field.fallback {
            Fallback::Absent => return Ok(None),
            Fallback::Value(value) => return Ok(Some(convert(value.clone(), first)?)),
            Fallback::Required => {
                return Err(SettingsError::Missing {
                    key: escape(&field.path),
                    doc: escape(&field.doc),
                });
            }
            Fallback::SameAs(other) => declared.get(other.as_str()).ok_or_else(|| {
                declaration(&field.path, format!("falls back to `{}`, not declared", escape(other)))
            })?,
        };
    }
    Err(declaration(&first.path, "falls back to itself"))
}

/// A fallback's value must be of the kind of the field that it stands for.
fn convert(value: Value, field: &Field) -> Result<Value, SettingsError> {
    match (field.kind, value) {
        (kind, value) if value.kind() == kind => Ok(value),
        (Kind::Number, Value::Integer(v)) => Ok(Value::Number(v as f64)),
        (_, value) => Err(declaration(
            &field.path,
            format!("is {} and falls back to {}", field.kind, value.kind()),
        )),
    }
}

/// Settings as a JSON object: dotted paths become nested objects. A setting without a value is
/// `null`; nested ones without a value are left out, and an object that would be empty is `null`.
pub fn nest(settings: &[Setting]) -> Map<String, Json> {
    let mut root = Map::new();
    for Setting { path, value } in settings {
        let mut keys: Vec<&str> = path.split('.').collect();
        let last = keys.pop().unwrap_or(path);
        let mut at = Some(&mut root);
        for key in &keys {
            let Some(map) = at.take() else { break };
            let entry = map.entry(*key).or_insert(Json::Null);
            if entry.is_null() && value.is_some() {
                *entry = Json::Object(Map::new());
            }
            at = entry.as_object_mut();
        }
        let Some(map) = at else { continue };
        match value {
            Some(value) => drop(map.insert(last.to_owned(), value.to_json())),
            None if keys.is_empty() => drop(map.entry(last).or_insert(Json::Null)),
            None => {}
        }
    }
    root
}

/// The keys of a config that nobody asked for and that are not known to be harmless, as dotted
/// paths. `null` says nothing and is passed over; so is what an ignorable key contains.
pub fn unread(config: &Json, read: &BTreeSet<String>, ignorable: &[&str]) -> Vec<String> {
    fn walk(
        at: &Map<String, Json>,
        prefix: &str,
        known: &dyn Fn(&str) -> bool,
        out: &mut Vec<String>,
    ) {
        for (key, value) in at {
            let path = format!("{prefix}{key}");
            if known(&path) {
                continue;
            }
            match value {
                Json::Null => {}
                Json::Object(inner) => walk(inner, &format!("{path}."), known, out),
                _ => out.push(path),
            }
        }
    }
    let mut out = Vec::new();
    if let Some(root) = config.as_object() {
        let known = |path: &str| read.contains(path) || ignorable.contains(&path);
        walk(root, "", &known, &mut out);
    }
    out
}

/// Whether the declarations of an answer keep to the limits; says what does not.
pub(crate) fn check_fields(fields: &[Field], limits: &Limits) -> Result<(), String> {
    if fields.len() > limits.entries {
        return Err(format!("{} fields; at most {}", fields.len(), limits.entries));
    }
    let mut seen = BTreeSet::new();
    for field in fields {
        let path = escape(&field.path);
        if field.path.is_empty() || field.path.len() > limits.name {
            return Err(format!("a field's path has {} bytes", field.path.len()));
        }
        if field.doc.len() > limits.sentence {
            return Err(format!("the field `{path}` has {} bytes of doc", field.doc.len()));
        }
        if !seen.insert(&field.path) {
            return Err(format!("the field `{path}` is declared twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(path: &str, kind: Kind, fallback: Fallback) -> Field {
        Field { path: path.into(), kind, fallback, doc: "Something.".into() }
    }

    fn one(field: Field, config: Json) -> Result<Option<Value>, SettingsError> {
        let (mut settings, _) = resolve(&[field], &config, &|_| false)?;
        Ok(settings.remove(0).value)
    }

    #[test]
    fn a_whole_number_may_be_spelled_as_a_float_but_not_as_a_fraction() {
        let declared = || field("n", Kind::Integer, Fallback::Required);
        assert_eq!(one(declared(), json!({"n": 32.0})), Ok(Some(Value::Integer(32))));
        let error = one(declared(), json!({"n": 1.5})).unwrap_err();
        assert_eq!(error.to_string(), "`n` should be a whole number, and is 1.5");
    }

    #[test]
    fn null_is_absent_and_a_missing_required_field_is_named() {
        let error = one(field("a.b", Kind::Flag, Fallback::Required), json!({"a": null}));
        assert_eq!(error.unwrap_err().to_string(), "`a.b` is missing: Something.");
        assert_eq!(one(field("a", Kind::Flag, Fallback::Absent), json!({"a": null})), Ok(None));
    }

    #[test]
    fn same_as_follows_a_chain_and_finds_a_cycle() {
        let chain = [
            field("a", Kind::Number, Fallback::SameAs("b".into())),
            field("b", Kind::Integer, Fallback::SameAs("c".into())),
            field("c", Kind::Integer, Fallback::Value(Value::Integer(7))),
        ];
        let (settings, _) = resolve(&chain, &json!({}), &|_| false).unwrap();
        assert_eq!(settings[0].value, Some(Value::Number(7.0)));
        let cycle = [
            field("a", Kind::Flag, Fallback::SameAs("b".into())),
            field("b", Kind::Flag, Fallback::SameAs("a".into())),
        ];
        let error = resolve(&cycle, &json!({}), &|_| false).unwrap_err();
        assert_eq!(error.to_string(), "the plugin's field `a` falls back to itself");
    }

    #[test]
    fn a_key_with_dots_comes_before_a_descent_and_tensors_can_be_asked_for() {
        let config = json!({"a.b": 1, "a": {"b": 2}});
        assert_eq!(
            one(field("a.b", Kind::Integer, Fallback::Absent), config),
            Ok(Some(Value::Integer(1)))
        );
        let ask = [field("tensor:x", Kind::Flag, Fallback::Absent)];
        let (settings, read) = resolve(&ask, &json!({}), &|name| name == "x").unwrap();
        assert_eq!(settings[0].value, Some(Value::Flag(true)));
        assert!(read.is_empty());
    }

    #[test]
    fn settings_nest_and_an_empty_object_is_null() {
        let set = |path: &str, value| Setting { path: path.into(), value };
        let nested = nest(&[
            set("n", Some(Value::Integer(1))),
            set("gone", None),
            set("r.type", None),
            set("r.factor", Some(Value::Number(2.0))),
            set("s.type", None),
        ]);
        assert_eq!(
            Json::Object(nested),
            json!({"n": 1, "gone": null, "r": {"factor": 2.0}, "s": null})
        );
    }

    #[test]
    fn unread_keys_are_dotted_and_ignorable_ones_hide_what_they_contain() {
        let config = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": null, "f": {"g": 1}});
        let read = BTreeSet::from(["a".to_owned(), "b.c".to_owned()]);
        assert_eq!(unread(&config, &read, &["f"]), ["b.d"]);
    }
}
