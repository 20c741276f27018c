//! Declaring what is read of a config.
//!
//! `integer("vocab_size", REQUIRED, "Entries of the vocabulary.")` is a field: its dotted path, its
//! kind, what happens where the config lacks it, and a sentence for people.

use crate::{Fallback, Field, Kind, SettingValue};

/// Turn the model down where the config lacks the field.
pub const REQUIRED: Fallback = Fallback::Required;

/// There may be no value.
pub const ABSENT: Fallback = Fallback::Absent;

/// This value where the config lacks the field.
pub fn default(value: impl Into<SettingValue>) -> Fallback {
    Fallback::Value(value.into())
}

/// What another declared field is, where the config lacks this one.
pub fn same_as(path: &str) -> Fallback {
    Fallback::SameAs(path.into())
}

/// A field of any kind.
#[inline(never)]
pub fn field(path: &str, kind: Kind, fallback: Fallback, doc: &str) -> Field {
    Field { path: path.into(), kind, fallback, doc: doc.into() }
}

/// True or false. The path `tensor:NAME` asks whether the source has a tensor of that name.
pub fn flag(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Flag, fallback, doc)
}

/// A whole number.
pub fn integer(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Integer, fallback, doc)
}

/// A number.
pub fn number(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Number, fallback, doc)
}

/// A text.
pub fn text(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Text, fallback, doc)
}

/// A list of whole numbers.
pub fn integers(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Integers, fallback, doc)
}

/// A list of numbers.
pub fn numbers(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Numbers, fallback, doc)
}

/// A list of texts.
pub fn texts(path: &str, fallback: Fallback, doc: &str) -> Field {
    field(path, Kind::Texts, fallback, doc)
}

/// Fields that may say one thing only, because the graph knows nothing else. They are declared so
/// that [`Settings::check_fixed`](crate::Settings::check_fixed) can turn another value down.
pub fn fixed(values: &[(&str, SettingValue)]) -> Vec<Field> {
    let usual = "Supported with its usual value only.";
    values.iter().map(|(path, value)| field(path, value.kind(), ABSENT, usual)).collect()
}

/// The same for a checkpoint's config, which says its usual values outright.
pub fn usual(values: &[(&str, SettingValue)]) -> Vec<Field> {
    let said = |value: &SettingValue| Fallback::Value(value.clone());
    let doc = "Supported with this value only.";
    values.iter().map(|(path, value)| field(path, value.kind(), said(value), doc)).collect()
}

/// What a field's value is of.
pub trait FieldExt {
    /// Its kind.
    fn kind(&self) -> Kind;
}

impl FieldExt for SettingValue {
    fn kind(&self) -> Kind {
        match self {
            SettingValue::Flag(_) => Kind::Flag,
            SettingValue::Integer(_) => Kind::Integer,
            SettingValue::Number(_) => Kind::Number,
            SettingValue::Text(_) => Kind::Text,
            SettingValue::Integers(_) => Kind::Integers,
            SettingValue::Numbers(_) => Kind::Numbers,
            SettingValue::Texts(_) => Kind::Texts,
        }
    }
}

macro_rules! into_value {
    ($($from:ty => $case:ident($convert:expr);)*) => { $(
        impl From<$from> for SettingValue {
            fn from(value: $from) -> Self {
                SettingValue::$case($convert(value))
            }
        }
    )* };
}
into_value! {
    bool => Flag(|v| v);
    i64 => Integer(|v| v);
    i32 => Integer(i64::from);
    u32 => Integer(i64::from);
    f64 => Number(|v| v);
    &str => Text(String::from);
    String => Text(|v| v);
    Vec<i64> => Integers(|v| v);
    Vec<f64> => Numbers(|v| v);
    Vec<String> => Texts(|v| v);
}
