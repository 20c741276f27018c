//! Reading settings: each value by its path and as the type that is wanted, or a refusal that
//! names the field.

use crate::words::shown;
use crate::{Fallback, Field, Refusal, Setting, SettingValue, join, show};

/// Turns a model down: the field at fault, and why.
pub fn refuse<T>(subject: &str, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(refusal(subject, reason.into()))
}

#[cold]
#[inline(never)]
fn refusal(subject: &str, reason: String) -> Refusal {
    Refusal { subject: subject.into(), reason }
}

/// A field of a checkpoint's config with its value; `None` says that it has none.
pub fn set(path: &str, value: impl Into<Option<SettingValue>>) -> Setting {
    setting(path, value.into())
}

#[inline(never)]
fn setting(path: &str, value: Option<SettingValue>) -> Setting {
    Setting { path: path.into(), value }
}

/// What the declared fields resolved to.
pub struct Settings {
    settings: Vec<Setting>,
    names: Names,
    gguf: bool,
}

/// What a dialect calls fields: first the name that a plugin uses, then the dialect's own.
pub type Names = Vec<(&'static str, String)>;

/// The same fields in a dialect with names of its own; of those that it has no name for, only
/// those with a default stay.
#[inline(never)]
pub fn renamed(fields: Vec<Field>, names: &Names) -> Vec<Field> {
    let find = |path: &str| names.iter().find(|(ours, _)| *ours == path).map(|(_, own)| own);
    fields
        .into_iter()
        .filter_map(|mut field| {
            match find(&field.path) {
                Some(own) => field.path = own.clone(),
                None if matches!(field.fallback, Fallback::Value(_)) => return Some(field),
                None => return None,
            }
            if let Fallback::SameAs(other) = &field.fallback {
                let other = find(other).cloned();
                field.fallback = other.map_or(Fallback::Required, Fallback::SameAs);
            }
            Some(field)
        })
        .collect()
}

/// The same fields, some of them by another name.
#[inline(never)]
pub fn respelled(mut fields: Vec<Field>, names: &[(&str, &str)]) -> Vec<Field> {
    for field in &mut fields {
        respell(&mut field.path, names);
        if let Fallback::SameAs(other) = &mut field.fallback {
            respell(other, names);
        }
    }
    fields
}

/// The other name of a field, if it has one.
pub(crate) fn respell(path: &mut String, names: &[(&str, &str)]) {
    if let Some((_, own)) = names.iter().find(|(ours, _)| ours == path) {
        *path = (*own).into();
    }
}

impl Settings {
    /// Wraps what the host hands over.
    pub fn new(settings: Vec<Setting>) -> Settings {
        Settings { settings, names: Names::new(), gguf: false }
    }

    /// Lets a plugin use its own names for the fields of a dialect that [`renamed`] declared;
    /// refusals still name the dialect's.
    pub fn renamed(mut self, names: Names) -> Settings {
        self.names = names;
        self
    }

    /// The same, of a GGUF file.
    pub(crate) fn of_gguf(self, names: Names) -> Settings {
        Settings { gguf: true, ..self.renamed(names) }
    }

    /// Whether a GGUF file says them.
    pub fn is_gguf(&self) -> bool {
        self.gguf
    }

    /// What the source calls a field.
    pub fn spelled<'a>(&'a self, path: &'a str) -> &'a str {
        self.names.iter().find(|(ours, _)| *ours == path).map_or(path, |(_, own)| own)
    }

    /// Turns the model down because of a field.
    pub fn refuse<T>(&self, path: &str, reason: impl Into<String>) -> Result<T, Refusal> {
        refuse(self.spelled(path), reason)
    }

    /// The value of a field, as it came.
    #[inline(never)]
    pub fn value(&self, path: &str) -> Option<&SettingValue> {
        let path = self.spelled(path);
        self.settings.iter().find(|setting| setting.path == path)?.value.as_ref()
    }

    /// The value of a field that may be absent.
    #[inline(never)]
    pub fn find<T: FromSetting>(&self, path: &str) -> Result<Option<T>, Refusal> {
        let Some(value) = self.value(path) else { return Ok(None) };
        match T::from_setting(value) {
            Some(value) => Ok(Some(value)),
            None => self.refuse(path, join(&["must be ", T::WANTED])),
        }
    }

    /// The value of a field that must be there.
    #[inline(never)]
    pub fn get<T: FromSetting>(&self, path: &str) -> Result<T, Refusal> {
        match self.find(path)? {
            Some(value) => Ok(value),
            None => self.refuse(path, "is missing"),
        }
    }

    /// The values of several fields that must be there.
    pub fn all<T: FromSetting + Default + Copy, const N: usize>(
        &self,
        paths: [&str; N],
    ) -> Result<[T; N], Refusal> {
        let mut values = [T::default(); N];
        for (value, path) in values.iter_mut().zip(paths) {
            *value = self.get(path)?;
        }
        Ok(values)
    }

    /// The value of the first of several fields that is there.
    pub fn first<T: FromSetting>(&self, paths: &[&str]) -> Result<Option<T>, Refusal> {
        for path in paths {
            if let Some(value) = self.find(path)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The value of a field that may be absent; it must be more than zero.
    pub fn positive(&self, path: &str) -> Result<Option<f64>, Refusal> {
        match self.find::<f64>(path)? {
            Some(value) if !(value as f32 > 0.0 && (value as f32).is_finite()) => {
                self.refuse(path, join(&[&show(value), " is not more than zero"]))
            }
            value => Ok(value),
        }
    }

    /// The values of fields that a source and a checkpoint both have.
    pub fn carry(&self, fields: &[Field]) -> Vec<Setting> {
        fields.iter().map(|field| set(&field.path, self.value(&field.path).cloned())).collect()
    }

    /// What the source's `architectures` says first, if it is in the list; else the first listed.
    pub fn architecture(&self, accepted: &[&'static str]) -> Result<&'static str, Refusal> {
        let said: Vec<String> = self.find("architectures")?.unwrap_or_default();
        let known = accepted.iter().find(|name| said.first().is_some_and(|said| said == *name));
        known.or(accepted.first()).copied().map_or_else(|| self.refuse("architectures", "?"), Ok)
    }

    /// Turns the model down if one of these fields is there and says anything else. Of a list,
    /// every entry must be the one that is wanted.
    pub fn check_fixed(&self, values: &[(&str, SettingValue)]) -> Result<(), Refusal> {
        for (path, wanted) in values {
            if let Some(found) = self.value(path).filter(|found| !same(found, wanted)) {
                return self.refuse(path, join(&[&shown(found), " is not supported"]));
            }
        }
        Ok(())
    }
}

/// What ALiBi's heads multiply distances by: powers of `2^(-max/n)` where `n` heads are a power of
/// two; else those of the power below, and then every other one of the power above.
pub fn alibi_slopes(heads: u32, max: f64) -> Vec<f64> {
    let whole = 1 << heads.ilog2();
    let slope = |n: u32, of: u32| 2f64.powf(-max * f64::from(n) / f64::from(of));
    let more = (1..).step_by(2).map(|n| slope(n, 2 * whole));
    (1..=whole).map(|n| slope(n, whole)).chain(more).take(heads as usize).collect()
}

fn same(found: &SettingValue, wanted: &SettingValue) -> bool {
    match (found, wanted) {
        (SettingValue::Texts(all), SettingValue::Texts(one)) => all.iter().all(|v| one.contains(v)),
        _ => shown(found) == shown(wanted),
    }
}

/// What a setting can be read as.
pub trait FromSetting: Sized {
    /// In words, for a refusal: `a whole number from 1 to 4294967295`.
    const WANTED: &'static str;
    /// None where it is of another kind or out of range.
    fn from_setting(value: &SettingValue) -> Option<Self>;
}

macro_rules! from_setting {
    ($($to:ty, $case:ident, $wanted:literal, $convert:expr;)*) => { $(
        impl FromSetting for $to {
            const WANTED: &'static str = $wanted;
            fn from_setting(value: &SettingValue) -> Option<Self> {
                match value {
                    SettingValue::$case(value) => $convert(value.clone()),
                    _ => None,
                }
            }
        }
    )* };
}
from_setting! {
    bool, Flag, "true or false", Some;
    i64, Integer, "a whole number", Some;
    u32, Integer, "a whole number from 1 to 4294967295", |v| u32::try_from(v).ok().filter(|&v| v > 0);
    f64, Number, "a number", Some;
    String, Text, "a text", Some;
    Vec<i64>, Integers, "a list of whole numbers", Some;
    Vec<f64>, Numbers, "a list of numbers", Some;
    Vec<String>, Texts, "a list of texts", Some;
}
