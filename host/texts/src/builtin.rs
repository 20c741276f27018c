//! The texts that are calibrated on when no data set is given: passages in the public domain.
//!
//! Where they are from is said in `text/README.md`. They change with a release at most, for what
//! is calibrated on them depends on every byte.

use crate::shuffle;
use crate::taken::Taken;
use crate::{Texts, Wanted};

/// Passages of prose, dialogue, science, law, lists, numbers and code, one after the other in
/// turn, with a form feed on a line of its own between them.
const PASSAGES: &str = include_str!("../text/passages.txt");

/// The built-in texts: passages of about 2,700 bytes, some 600 tokens each, of many characters.
/// The first few of them already differ as all do.
pub fn builtin(wanted: &Wanted) -> Texts {
    let passages: Vec<&str> = PASSAGES.split("\n\u{c}\n").collect();
    let mut taken = Taken::new(wanted, wanted.texts.min(passages.len()));
    for passage in passages {
        taken.put(passage);
    }
    Texts { texts: shuffle::in_order(taken.texts, wanted.seed), files: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_long_enough_and_none_comes_twice() {
        let all = builtin(&Wanted { texts: usize::MAX, bytes: 1 << 20, seed: None }).texts;
        assert!((32..=40).contains(&all.len()), "{} passages", all.len());
        for (i, passage) in all.iter().enumerate() {
            assert!((2400..=3600).contains(&passage.len()), "passage {i}: {}", passage.len());
            assert!(!all[..i].contains(passage), "passage {i} comes twice");
        }
        let bytes: usize = all.iter().map(String::len).sum();
        assert!((80_000..=110_000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn as_many_come_as_are_asked_for() {
        let wanted = Wanted { texts: 4, bytes: 4000, seed: None };
        let some = builtin(&wanted);
        assert_eq!(some.texts.iter().map(String::len).collect::<Vec<_>>(), [1000; 4]);
        let shuffled = builtin(&Wanted { seed: Some(1), ..wanted });
        assert_ne!(shuffled, some);
        assert_eq!(shuffled, builtin(&Wanted { seed: Some(1), ..wanted }));
    }
}
