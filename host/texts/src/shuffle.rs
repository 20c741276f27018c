//! The order of texts under a seed: the same on every machine, and in every release.
//!
//! Fisher and Yates' shuffle, from the last place down: place `i` changes with place
//! `next() mod (i + 1)`. The numbers are SplitMix64's (Steele, Lea, Flood: "Fast splittable
//! pseudorandom number generators", 2014), whose state begins as the seed. That the remainder
//! favours small places by 2^-64 of their number is of no matter here.

/// The texts, shuffled if there is a seed.
pub(crate) fn in_order<T>(mut texts: Vec<T>, seed: Option<u64>) -> Vec<T> {
    if let Some(seed) = seed {
        let mut numbers = SplitMix64(seed);
        for i in (1..texts.len()).rev() {
            texts.swap(i, (numbers.next() % (i as u64 + 1)) as usize);
        }
    }
    texts
}

struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_published_ones() {
        let mut numbers = SplitMix64(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| numbers.next()).collect();
        let published =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(first, published);
    }

    #[test]
    fn a_shuffle_keeps_all_and_a_seed_decides() {
        let all: Vec<u32> = (0..20).collect();
        assert_eq!(in_order(all.clone(), None), all);
        let once = in_order(all.clone(), Some(7));
        assert_eq!(in_order(all.clone(), Some(7)), once);
        assert_ne!(in_order(all.clone(), Some(8)), once);
        assert_ne!(once, all);
        let mut sorted = once;
        sorted.sort();
        assert_eq!(sorted, all);
    }
}
