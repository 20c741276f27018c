//! `--dry_run`: what would be written, said and not done.

use crate::output;
use anyhow::Result;
use engraft_convert::build::Checkpoint;
use engraft_convert::{Forecast, Pipeline, Tensor};
use engraft_files::space;
use serde_json::json;
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;

/// What is not counted where a model is calibrated.
pub const REPORTS: &str = "not counted: what calibrating does to each weight, some 200 bytes of \
     the record a weight, and the samples' activations that it holds in memory";

/// What is said besides the forecast itself.
pub struct About<'a> {
    /// `checkpoint`, `engine`
    pub what: &'a str,
    pub architecture: &'a str,
    pub plugin: String,
    pub dtype: &'a str,
    /// `tp 2, pp 1`
    pub ranks: String,
    pub output_dir: &'a Path,
}

impl<'a> About<'a> {
    /// Of what a model would become.
    pub fn pipeline(pipeline: &'a Pipeline, what: &'a str, output_dir: &'a Path) -> About<'a> {
        let config = pipeline.config();
        About {
            what,
            architecture: &config.architecture,
            plugin: pipeline.plugin(),
            dtype: config.dtype.config_name(),
            ranks: pipeline.mapping().to_string(),
            output_dir,
        }
    }

    /// Of what a checkpoint would become.
    pub fn checkpoint(
        checkpoint: &'a Checkpoint,
        what: &'a str,
        ranks: String,
        output_dir: &'a Path,
    ) -> About<'a> {
        let config = checkpoint.config();
        About {
            what,
            architecture: &config.architecture,
            plugin: checkpoint.plugin(),
            dtype: config.dtype.config_name(),
            ranks,
            output_dir,
        }
    }
}

/// Says it, as text or as JSON.
pub fn report(about: &About<'_>, forecast: &Forecast, json: bool) -> Result<ExitCode> {
    let free = space::free(about.output_dir);
    let memory = engraft_weights::resident().saturating_add(forecast.held);
    match json {
        true => output::json(&as_json(about, forecast, memory, free))?,
        false => output::text(&as_text(about, forecast, memory, free))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(
    about: &About<'_>,
    forecast: &Forecast,
    memory: u64,
    free: Option<u64>,
) -> serde_json::Value {
    let tensor = |tensor: &Tensor| {
        json!({
            "name": tensor.name,
            "dtype": tensor.dtype.config_name(),
            "shape": tensor.shape,
            "bytes": tensor.bytes(),
            "not_quantised": tensor.kept,
        })
    };
    json!({
        "kind": about.what,
        "dry_run": true,
        "output_dir": about.output_dir,
        "architecture": about.architecture,
        "plugin": about.plugin,
        "dtype": about.dtype,
        "mapping": about.ranks,
        "files": forecast.files.iter()
            .map(|(name, bytes)| json!({ "name": name, "bytes": bytes }))
            .collect::<Vec<_>>(),
        "bytes": forecast.bytes(),
        "memory": memory,
        "disk_free": free,
        "ranks": forecast.ranks.iter()
            .map(|tensors| tensors.iter().map(tensor).collect::<Vec<_>>())
            .collect::<Vec<_>>(),
    })
}

fn as_text(about: &About<'_>, forecast: &Forecast, memory: u64, free: Option<u64>) -> String {
    let About { what, architecture, plugin, dtype, ranks, output_dir } = about;
    let mut text = format!("{architecture} by {plugin}: a {what} in {dtype}, {ranks}\n");
    for (alike, tensors) in alike(&forecast.ranks) {
        let _ = writeln!(text, "{}:", counted("rank", &alike));
        for group in groups(tensors) {
            group.write(&mut text);
        }
    }
    let kept: Vec<&str> = forecast
        .ranks
        .iter()
        .flatten()
        .filter(|tensor| tensor.kept.is_some() && tensor.shape.len() > 1)
        .map(|tensor| tensor.name.as_str())
        .collect();
    let mut names: Vec<String> = kept.iter().map(|name| starred(name)).collect();
    names.sort();
    names.dedup();
    let _ = writeln!(text, "no quantisation would touch: vectors, {}", names.join(", "));
    text += "files:\n";
    let rows: Vec<_> = forecast
        .files
        .iter()
        .map(|(name, bytes)| (name.clone(), format!("{bytes} bytes")))
        .chain([("in all".to_owned(), format!("{} bytes", forecast.bytes()))])
        .collect();
    text += &output::table(&rows);
    let _ = writeln!(text, "memory: about {}", output::bytes(memory));
    let free = match free {
        Some(free) if free < forecast.bytes() => {
            format!("{} free: too little", output::bytes(free))
        }
        Some(free) => format!("{} free", output::bytes(free)),
        None => "how much is free is not known".to_owned(),
    };
    let needed = output::bytes(forecast.bytes());
    let _ = writeln!(text, "disk: {needed} needed at {}, {free}", output_dir.display());
    text += "nothing was written\n";
    text
}

/// Ranks with the same tensors, together.
fn alike(ranks: &[Vec<Tensor>]) -> Vec<(RangeInclusive<usize>, &[Tensor])> {
    let mut all: Vec<(RangeInclusive<usize>, &[Tensor])> = Vec::new();
    for (rank, tensors) in ranks.iter().enumerate() {
        match all.last_mut() {
            Some((range, known)) if *known == tensors.as_slice() => *range = *range.start()..=rank,
            _ => all.push((rank..=rank, tensors)),
        }
    }
    all
}

/// `rank 0`, `ranks 0-3`
fn counted(what: &str, range: &RangeInclusive<usize>) -> String {
    match (range.start(), range.end()) {
        (first, last) if first == last => format!("{what} {first}"),
        (first, last) => format!("{what}s {first}-{last}"),
    }
}

/// The prefix, the number and the rest of a name with a number in it.
fn numbered(name: &str) -> Option<(&str, usize, &str)> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let part = name.split('.').find(|part| digits(part))?;
    let at = part.as_ptr() as usize - name.as_ptr() as usize;
    Some((&name[..at], part.parse().ok()?, &name[at + part.len()..]))
}

/// A name with a star where its number is.
fn starred(name: &str) -> String {
    match numbered(name) {
        Some((before, _, after)) => format!("{before}*{after}"),
        None => name.to_owned(),
    }
}

/// Blocks with the same tensors, or one tensor that belongs to no block.
struct Group<'a> {
    /// `transformer.layers.`, or the tensor's whole name.
    prefix: &'a str,
    blocks: Option<RangeInclusive<usize>>,
    /// Of the first block: names behind the number.
    tensors: Vec<(&'a str, &'a Tensor)>,
}

impl Group<'_> {
    fn is_like(&self, other: &Group<'_>) -> bool {
        self.prefix == other.prefix
            && self.tensors.len() == other.tensors.len()
            && self.tensors.iter().zip(&other.tensors).all(|((a, one), (b, two))| {
                a == b && one.dtype == two.dtype && one.shape == two.shape
            })
    }

    fn write(&self, text: &mut String) {
        let row = |tensor: &Tensor| {
            let Tensor { dtype, shape, .. } = tensor;
            format!("{} {shape:?}  {}", dtype.config_name(), output::bytes(tensor.bytes()))
        };
        match &self.blocks {
            None => {
                for (name, tensor) in &self.tensors {
                    let _ = writeln!(text, "  {name}  {}", row(tensor));
                }
            }
            Some(blocks) => {
                let (first, last) = (blocks.start(), blocks.end());
                let range =
                    if first == last { first.to_string() } else { format!("{first}-{last}") };
                let bytes = self.tensors.iter().map(|(_, tensor)| tensor.bytes()).sum();
                let each = if first == last { "" } else { " each" };
                let _ = writeln!(
                    text,
                    "  {}{range}: {} tensors, {}{each}",
                    self.prefix,
                    self.tensors.len(),
                    output::bytes(bytes)
                );
                let rows: Vec<_> = self
                    .tensors
                    .iter()
                    .map(|(name, tensor)| (format!("  {name}"), row(tensor)))
                    .collect();
                *text += &output::table(&rows);
            }
        }
    }
}

fn groups(tensors: &[Tensor]) -> Vec<Group<'_>> {
    let mut blocks: Vec<Group<'_>> = Vec::new();
    for tensor in tensors {
        let group = match numbered(&tensor.name) {
            None => {
                Group { prefix: &tensor.name, blocks: None, tensors: vec![(&tensor.name, tensor)] }
            }
            Some((prefix, number, rest)) => {
                let entry = (rest.trim_start_matches('.'), tensor);
                match blocks.last_mut() {
                    Some(last) if last.prefix == prefix && last.blocks == Some(number..=number) => {
                        last.tensors.push(entry);
                        continue;
                    }
                    _ => Group { prefix, blocks: Some(number..=number), tensors: vec![entry] },
                }
            }
        };
        blocks.push(group);
    }
    let mut folded: Vec<Group<'_>> = Vec::new();
    for group in blocks {
        match (folded.last_mut(), &group.blocks) {
            (Some(last), Some(number)) if last.is_like(&group) && last.blocks.is_some() => {
                let first = last.blocks.as_ref().map_or(0, |blocks| *blocks.start());
                last.blocks = Some(first..=*number.end());
            }
            _ => folded.push(group),
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_ir::DType;

    fn tensor(name: &str, shape: &[u64]) -> Tensor {
        Tensor { name: name.into(), dtype: DType::BF16, shape: shape.into(), kept: None }
    }

    #[test]
    fn blocks_that_are_alike_are_one_line_and_their_tensors_stand_once() {
        let mut tensors = vec![tensor("embedding.weight", &[8, 4])];
        for block in 0..12 {
            let inner = if block < 11 { 16 } else { 32 };
            tensors.push(tensor(&format!("layers.{block}.norm.weight"), &[4]));
            tensors.push(tensor(&format!("layers.{block}.fc.weight"), &[inner, 4]));
        }
        tensors.push(tensor("head.weight", &[8, 4]));
        let mut text = String::new();
        for group in groups(&tensors) {
            group.write(&mut text);
        }
        let wanted = "  embedding.weight  bfloat16 [8, 4]  64 B\n\
            \x20 layers.0-10: 2 tensors, 136 B each\n\
            \x20   norm.weight  bfloat16 [4]  8 B\n\
            \x20   fc.weight    bfloat16 [16, 4]  128 B\n\
            \x20 layers.11: 2 tensors, 264 B\n\
            \x20   norm.weight  bfloat16 [4]  8 B\n\
            \x20   fc.weight    bfloat16 [32, 4]  256 B\n\
            \x20 head.weight  bfloat16 [8, 4]  64 B\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn ranks_that_are_alike_are_said_once() {
        let (one, other) = (vec![tensor("a", &[1])], vec![tensor("a", &[2])]);
        let ranks = [one.clone(), one, other];
        let said: Vec<_> = alike(&ranks).iter().map(|(ranks, _)| counted("rank", ranks)).collect();
        assert_eq!(said, ["ranks 0-1", "rank 2"]);
        assert_eq!(starred("layers.3.router.weight"), "layers.*.router.weight");
    }
}
