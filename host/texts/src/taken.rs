//! The texts that were read so far, within the bounds that were asked for.

use crate::Wanted;

/// Texts, at most so many, each at most so long.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What was read.
    pub(crate) texts: Vec<String>,
    most: usize,
    share: usize,
}

impl Taken {
    /// None yet; `expected` texts will have the bytes between them.
    pub(crate) fn new(wanted: &Wanted, expected: usize) -> Taken {
        // A share in which any character fits, so that reading comes to an end.
        let share = (wanted.bytes / expected.max(1)).max(char::MAX.len_utf8());
        Taken { texts: Vec::new(), most: wanted.texts.max(1), share }
    }

    /// Whether no more are wanted.
    pub(crate) fn full(&self) -> bool {
        self.texts.len() >= self.most
    }

    /// How many bytes a text may have; what lies behind need not be read.
    pub(crate) fn share(&self) -> usize {
        self.share
    }

    /// Takes a text, cut to its share; a blank one is no text.
    pub(crate) fn put(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(self.share)];
        if !self.full() && !text.trim().is_empty() {
            self.texts.push(text.to_owned());
        }
    }

    /// Takes a text whose bytes were read up to its share, or to its end if it is `whole`.
    ///
    /// # Errors
    /// The offset of the first byte that is not UTF-8. A character that the cut went through is
    /// left out instead.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8], whole: bool) -> Result<(), usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.put(text),
            Err(error) if error.error_len().is_none() && !whole => {
                self.put(std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default());
            }
            Err(error) => return Err(error.valid_up_to()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(texts: usize, bytes: usize) -> Taken {
        Taken::new(&Wanted { texts, bytes, seed: None }, texts)
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let mut taken = taken(2, 10);
        taken.put("abcdé");
        assert_eq!(taken.texts, ["abcd"]);
        taken.put_bytes("abcdé".as_bytes(), true).unwrap();
        taken.put("one too many");
        assert_eq!(taken.texts, ["abcd", "abcd"]);
    }

    #[test]
    fn blank_texts_are_none() {
        let mut taken = taken(2, 100);
        taken.put(" \n\t");
        taken.put("");
        assert!(taken.texts.is_empty() && !taken.full());
    }

    #[test]
    fn half_a_character_is_an_error_only_where_nothing_follows() {
        let half = &"é".as_bytes()[..1];
        let mut taken = taken(1, 100);
        assert_eq!(taken.put_bytes(&[b"ab", half].concat(), true), Err(2));
        assert_eq!(taken.put_bytes(&[b"ab", half].concat(), false), Ok(()));
        assert_eq!(taken.texts, ["ab"]);
        assert_eq!(taken.put_bytes(b"ab\xffcd", false), Err(2));
    }
}
