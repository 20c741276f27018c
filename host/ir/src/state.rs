//! What is kept from one step of a request to the next.

/// What an operation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateData {
    /// Of an attention, for each token: a key and a value of `key_heads × head_width`.
    Cache {
        /// Key and value heads.
        key_heads: u32,
        /// Elements of one head.
        head_width: u32,
        /// Whether values are a part of keys, and not kept apart.
        keys_only: bool,
    },
    /// Of a convolution, for each request: its last `taps - 1` inputs, zeros at the start.
    Convolution {
        /// Elements of an input.
        channels: u64,
        /// Inputs that a result depends on.
        taps: u64,
    },
    /// Of a recurrence, for each request: its last result.
    Recurrence {
        /// Elements of it.
        channels: u64,
    },
}

impl StateData {
    /// Numbers that it keeps of each request, apart from those of each token; saturates.
    pub fn numbers_of_request(&self) -> u64 {
        match *self {
            StateData::Cache { .. } => 0,
            StateData::Convolution { channels, taps } => {
                channels.saturating_mul(taps.saturating_sub(1))
            }
            StateData::Recurrence { channels } => channels,
        }
    }
}
