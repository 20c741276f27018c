//! Renames of dotted names: a name that a plugin knows, and what a model calls it.
//!
//! A rename renames a name and all names below it: `model.norm` is also `model.norm.weight`. A `*`
//! stands for one run of characters between two dots, or a part of it, and the n-th `*` on the
//! right is what the n-th on the left stood for. An empty left side is above every name, an empty
//! right side takes a prefix away. Of several that match, the one with the most parts counts; of
//! those, the one with the fewest `*`.

use super::ManifestError;
use engraft_diagnostic::escape;

/// One rename.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    known: String,
    called: String,
}

impl Rename {
    /// A rename out of its two sides.
    pub(super) fn new(known: &str, called: &str) -> Result<Rename, ManifestError> {
        let malformed = |why: String| ManifestError::Malformed { rename: escape(known), why };
        for side in [known, called] {
            if !side.is_empty() && side.split('.').any(str::is_empty) {
                return Err(malformed(format!("`{}` has nothing between two dots", escape(side))));
            }
            if side.chars().any(char::is_control) {
                return Err(malformed("it has control characters".into()));
            }
            if side.split('.').any(|part| part.matches('*').count() > 1) {
                return Err(malformed(format!("a part of `{}` has two `*`", escape(side))));
            }
        }
        let [left, right] = [known, called].map(|side| side.matches('*').count());
        if left != right {
            return Err(malformed(format!("{left} `*` on the left, {right} on the right")));
        }
        Ok(Rename { known: known.into(), called: called.into() })
    }

    /// What the plugin knows.
    pub fn known(&self) -> &str {
        &self.known
    }

    /// What the model calls it.
    pub fn called(&self) -> &str {
        &self.called
    }

    /// Whether a name of the model's is one that this rename leads to.
    pub fn leads_to(&self, name: &str) -> bool {
        matched(&self.called, name).is_some()
    }

    /// What the model calls a name that the plugin knows, if this rename is about it.
    fn apply(&self, name: &str) -> Option<String> {
        let (stars, rest) = matched(&self.known, name)?;
        let mut stars = stars.into_iter();
        let mut parts: Vec<String> = Vec::new();
        for part in parts_of(&self.called) {
            parts.push(match part.contains('*') {
                true => part.replacen('*', stars.next().unwrap_or_default(), 1),
                false => part.to_owned(),
            });
        }
        parts.extend(rest.into_iter().map(str::to_owned));
        Some(parts.join("."))
    }

    /// How much it says about the names that it matches.
    fn weight(&self) -> (usize, std::cmp::Reverse<usize>) {
        (parts_of(&self.known).count(), std::cmp::Reverse(self.known.matches('*').count()))
    }
}

fn parts_of(name: &str) -> impl Iterator<Item = &str> {
    name.split('.').filter(|part| !part.is_empty())
}

/// What each `*` of a pattern stands for in a name, and the parts of the name below the pattern.
fn matched<'n>(pattern: &str, name: &'n str) -> Option<(Vec<&'n str>, Vec<&'n str>)> {
    let mut name = name.split('.');
    let mut stars = Vec::new();
    for part in parts_of(pattern) {
        let found = name.next()?;
        match part.split_once('*') {
            None if part == found => {}
            None => return None,
            Some((before, after)) => {
                let star = found.strip_prefix(before)?.strip_suffix(after)?;
                stars.push(Some(star).filter(|star| !star.is_empty())?);
            }
        }
    }
    Some((stars, name.collect()))
}

/// What became of a name.
pub(super) struct Renamed {
    pub(super) name: String,
    /// Which rename it was.
    pub(super) by: Option<usize>,
}

/// Several renames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Renames(pub(super) Vec<Rename>);

impl Renames {
    /// What the model calls a name that the plugin knows: the name itself where none is about it.
    pub(super) fn apply(&self, name: &str) -> Result<Renamed, ManifestError> {
        let mut best: Option<(usize, &Rename, String)> = None;
        let mut equal = None;
        for (i, rename) in self.0.iter().enumerate() {
            let Some(called) = rename.apply(name) else { continue };
            match best.as_ref().map(|(_, other, _)| rename.weight().cmp(&other.weight())) {
                Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Equal) => equal = Some(rename),
                None | Some(std::cmp::Ordering::Greater) => {
                    equal = None;
                    best = Some((i, rename, called));
                }
            }
        }
        let Some((i, rename, called)) = best else {
            return Ok(Renamed { name: name.to_owned(), by: None });
        };
        if let Some(other) = equal {
            return Err(ManifestError::Ambiguous {
                name: escape(name),
                first: escape(&rename.known),
                second: escape(&other.known),
            });
        }
        if called.is_empty() {
            let rename = escape(&rename.known);
            let why = format!("it leaves nothing of `{}`", escape(name));
            return Err(ManifestError::Malformed { rename, why });
        }
        Ok(Renamed { name: called, by: Some(i) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(renames: &[(&str, &str)], name: &str) -> Result<String, ManifestError> {
        let all = renames.iter().map(|(known, called)| Rename::new(known, called));
        Renames(all.collect::<Result<_, _>>()?).apply(name).map(|renamed| renamed.name)
    }

    #[test]
    fn a_rename_is_about_a_name_and_all_below_it_and_not_about_its_beginning() {
        let renames = [("model.norm", "final"), ("model", "decoder")];
        let is = |name: &str, called: &str| assert_eq!(apply(&renames, name).unwrap(), called);
        is("model.norm.weight", "final.weight");
        is("model.norm", "final");
        is("model.normal.weight", "decoder.normal.weight");
        is("modeling", "modeling");
    }

    #[test]
    fn a_star_is_one_part_or_some_of_it() {
        let renames = [("model.layers.*.self_attn.q_proj", "blocks.*.wq"), ("h.*.x", "h_*.y")];
        assert_eq!(
            apply(&renames, "model.layers.12.self_attn.q_proj.bias").unwrap(),
            "blocks.12.wq.bias"
        );
        assert_eq!(apply(&renames, "h.3.x").unwrap(), "h_3.y");
        assert_eq!(apply(&[("h_*.y", "h.*.x")], "h_3.y").unwrap(), "h.3.x");
        assert!(apply(&[("h_*", "h")], "h_3").unwrap_err().to_string().contains("1 `*`"));
    }

    #[test]
    fn a_prefix_is_taken_away_or_put_before_everything() {
        assert_eq!(apply(&[("model", "")], "model.norm.weight").unwrap(), "norm.weight");
        assert_eq!(apply(&[("", "text")], "model.norm").unwrap(), "text.model.norm");
        assert!(apply(&[("model", "")], "model").is_err());
    }

    #[test]
    fn two_renames_of_equal_weight_are_ambiguous() {
        let error = apply(&[("a.*.c", "x.*"), ("*.b.c", "y.*")], "a.b.c").unwrap_err();
        assert!(error.to_string().contains("`a.*.c`") && error.to_string().contains("`*.b.c`"));
        assert_eq!(apply(&[("a.*", "x.*"), ("a.b", "y")], "a.b").unwrap(), "y");
    }

    #[test]
    fn a_glob_is_renamed_as_a_name_is() {
        let renames = [("model.layers.*.attn", "blocks.*.a")];
        assert_eq!(apply(&renames, "model.layers.*.attn.mask").unwrap(), "blocks.*.a.mask");
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (known, called, why) in [
            ("a..b", "c", "nothing between two dots"),
            ("a.**", "b.**", "two `*`"),
            ("a.*", "b", "1 `*` on the left, 0 on the right"),
        ] {
            let error = Rename::new(known, called).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
