//! What an engine is built for: the flags that were given, and what is taken for the others.
//!
//! | flag               | if not given                                                            |
//! |--------------------|-------------------------------------------------------------------------|
//! | `target`           | `cpu`                                                                   |
//! | `max_batch_size`   | 8. TensorRT-LLM takes 2048, for a GPU; a CPU is busy with a handful      |
//! | `max_seq_len`      | the model's `max_position_embeddings`                                    |
//! | `max_input_len`    | `max_seq_len`: nothing is padded to it, so a lower one serves nobody     |
//! | `max_num_tokens`   | 512, or `max_batch_size` if that is more; no more than `max_batch_size · max_seq_len`. Longer steps only cost memory: a CPU's matrix products are at their best long before |
//! | `tokens_per_block` | 32, as TensorRT-LLM                                                      |
//! | `kv_cache_type`    | `paged`                                                                 |
//!
//! None of these shapes the engine's graph or weights. They are recorded as what a runtime takes
//! where it is not told otherwise.

use crate::error::CompileError;
use crate::select::Target;
use engraft_engine::{BuildConfig, KvCacheType};

/// The flags of a build; what is `None` was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// The device.
    pub target: Option<String>,
    /// Requests in flight.
    pub max_batch_size: Option<u32>,
    /// Tokens of one prompt.
    pub max_input_len: Option<u32>,
    /// Tokens of one request, prompt and answer together.
    pub max_seq_len: Option<u32>,
    /// Tokens of all requests in one step.
    pub max_num_tokens: Option<u32>,
    /// Tokens of one page of the cache; a power of two, and at least 16.
    pub tokens_per_block: Option<u32>,
    /// How past keys and values are kept.
    pub kv_cache_type: KvCacheType,
}

const MAX_BATCH_SIZE: u32 = 8;
const MAX_NUM_TOKENS: u32 = 512;
const TOKENS_PER_BLOCK: u32 = 32;
/// Attention reads keys sixteen at a time.
const LEAST_BLOCK: u32 = 16;

impl BuildOptions {
    /// All of it, for a model whose positions end at `positions`.
    ///
    /// # Errors
    /// [`CompileError::Target`], [`CompileError::Limit`], or [`CompileError::NoLength`] where
    /// neither the flags nor the model say how long a request may be.
    pub fn resolve(&self, positions: Option<u32>) -> Result<BuildConfig, CompileError> {
        let target = Target::from_name(self.target.as_deref().unwrap_or(Target::Cpu.name()))?;
        let batch = self.max_batch_size.unwrap_or(MAX_BATCH_SIZE);
        let length = self.max_seq_len.or(positions).ok_or(CompileError::NoLength)?;
        let input = self.max_input_len.unwrap_or(length);
        let tokens = self
            .max_num_tokens
            .unwrap_or_else(|| MAX_NUM_TOKENS.max(batch).min(batch.saturating_mul(length)));
        let block = self.tokens_per_block.unwrap_or(TOKENS_PER_BLOCK);

        let limit =
            |flag, value, problem: String| Err(CompileError::Limit { flag, value, problem });
        let all = [
            ("max_batch_size", batch),
            ("max_seq_len", length),
            ("max_input_len", input),
            ("max_num_tokens", tokens),
        ];
        if let Some((flag, value)) = all.into_iter().find(|(_, value)| *value == 0) {
            return limit(flag, value, "must be at least 1".to_owned());
        }
        if let Some(positions) = positions.filter(|positions| length > *positions) {
            let problem = format!("is more than the {positions} positions that the model has");
            return limit("max_seq_len", length, problem);
        }
        if input > length {
            return limit("max_input_len", input, format!("is more than max_seq_len, {length}"));
        }
        if tokens < batch {
            let problem = format!(
                "is less than max_batch_size, {batch}: each request in flight needs one a step"
            );
            return limit("max_num_tokens", tokens, problem);
        }
        if !block.is_power_of_two() || block < LEAST_BLOCK {
            let problem = format!("must be a power of two, and at least {LEAST_BLOCK}");
            return limit("tokens_per_block", block, problem);
        }
        Ok(BuildConfig {
            target: target.name().to_owned(),
            max_batch_size: batch,
            max_input_len: input,
            max_seq_len: length,
            max_num_tokens: tokens,
            tokens_per_block: block,
            kv_cache_type: self.kv_cache_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_comes_from_the_model() {
        let config = BuildOptions::default().resolve(Some(8192)).unwrap();
        let expected = BuildConfig {
            target: "cpu".to_owned(),
            max_batch_size: 8,
            max_input_len: 8192,
            max_seq_len: 8192,
            max_num_tokens: 512,
            tokens_per_block: 32,
            kv_cache_type: KvCacheType::Paged,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_step_is_no_longer_than_all_requests_together() {
        let options = BuildOptions { max_batch_size: Some(2), ..BuildOptions::default() };
        assert_eq!(options.resolve(Some(64)).unwrap().max_num_tokens, 128);
        let options = BuildOptions { max_batch_size: Some(1000), ..BuildOptions::default() };
        assert_eq!(options.resolve(Some(64)).unwrap().max_num_tokens, 1000);
    }

    #[test]
    fn limits_that_do_not_fit_together_are_refused_by_name() {
        let cases = [
            (BuildOptions { max_batch_size: Some(0), ..BuildOptions::default() }, "max_batch_size"),
            (BuildOptions { max_seq_len: Some(0), ..BuildOptions::default() }, "max_seq_len"),
            (BuildOptions { max_seq_len: Some(65), ..BuildOptions::default() }, "max_seq_len"),
            (BuildOptions { max_input_len: Some(65), ..BuildOptions::default() }, "max_input_len"),
            (BuildOptions { max_num_tokens: Some(7), ..BuildOptions::default() }, "max_num_tokens"),
            (
                BuildOptions { tokens_per_block: Some(0), ..BuildOptions::default() },
                "tokens_per_block",
            ),
            (
                BuildOptions { tokens_per_block: Some(48), ..BuildOptions::default() },
                "tokens_per_block",
            ),
        ];
        for (options, name) in cases {
            match options.resolve(Some(64)) {
                Err(CompileError::Limit { flag, .. }) => assert_eq!(flag, name),
                other => panic!("{options:?}: {other:?}"),
            }
        }
        let options = BuildOptions { target: Some("tpu".to_owned()), ..BuildOptions::default() };
        assert!(matches!(options.resolve(Some(64)), Err(CompileError::Target { .. })));
        assert!(matches!(BuildOptions::default().resolve(None), Err(CompileError::NoLength)));
    }
}
