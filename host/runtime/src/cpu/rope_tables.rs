//! Cosines and sines of rotary embeddings, to the bit as near to HuggingFace's as can be.
//!
//! transformers computes in single precision: frequencies are rounded to `f32`, an angle is the
//! rounded product of position and frequency, and cosine and sine are taken of that. At position
//! 8000 this differs from exact angles in the fourth digit, and models were trained with it.
//! Formulas: `modeling_rope_utils.py` of transformers 4.57; YaRN: Peng et al., 2023.

use engraft_ir::{RotaryData, Scaling};
use engraft_kernels_cpu::RopeTable;
use std::f64::consts::TAU;

/// Frequencies, and what cosines and sines are multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frequencies {
    /// Radians a token, for each pair.
    pub(crate) inverse: Vec<f32>,
    /// Those of requests that may come to more tokens than this, if they have others.
    pub(crate) long: Option<(usize, Vec<f32>)>,
    /// 1 but for YaRN and long scalings.
    pub(crate) attention: f32,
}

impl Frequencies {
    pub(crate) fn new(rotary: &RotaryData) -> Frequencies {
        let width = rotary.rotated;
        let powers: Vec<f32> = (0..width / 2)
            .map(|pair| rotary.base.powf(f64::from((2 * pair) as f32 / width as f32)) as f32)
            .collect();
        let plain = powers.iter().map(|power| 1.0 / power);
        let (inverse, attention) = match rotary.scaling {
            Scaling::None => (plain.collect(), 1.0),
            Scaling::Linear { factor } => (plain.map(|f| f / factor as f32).collect(), 1.0),
            Scaling::Llama3 { factor, low, high, context } => {
                let stretch = |f| llama3(f, factor, low, high, f64::from(context));
                (plain.map(stretch).collect(), 1.0)
            }
            Scaling::Yarn { factor, fast, slow, attention, context, untruncated } => {
                let context = f64::from(context);
                let attention = attention
                    .unwrap_or_else(|| if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 });
                let range =
                    yarn_range(fast, slow, f64::from(width), rotary.base, context, untruncated);
                let blend = powers.iter().enumerate();
                let inverse = blend.map(|(i, &power)| yarn(power, i, factor, range)).collect();
                (inverse, attention as f32)
            }
            Scaling::Long { ref short, attention, .. } => {
                (divided(&powers, short), attention as f32)
            }
        };
        let long = match rotary.scaling {
            Scaling::Long { ref long, context, .. } => {
                Some((context as usize, divided(&powers, long)))
            }
            _ => None,
        };
        Frequencies { inverse, long, attention }
    }

    /// Those of a request that may come to `reach` tokens.
    #[cfg(test)]
    pub(crate) fn of_reach(&self, reach: usize) -> &[f32] {
        match &self.long {
            Some((context, long)) if reach > *context => long,
            _ => &self.inverse,
        }
    }

    /// Cosines and sines of positions from 0, a row each.
    pub(crate) fn table(&self, rotary: &RotaryData, positions: usize) -> RopeTable {
        let table = self.angles(&self.inverse, rotary, positions);
        match &self.long {
            Some((context, long)) => {
                table.with_long(*context, self.angles(long, rotary, positions))
            }
            None => table,
        }
    }

    fn angles(&self, inverse: &[f32], rotary: &RotaryData, positions: usize) -> RopeTable {
        let mut cos = Vec::with_capacity(positions * inverse.len());
        let mut sin = Vec::with_capacity(positions * inverse.len());
        for position in 0..positions {
            for frequency in inverse {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * self.attention);
                sin.push(angle.sin() as f32 * self.attention);
            }
        }
        let table = RopeTable::new(rotary.head_width as usize, rotary.rotated as usize, cos, sin);
        if rotary.interleaved { table.interleaved() } else { table }
    }
}

/// Frequencies, each divided by a factor of its own.
fn divided(powers: &[f32], factors: &[f64]) -> Vec<f32> {
    powers.iter().zip(factors).map(|(power, &factor)| 1.0 / (factor as f32 * power)).collect()
}

fn llama3(frequency: f32, factor: f64, low: f64, high: f64, context: f64) -> f32 {
    let wave = TAU as f32 / frequency;
    let (longest, shortest) = ((context / low) as f32, (context / high) as f32);
    let stretched = frequency / factor as f32;
    if wave > longest {
        stretched
    } else if wave < shortest {
        frequency
    } else {
        let smooth = (context as f32 / wave - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
    }
}

/// The pairs between which the ramp runs: those that turn `fast` and `slow` times over the
/// context, to whole pairs outwards unless `untruncated`.
fn yarn_range(
    fast: f64,
    slow: f64,
    width: f64,
    base: f64,
    context: f64,
    untruncated: bool,
) -> (f64, f64) {
    let pair = |turns: f64| width * (context / (turns * TAU)).ln() / (2.0 * base.ln());
    let (low, high) = match untruncated {
        true => (pair(fast), pair(slow)),
        false => (pair(fast).floor(), pair(slow).ceil()),
    };
    (low.max(0.0), high.min(width - 1.0))
}

fn yarn(power: f32, pair: usize, factor: f64, (low, high): (f64, f64)) -> f32 {
    let high = if low == high { high + 0.001 } else { high };
    let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
    let kept = 1.0 - ramp;
    let interpolated = 1.0 / (factor as f32 * power);
    interpolated * (1.0 - kept) + (1.0 / power) * kept
}

/// A rotary embedding whose table grows with the positions that are met: a long context costs
/// nothing until it is used.
pub(crate) struct GrowingTable {
    rotary: RotaryData,
    frequencies: Frequencies,
    table: RopeTable,
}

impl GrowingTable {
    pub(crate) fn new(rotary: RotaryData) -> GrowingTable {
        let frequencies = Frequencies::new(&rotary);
        let table = frequencies.table(&rotary, 0);
        GrowingTable { rotary, frequencies, table }
    }

    /// Makes it reach `positions` positions at least.
    pub(crate) fn reach(&mut self, positions: usize) {
        if self.table.positions() < positions {
            let room = positions.next_power_of_two().max(512);
            self.table = self.frequencies.table(&self.rotary, room);
        }
    }

    pub(crate) fn table(&self) -> &RopeTable {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(base: f64, width: u32, scaling: Scaling) -> RotaryData {
        RotaryData { head_width: width, rotated: width, base, scaling, interleaved: false }
    }

    fn near(a: f32, b: f64) {
        assert!((f64::from(a) - b).abs() <= 2e-6 * b.abs().max(1e-6), "{a} is not {b}");
    }

    #[test]
    fn without_scaling_pair_i_turns_by_the_base_to_minus_2i_over_the_width() {
        let f = Frequencies::new(&rotary(10_000.0, 64, Scaling::None));
        for (i, &inverse) in f.inverse.iter().enumerate() {
            near(inverse, 10_000f64.powf(-(i as f64) / 32.0));
        }
        assert_eq!((f.inverse.len(), f.attention), (32, 1.0));
    }

    #[test]
    fn where_a_part_of_a_head_turns_its_width_counts() {
        let part = RotaryData { head_width: 80, ..rotary(10_000.0, 32, Scaling::None) };
        let whole = Frequencies::new(&rotary(10_000.0, 32, Scaling::None));
        assert_eq!(Frequencies::new(&part), whole);
        assert_eq!(whole.table(&part, 3).head_width(), 80);
    }

    #[test]
    fn linear_divides_frequencies() {
        let plain = Frequencies::new(&rotary(10_000.0, 16, Scaling::None));
        let scaled = Frequencies::new(&rotary(10_000.0, 16, Scaling::Linear { factor: 4.0 }));
        for (a, b) in plain.inverse.iter().zip(&scaled.inverse) {
            assert_eq!(a / 4.0, *b);
        }
    }

    #[test]
    fn llama3_keeps_short_waves_stretches_long_ones_and_blends_between() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, context: 8192 };
        let plain = Frequencies::new(&rotary(500_000.0, 128, Scaling::None));
        let scaled = Frequencies::new(&rotary(500_000.0, 128, scaling));
        for (&a, &b) in plain.inverse.iter().zip(&scaled.inverse) {
            let wave = TAU / f64::from(a);
            if wave < 2048.0 {
                assert_eq!(a, b);
            } else if wave > 8192.0 {
                assert_eq!(a / 8.0, b);
            } else {
                let s = (8192.0 / wave - 1.0) / 3.0;
                near(b, (1.0 - s) * f64::from(a) / 8.0 + s * f64::from(a));
            }
        }
    }

    #[test]
    fn yarn_ramps_between_whole_pairs() {
        let scaling = Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            attention: None,
            context: 4096,
            untruncated: false,
        };
        let plain = Frequencies::new(&rotary(10_000.0, 128, Scaling::None));
        let scaled = Frequencies::new(&rotary(10_000.0, 128, scaling));
        // 64·ln(4096/(32·2π))/ln(10000) = 20.94 and 64·ln(4096/2π)/ln(10000) = 45.02
        for (i, (&a, &b)) in plain.inverse.iter().zip(&scaled.inverse).enumerate() {
            let ramp = ((i as f64 - 20.0) / 26.0).clamp(0.0, 1.0);
            near(b, f64::from(a) * (ramp / 4.0 + 1.0 - ramp));
        }
        near(scaled.attention, 0.1 * 4f64.ln() + 1.0);
        let said = Scaling::Yarn {
            factor: 4.0,
            fast: 32.0,
            slow: 1.0,
            attention: Some(1.25),
            context: 4096,
            untruncated: false,
        };
        assert_eq!(Frequencies::new(&rotary(10_000.0, 128, said)).attention, 1.25);
    }

    #[test]
    fn an_untruncated_ramp_begins_and_ends_between_pairs() {
        let scaling = Scaling::Yarn {
            factor: 32.0,
            fast: 32.0,
            slow: 1.0,
            attention: None,
            context: 4096,
            untruncated: true,
        };
        let plain = Frequencies::new(&rotary(150_000.0, 64, Scaling::None));
        let scaled = Frequencies::new(&rotary(150_000.0, 64, scaling));
        let pair = |turns: f64| 32.0 * (4096.0 / (turns * TAU)).ln() / 150_000f64.ln();
        let (low, high) = (pair(32.0), pair(1.0));
        assert!(low.fract() > 0.01 && high.fract() > 0.01, "{low} and {high} are no pairs");
        for (i, (&a, &b)) in plain.inverse.iter().zip(&scaled.inverse).enumerate() {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            near(b, f64::from(a) * (ramp / 32.0 + 1.0 - ramp));
        }
    }

    #[test]
    fn long_requests_have_frequencies_of_their_own() {
        let short = vec![1.0, 1.5, 2.0, 4.0];
        let long = vec![1.0, 3.0, 10.0, 40.0];
        let scaling =
            Scaling::Long { short: short.clone(), long: long.clone(), attention: 1.25, context: 4 };
        let rotary_of = |scaling| rotary(10_000.0, 8, scaling);
        let plain = Frequencies::new(&rotary_of(Scaling::None));
        let both = Frequencies::new(&rotary_of(scaling.clone()));
        for (i, &frequency) in plain.inverse.iter().enumerate() {
            near(both.of_reach(4)[i], f64::from(frequency) / short[i]);
            near(both.of_reach(5)[i], f64::from(frequency) / long[i]);
        }
        assert_eq!((both.attention, plain.of_reach(5)), (1.25, &plain.inverse[..]));
        let mut table = GrowingTable::new(rotary_of(scaling));
        table.reach(700);
        assert_eq!(table.table().positions(), 1024);
    }

    #[test]
    fn a_table_grows_and_its_rows_stay() {
        let mut table = GrowingTable::new(rotary(10_000.0, 8, Scaling::None));
        assert_eq!(table.table().positions(), 0);
        table.reach(1);
        assert_eq!(table.table().positions(), 512);
        table.reach(513);
        assert_eq!(table.table().positions(), 1024);
    }
}
