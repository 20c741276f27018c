//! Flags that spread a model over ranks.

use crate::error::Usage;
use engraft_ir::Mapping;

/// How a model is spread over ranks, with TensorRT-LLM's flags.
#[derive(clap::Args, Debug)]
#[command(rename_all = "snake_case")]
pub struct MappingArgs {
    /// Ranks that share each matrix (tensor parallelism).
    #[arg(long, help_heading = "Ranks", value_name = "N", default_value = "1")]
    #[arg(allow_negative_numbers = true)]
    tp_size: u32,
    /// Stages, each with a stretch of the layers (pipeline parallelism).
    #[arg(long, help_heading = "Ranks", value_name = "N", default_value = "1")]
    #[arg(allow_negative_numbers = true)]
    pp_size: u32,
    /// Ranks of a stage that share each expert's matrices; by default what --moe_ep_size leaves.
    #[arg(
        long,
        help_heading = "Ranks",
        value_name = "N",
        default_value = "-1",
        hide_default_value = true
    )]
    #[arg(allow_negative_numbers = true)]
    moe_tp_size: i64,
    /// Ranks of a stage that share the experts out among them; by default what --moe_tp_size
    /// leaves, and 1 without that.
    #[arg(
        long,
        help_heading = "Ranks",
        value_name = "N",
        default_value = "-1",
        hide_default_value = true
    )]
    #[arg(allow_negative_numbers = true)]
    moe_ep_size: i64,
    /// Spread the embedding over the ranks of a stage, too.
    #[arg(long, help_heading = "Ranks")]
    use_parallel_embedding: bool,
    /// Along which axis: 0 is the vocabulary, 1 the hidden size.
    #[arg(
        long,
        help_heading = "Ranks",
        value_name = "AXIS",
        default_value = "0",
        hide_default_value = true
    )]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=1))]
    embedding_sharding_dim: u8,
}

impl MappingArgs {
    /// All ranks.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    pub fn mapping(&self) -> Result<Mapping, Usage> {
        let &MappingArgs { tp_size, pp_size, .. } = self;
        let given = |flag: &str, size: i64| match size {
            -1 => Ok(None),
            size => match u32::try_from(size) {
                Ok(size) if size > 0 => Ok(Some(size)),
                _ => Err(Usage::new(format!("--{flag} {size}: no such number of ranks"))
                    .help("take a number from 1, or -1 to let it follow from the others")),
            },
        };
        let experts =
            (given("moe_tp_size", self.moe_tp_size)?, given("moe_ep_size", self.moe_ep_size)?);
        let rest = |flag: &str, size: u32| match tp_size % size {
            0 => Ok(tp_size / size),
            _ => Err(Usage::new(format!("--{flag} {size} does not divide --tp_size {tp_size}"))
                .help("--moe_tp_size times --moe_ep_size is --tp_size")),
        };
        let (moe_tp_size, moe_ep_size) = match experts {
            (None, None) => (tp_size, 1),
            (Some(cut), None) => (cut, rest("moe_tp_size", cut)?),
            (None, Some(shared)) => (rest("moe_ep_size", shared)?, shared),
            (Some(cut), Some(shared)) => (cut, shared),
        };
        let mapping = Mapping { tp_size, pp_size, moe_tp_size, moe_ep_size };
        mapping.check().map_err(|what| {
            Usage::new(what).help(
                "--tp_size times --pp_size is the number of ranks; --moe_tp_size times \
                 --moe_ep_size is --tp_size",
            )
        })?;
        Ok(mapping)
    }

    /// The axis along which the embedding is spread, if it is.
    pub fn parallel_embedding(&self) -> Option<u8> {
        self.use_parallel_embedding.then_some(self.embedding_sharding_dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: MappingArgs,
    }

    fn parsed(line: &str) -> MappingArgs {
        Line::try_parse_from(line.split_whitespace()).unwrap().args
    }

    #[test]
    fn experts_are_cut_unless_they_are_shared_out() {
        let sizes = |line: &str| {
            let mapping = parsed(line).mapping().unwrap();
            (mapping.tp_size, mapping.pp_size, mapping.moe_tp_size, mapping.moe_ep_size)
        };
        assert_eq!(sizes("x"), (1, 1, 1, 1));
        assert_eq!(sizes("x --tp_size 4 --pp_size 2"), (4, 2, 4, 1));
        assert_eq!(sizes("x --tp_size 4 --moe_ep_size 2"), (4, 1, 2, 2));
        assert_eq!(sizes("x --tp_size 4 --moe_tp_size 1"), (4, 1, 1, 4));
        assert_eq!(sizes("x --tp_size 4 --moe_tp_size -1 --moe_ep_size -1"), (4, 1, 4, 1));
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        for (line, word) in [
            ("x --tp_size 0", "tp_size"),
            ("x --pp_size 0", "pp_size"),
            ("x --tp_size 4 --moe_tp_size 3", "moe_tp_size"),
            ("x --tp_size 2 --moe_ep_size 4", "moe_ep_size"),
            ("x --moe_ep_size 0", "moe_ep_size"),
            ("x --moe_tp_size -2", "moe_tp_size"),
        ] {
            let what = parsed(line).mapping().unwrap_err().to_string();
            assert!(what.contains(word), "{line}: {what}");
        }
    }

    #[test]
    fn the_embedding_is_whole_unless_it_is_spread() {
        assert_eq!(parsed("x --embedding_sharding_dim 1").parallel_embedding(), None);
        assert_eq!(parsed("x --use_parallel_embedding").parallel_embedding(), Some(0));
        let both = "x --use_parallel_embedding --embedding_sharding_dim 1";
        assert_eq!(parsed(both).parallel_embedding(), Some(1));
    }
}
