//! Ranks of one model at work together.
//!
//! Every rank runs the same requests step by step, and no rank is told what to do by another:
//! what differs between machines (free memory) is agreed on when the model is loaded, and the
//! logits that the last stage has go to all, so that all choose the same tokens.
//!
//! A [`Communicator`] moves numbers between ranks; all that is built on it is here and is the
//! same for ranks in one process ([`in_process`]) and for processes (`mpi`). Sums go by the order
//! of ranks, so that every rank has the same bits, however they travelled.

mod crew;
mod in_process;
#[cfg(feature = "mpi")]
pub mod mpi;

pub(crate) use crew::Crew;

use crate::error::RuntimeError;
use engraft_ir::Rank;
use std::ops::Range;

/// What a rank can do with the others.
pub trait Communicator: Send {
    /// Which rank this is.
    fn rank(&self) -> u32;

    /// How many there are.
    fn size(&self) -> u32;

    /// How many of them are on this machine, this one among them.
    fn neighbours(&self) -> u32;

    /// Sends and receives all of these, in any order, and returns when it is done. Of what one
    /// rank sends another, what was sent first is received first.
    ///
    /// # Errors
    /// Where another rank failed, so that what is waited for will not come.
    fn exchange(
        &mut self,
        sends: &[(u32, &[f32])],
        receives: &mut [(u32, &mut [f32])],
    ) -> Result<(), RuntimeError>;
}

/// The only rank there is.
pub(crate) struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> u32 {
        0
    }

    fn size(&self) -> u32 {
        1
    }

    fn neighbours(&self) -> u32 {
        1
    }

    fn exchange(
        &mut self,
        _: &[(u32, &[f32])],
        _: &mut [(u32, &mut [f32])],
    ) -> Result<(), RuntimeError> {
        Ok(())
    }
}

/// Floats that carry a number: each has 16 bits of it, and is exact whatever it passes through.
const FLOATS: usize = 4;

/// A rank of a mapping and its line to the others.
pub(crate) struct Ranks {
    rank: Rank,
    line: Box<dyn Communicator>,
    /// What the others sent.
    received: Vec<f32>,
}

impl Ranks {
    /// The rank that a program says it is of, with its line.
    ///
    /// # Errors
    /// A rank of another number, or of another number of ranks, than the communicator's.
    pub(crate) fn new(rank: Rank, line: Box<dyn Communicator>) -> Result<Ranks, RuntimeError> {
        let (engine, running) = (rank.mapping.world_size(), line.size());
        if engine != running {
            return Err(RuntimeError::RankCount { engine, running });
        }
        if rank.number != line.rank() {
            let reason = format!("rank {} was given the engine of {rank}", line.rank());
            return Err(RuntimeError::Bug { reason });
        }
        Ok(Ranks { rank, line, received: Vec::new() })
    }

    /// How many ranks share this machine.
    pub(crate) fn neighbours(&self) -> u32 {
        self.line.neighbours().max(1)
    }

    /// What each rank says, in their order. All say as many numbers.
    pub(crate) fn share(&mut self, mine: &[u64]) -> Result<Vec<Vec<u64>>, RuntimeError> {
        let floats: Vec<f32> = mine
            .iter()
            .flat_map(|number| (0..FLOATS).map(move |i| f32::from((number >> (16 * i)) as u16)))
            .collect();
        let everybody = 0..self.line.size();
        let mut all = vec![0.0; floats.len() * everybody.len()];
        self.gather(everybody, &floats, &mut all)?;
        let number = |floats: &[f32]| {
            floats.iter().rev().fold(0, |number, &part| number << 16 | u64::from(part as u16))
        };
        let of = |floats: &[f32]| floats.chunks_exact(FLOATS).map(number).collect();
        Ok(match floats.len() {
            0 => vec![Vec::new(); self.line.size() as usize],
            each => all.chunks_exact(each).map(of).collect(),
        })
    }

    /// Whether any rank says so.
    pub(crate) fn any(&mut self, mine: bool) -> Result<bool, RuntimeError> {
        if self.line.size() == 1 {
            return Ok(mine);
        }
        Ok(self.share(&[u64::from(mine)])?.iter().any(|said| said != &[0]))
    }

    /// The sum of what all ranks of the stage have, in the order of ranks.
    pub(crate) fn all_reduce(&mut self, mine: &mut [f32]) -> Result<(), RuntimeError> {
        let peers = self.rank.peers();
        let own = self.rank.tp() as usize;
        let (len, count) = (mine.len(), peers.len());
        if count == 1 || len == 0 {
            return Ok(());
        }
        let mut received = std::mem::take(&mut self.received);
        received.resize(received.len().max(len * (count - 1)), 0.0);
        let done = self.swap(peers, mine, received[..len * (count - 1)].chunks_exact_mut(len));
        let mut others = received[..len * (count - 1)].chunks_exact_mut(len);
        if own == 0 {
            others.for_each(|other| add(mine, other));
        } else if let Some(sum) = others.next() {
            for (at, other) in others.enumerate() {
                if at + 1 == own {
                    add(sum, mine);
                }
                add(sum, other);
            }
            if own + 1 == count {
                add(sum, mine);
            }
            mine.copy_from_slice(sum);
        }
        self.received = received;
        done
    }

    /// What all ranks of the stage have, one after the other.
    pub(crate) fn all_gather(
        &mut self,
        mine: &[f32],
        all: &mut Vec<f32>,
    ) -> Result<(), RuntimeError> {
        let peers = self.rank.peers();
        all.resize(mine.len() * peers.len(), 0.0);
        self.gather(peers, mine, all)
    }

    /// Hands values on to the next stage.
    pub(crate) fn send(&mut self, values: &[&[f32]]) -> Result<(), RuntimeError> {
        let to = self.rank.number + self.rank.mapping.tp_size;
        let sends: Vec<(u32, &[f32])> = values.iter().map(|&values| (to, values)).collect();
        self.line.exchange(&sends, &mut [])
    }

    /// Takes values from the stage before.
    pub(crate) fn receive(&mut self, values: &mut [&mut [f32]]) -> Result<(), RuntimeError> {
        let from = self.rank.number - self.rank.mapping.tp_size;
        let mut receives: Vec<(u32, &mut [f32])> =
            values.iter_mut().map(|values| (from, &mut **values)).collect();
        self.line.exchange(&[], &mut receives)
    }

    /// What the last stage has goes to all others: each of its ranks sees to one rank of every
    /// other stage.
    pub(crate) fn take_from_last(&mut self, values: &mut [f32]) -> Result<(), RuntimeError> {
        let (tp, pp) = (self.rank.mapping.tp_size, self.rank.mapping.pp_size);
        let of_stage = |stage: u32| stage * tp + self.rank.tp();
        if pp == 1 {
            return Ok(());
        }
        if !self.rank.is_last() {
            return self.line.exchange(&[], &mut [(of_stage(pp - 1), values)]);
        }
        let sends: Vec<(u32, &[f32])> =
            (0..pp - 1).map(|stage| (of_stage(stage), &*values)).collect();
        self.line.exchange(&sends, &mut [])
    }

    fn gather(
        &mut self,
        peers: Range<u32>,
        mine: &[f32],
        all: &mut [f32],
    ) -> Result<(), RuntimeError> {
        if mine.is_empty() {
            return Ok(());
        }
        let own = (self.line.rank() - peers.start) as usize;
        all[own * mine.len()..][..mine.len()].copy_from_slice(mine);
        let places = all.chunks_exact_mut(mine.len()).enumerate();
        let others = places.filter(|(at, _)| *at != own).map(|(_, place)| place);
        self.swap(peers, mine, others)
    }

    /// Sends what is here to all others of `peers`, and receives what they have, in their order.
    fn swap<'a>(
        &mut self,
        peers: Range<u32>,
        mine: &[f32],
        places: impl Iterator<Item = &'a mut [f32]>,
    ) -> Result<(), RuntimeError> {
        let own = self.line.rank();
        let others = || peers.clone().filter(|&peer| peer != own);
        let sends: Vec<(u32, &[f32])> = others().map(|peer| (peer, mine)).collect();
        let mut receives: Vec<(u32, &mut [f32])> = others().zip(places).collect();
        self.line.exchange(&sends, &mut receives)
    }
}

/// `sum += more`
fn add(sum: &mut [f32], more: &[f32]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests;
