//! How a model is spread over ranks: who is which rank, which blocks a stage has, which share of
//! an axis a rank has.
//!
//! Ranks are numbered as TensorRT-LLM numbers them: those that share matrices (tensor
//! parallelism) follow each other, and stages (pipeline parallelism) come one after the other, so
//! rank `r` is `r % tp_size` of stage `r / tp_size`. Within a stage, experts are shared out first
//! and cut second: `moe_tp_rank = tp_rank / moe_ep_size`, `moe_ep_rank = tp_rank % moe_ep_size`.

use std::fmt;
use std::ops::Range;

/// How many ranks there are, and for what. All sizes are at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Ranks that share each matrix.
    pub tp_size: u32,
    /// Stages, each with a stretch of the blocks.
    pub pp_size: u32,
    /// Ranks of a stage that share each expert's matrices.
    pub moe_tp_size: u32,
    /// Ranks of a stage that share the list of experts; times `moe_tp_size` it is `tp_size`.
    pub moe_ep_size: u32,
}

impl Default for Mapping {
    fn default() -> Mapping {
        Mapping::new(1, 1)
    }
}

impl Mapping {
    /// The most ranks that are believed.
    pub const MOST: u32 = 1 << 16;

    /// Tensor and pipeline parallelism; experts are cut like any other matrix.
    pub fn new(tp_size: u32, pp_size: u32) -> Mapping {
        Mapping { tp_size, pp_size, moe_tp_size: tp_size, moe_ep_size: 1 }
    }

    /// Whether its numbers make sense.
    ///
    /// # Errors
    /// A sentence that names the number, what it is and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let Mapping { tp_size, pp_size, moe_tp_size, moe_ep_size } = *self;
        let sizes = [
            ("tp_size", tp_size),
            ("pp_size", pp_size),
            ("moe_tp_size", moe_tp_size),
            ("moe_ep_size", moe_ep_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("{name} is 0: it must be at least 1"));
        }
        if tp_size.checked_mul(pp_size).is_none_or(|ranks| ranks > Mapping::MOST) {
            return Err(format!(
                "tp_size {tp_size} times pp_size {pp_size} is more than {} ranks",
                Mapping::MOST
            ));
        }
        if moe_tp_size.checked_mul(moe_ep_size) != Some(tp_size) {
            return Err(format!(
                "moe_tp_size {moe_tp_size} times moe_ep_size {moe_ep_size} must be tp_size, \
                 {tp_size}"
            ));
        }
        Ok(())
    }

    /// All ranks.
    pub fn world_size(&self) -> u32 {
        self.tp_size * self.pp_size
    }

    /// Whether there is more than one.
    pub fn is_split(&self) -> bool {
        self.world_size() != 1
    }

    /// Every rank, in order.
    pub fn ranks(self) -> impl Iterator<Item = Rank> {
        (0..self.world_size()).map(move |number| Rank { mapping: self, number })
    }
}

/// `tp 2, pp 4`, and the experts' sizes where they are not as usual.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tp {}, pp {}", self.tp_size, self.pp_size)?;
        match self.moe_ep_size {
            1 => Ok(()),
            experts => write!(f, ", moe_tp {}, moe_ep {experts}", self.moe_tp_size),
        }
    }
}

/// One rank of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rank {
    /// Of which it is one.
    pub mapping: Mapping,
    /// Less than the mapping's `world_size`.
    pub number: u32,
}

impl Rank {
    /// Which of those that share matrices.
    pub fn tp(&self) -> u32 {
        self.number % self.mapping.tp_size
    }

    /// Which stage.
    pub fn stage(&self) -> u32 {
        self.number / self.mapping.tp_size
    }

    /// Which of those that share each expert's matrices.
    pub fn moe_tp(&self) -> u32 {
        self.tp() / self.mapping.moe_ep_size
    }

    /// Which of those that share the list of experts.
    pub fn moe_ep(&self) -> u32 {
        self.tp() % self.mapping.moe_ep_size
    }

    /// Whether it has the embedding.
    pub fn is_first(&self) -> bool {
        self.stage() == 0
    }

    /// Whether it has the head.
    pub fn is_last(&self) -> bool {
        self.stage() + 1 == self.mapping.pp_size
    }

    /// The numbers of all ranks of its stage: those that it shares matrices with, itself too.
    pub fn peers(&self) -> Range<u32> {
        let first = self.stage() * self.mapping.tp_size;
        first..first + self.mapping.tp_size
    }

    /// The blocks of its stage, out of all of a model's. As newer versions of TensorRT-LLM have
    /// it, the first stages have one more where they do not come out even.
    pub fn blocks(&self, blocks: u32) -> Range<u32> {
        let (each, more) = (blocks / self.mapping.pp_size, blocks % self.mapping.pp_size);
        let stage = self.stage();
        let first = stage * each + stage.min(more);
        first..first + each + u32::from(stage < more)
    }
}

/// `rank 3 of tp 2, pp 2`
impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.number, self.mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_stage_follow_each_other() {
        let mapping = Mapping::new(2, 3);
        let ranks: Vec<(u32, u32)> = mapping.ranks().map(|r| (r.stage(), r.tp())).collect();
        assert_eq!(ranks, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        let rank = Rank { mapping, number: 3 };
        assert_eq!(rank.peers(), 2..4);
        assert!(!rank.is_first() && !rank.is_last());
        assert_eq!(rank.to_string(), "rank 3 of tp 2, pp 3");
    }

    #[test]
    fn experts_are_shared_out_before_they_are_cut() {
        let mapping = Mapping { moe_tp_size: 2, moe_ep_size: 2, ..Mapping::new(4, 1) };
        assert_eq!(mapping.check(), Ok(()));
        let ranks: Vec<(u32, u32)> = mapping.ranks().map(|r| (r.moe_tp(), r.moe_ep())).collect();
        assert_eq!(ranks, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }

    #[test]
    fn every_block_is_in_one_stage_and_the_first_stages_have_more() {
        let stages = |blocks, pp_size| {
            Mapping::new(1, pp_size).ranks().map(|r| r.blocks(blocks)).collect::<Vec<_>>()
        };
        assert_eq!(stages(7, 3), [0..3, 3..5, 5..7]);
        assert_eq!(stages(8, 2), [0..4, 4..8]);
    }

    #[test]
    fn sizes_that_cannot_be_are_named() {
        let named = |mapping: Mapping, name: &str| {
            assert!(mapping.check().unwrap_err().contains(name), "{mapping:?}");
        };
        named(Mapping::new(0, 1), "tp_size");
        named(Mapping::new(1, 0), "pp_size");
        named(Mapping { moe_ep_size: 2, ..Mapping::new(2, 1) }, "moe_ep_size");
        named(Mapping::new(1 << 15, 1 << 15), "ranks");
    }
}
