//! What a plugin may use up. Every number is a field, so that a test can make it small.
//!
//! A plugin's work is milliseconds of arithmetic on a config: the defaults leave a hundred times
//! of what a large model needs, and stop anything hostile within a second.

use std::time::Duration;

/// Bounds on one plugin: its file, its compilation, and one session with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of the component's file.
    pub component_bytes: u64,
    /// How long its compilation may take.
    pub compile_time: Duration,
    /// Instructions of one session. Counted and not timed, so a stop is reproducible.
    pub fuel: u64,
    /// Bytes of linear memory.
    pub memory: usize,
    /// Elements of one table.
    pub table_elements: usize,
    /// Instances in a store.
    pub instances: usize,
    /// Linear memories in a store.
    pub memories: usize,
    /// Tables in a store.
    pub tables: usize,
    /// Bytes that one call may carry from the guest to us.
    pub call_bytes: usize,
    /// Handles that a guest may hold.
    pub handles: usize,
    /// Our own objects that a guest may hold: options of rotations, attentions
    /// and mixtures.
    pub resources: usize,
    /// Bytes of the guest's own stack.
    pub guest_stack: usize,
    /// Bytes of the stack of the thread that runs the guest.
    pub host_stack: usize,

    /// Blocks of a model.
    pub blocks: u32,
    /// Calls on the builder in one place.
    pub operations: u32,
    /// Calls on the builder in all places together.
    pub total_operations: u32,
    /// Rotary embeddings of a model that differ.
    pub rotaries: usize,
    /// Parameters of one place.
    pub parameters: usize,
    /// Parts, steps and axes of one parameter, together.
    pub pieces: usize,
    /// Values that one place hands to the next.
    pub carry: usize,
    /// Bytes of a parameter's, tensor's or field's name.
    pub name: usize,
    /// Bytes of a value's label.
    pub label: usize,
    /// Fields, settings, accepted names or left-out tensors in one answer.
    pub entries: usize,
    /// Bytes of a sentence for people.
    pub sentence: usize,
    /// Bytes of all parameters' descriptions that one graph makes us keep.
    pub kept_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            component_bytes: 8 << 20,
            compile_time: Duration::from_secs(60),
            fuel: 1_000_000_000,
            memory: 64 << 20,
            table_elements: 20_000,
            instances: 16,
            memories: 1,
            tables: 8,
            call_bytes: 16 << 20,
            handles: 1_024,
            resources: 16,
            guest_stack: 256 << 10,
            host_stack: 8 << 20,
            blocks: 65_536,
            operations: 10_000,
            total_operations: 1_000_000,
            rotaries: 1_024,
            parameters: 100_000,
            pieces: 10_000,
            carry: 16,
            name: 512,
            label: 256,
            entries: 10_000,
            sentence: 4_096,
            kept_bytes: 256 << 20,
        }
    }
}
