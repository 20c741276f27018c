//! Where each declared field got its value: from the config, or from what it falls back to.

use crate::settings::{Fallback, Field, SettingsError, TENSOR, Value, lookup, resolve};
use serde_json::Value as Json;

/// Who said a field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The config.
    Config,
    /// The plugin: its default.
    Default,
    /// Another field, that it falls back to.
    Field(String),
    /// The tensors of the source, which the field asks about.
    Tensors,
    /// Nobody: it has none.
    Nobody,
}

/// A declared field and what it came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The field's path.
    pub path: String,
    /// Its value, if it has one.
    pub value: Option<Value>,
    /// Where that came from.
    pub said: Said,
}

/// What every declared field comes to, in the order of their declaration.
///
/// # Errors
/// As [`resolve`].
pub fn readings(
    fields: &[Field],
    config: &Json,
    has_tensor: &dyn Fn(&str) -> bool,
) -> Result<Vec<Reading>, SettingsError> {
    let (settings, _) = resolve(fields, config, has_tensor)?;
    let reading = |(field, value): (&Field, Option<Value>)| {
        let said = match &field.fallback {
            _ if field.path.starts_with(TENSOR) => Said::Tensors,
            _ if lookup(config, &field.path).is_some() => Said::Config,
            _ if value.is_none() => Said::Nobody,
            Fallback::SameAs(other) => Said::Field(other.clone()),
            Fallback::Value(_) | Fallback::Required | Fallback::Absent => Said::Default,
        };
        Reading { path: field.path.clone(), value, said }
    };
    Ok(fields.iter().zip(settings.into_iter().map(|s| s.value)).map(reading).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::json;

    #[test]
    fn a_value_is_told_by_where_it_comes_from() {
        let field = |path: &str, fallback| {
            let (path, doc) = (path.into(), String::new());
            Field { path, kind: Kind::Integer, fallback, doc }
        };
        let mut fields = vec![
            field("said", Fallback::Required),
            field("default", Fallback::Value(Value::Integer(2))),
            field("same", Fallback::SameAs("said".into())),
            field("none", Fallback::Absent),
            field("same.none", Fallback::SameAs("none".into())),
        ];
        let flag = field("tensor:w", Fallback::Absent);
        fields.push(Field { kind: Kind::Flag, ..flag });
        let read = readings(&fields, &json!({ "said": 1 }), &|name| name == "w").unwrap();
        let said: Vec<Said> = read.iter().map(|r| r.said.clone()).collect();
        let same = Said::Field("said".into());
        let wanted = [Said::Config, Said::Default, same, Said::Nobody, Said::Nobody, Said::Tensors];
        assert_eq!(said, wanted);
        assert_eq!(read[2].value, Some(Value::Integer(1)));
        assert_eq!(read[5].value, Some(Value::Flag(true)));
    }
}
