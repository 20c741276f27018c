//! What ranks do together between two stretches of calls.

use super::memory::Slot;
use crate::device::Batch;
use crate::error::RuntimeError;
use crate::ranks::Ranks;
use engraft_kernels_cpu::{Arena, Rows};

/// One meeting with other ranks.
#[derive(Clone, Debug)]
pub(crate) enum Collective {
    /// What the stage before hands on.
    Receive { outputs: Vec<Slot> },
    /// What this stage hands on.
    Send { inputs: Vec<Slot> },
    /// The sum over the ranks of the stage.
    AllReduce { input: Slot, output: Slot },
    /// Columns of all ranks of the stage side by side.
    AllGather { input: Slot, output: Slot },
}

/// Memory of meetings, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Luggage {
    packed: Vec<f32>,
    gathered: Vec<f32>,
}

impl Collective {
    /// Meets the others.
    ///
    /// # Errors
    /// Where one of them failed.
    pub(crate) fn run(
        &self,
        ranks: &mut Ranks,
        arena: &mut Arena,
        batch: &Batch,
        luggage: &mut Luggage,
    ) -> Result<(), RuntimeError> {
        let rows = |slot: &Slot| slot.rows(batch.tokens.len(), batch.outputs.len());
        let Luggage { packed, gathered } = luggage;
        match self {
            Collective::Receive { outputs } => {
                let places: Vec<Rows> = outputs.iter().map(rows).collect();
                packed.resize(places.iter().map(|place| place.rows * place.width).sum(), 0.0);
                let mut rest = &mut packed[..];
                let mut parts = Vec::with_capacity(places.len());
                for place in &places {
                    let (part, behind) = rest.split_at_mut(place.rows * place.width);
                    parts.push(part);
                    rest = behind;
                }
                ranks.receive(&mut parts)?;
                for (place, part) in places.into_iter().zip(parts) {
                    unpack(part, arena, place);
                }
                Ok(())
            }
            Collective::Send { inputs } => {
                packed.clear();
                let mut ends = vec![0];
                for input in inputs {
                    pack(arena, rows(input), packed);
                    ends.push(packed.len());
                }
                let parts: Vec<&[f32]> =
                    ends.windows(2).map(|pair| &packed[pair[0]..pair[1]]).collect();
                ranks.send(&parts)
            }
            Collective::AllReduce { input, output } => {
                let (input, output) = (rows(input), rows(output));
                let floats = input.rows * input.width;
                // Sums are made in place, where they lie without gaps.
                if input == output && input.stride == input.width {
                    return ranks.all_reduce(&mut arena[input.start..][..floats]);
                }
                packed.clear();
                pack(arena, input, packed);
                ranks.all_reduce(packed)?;
                unpack(packed, arena, output);
                Ok(())
            }
            Collective::AllGather { input, output } => {
                let (input, output) = (rows(input), rows(output));
                packed.clear();
                pack(arena, input, packed);
                ranks.all_gather(packed, gathered)?;
                let (width, floats) = (input.width, packed.len());
                for peer in 0..gathered.len().checked_div(floats).unwrap_or(0) {
                    let start = output.start + peer * width;
                    let columns = Rows { start, width, ..output };
                    unpack(&gathered[peer * floats..][..floats], arena, columns);
                }
                Ok(())
            }
        }
    }
}

/// Appends a matrix of the arena, row after row without gaps.
fn pack(arena: &[f32], from: Rows, to: &mut Vec<f32>) {
    for row in 0..from.rows {
        to.extend_from_slice(&arena[from.start + row * from.stride..][..from.width]);
    }
}

/// Puts rows without gaps where they belong in the arena.
fn unpack(from: &[f32], arena: &mut [f32], to: Rows) {
    for (row, values) in from.chunks_exact(to.width.max(1)).enumerate() {
        arena[to.start + row * to.stride..][..to.width].copy_from_slice(values);
    }
}
