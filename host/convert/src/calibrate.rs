//! A model run over texts, so that its weights are quantised for what they meet.

use crate::pipeline::Pipeline;
use crate::quantise::{Quantised, Way};
use crate::{ConvertError, provenance};
use engraft_calibrate::{Progress, Quantiser, Report, RunError, Settings, Spill};
use engraft_files::{FileError, digest};
use engraft_runtime::Tokenizer;
use engraft_texts::Wanted;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// By what a model is calibrated, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Where the texts are; where nothing is said, a text that is built in.
    pub dataset: Option<PathBuf>,
    /// How many samples.
    pub size: usize,
    /// Tokens of a sample, at most.
    pub max_seq_length: usize,
    /// In which order texts are drawn; in their own where nothing is said.
    pub seed: Option<u64>,
    /// How much of the difficulty SmoothQuant moves to the weights; where nothing is said, what is
    /// best for each.
    pub alpha: Option<f64>,
}

/// What was found out about a model's weights, on disk until it is written where it belongs.
pub struct Calibrated {
    pub(crate) spill: Spill,
    /// What quantising did to each weight.
    pub reports: BTreeMap<String, Report>,
    /// Samples that the model ran over, and their tokens.
    pub samples: (usize, usize),
}

impl Calibrated {
    /// For the record: what was run, and what it did to each weight.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "samples": self.samples.0,
            "tokens": self.samples.1,
            "weights": self.reports,
        })
    }

    /// The weights whose codes are worst, by how large the weight is in terms of its error, each
    /// with what is known of it.
    pub fn worst(&self) -> Vec<(&str, &Report)> {
        let mut all: Vec<(&str, &Report)> =
            self.reports.iter().map(|(name, report)| (name.as_str(), report)).collect();
        let size = |report: &Report| report.sqnr.unwrap_or(f64::INFINITY);
        all.sort_by(|a, b| size(a.1).total_cmp(&size(b.1)));
        all
    }

    /// Takes away what lies on disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(self) -> Result<(), ConvertError> {
        Ok(self.spill.remove()?)
    }
}

/// Bytes of text that a token has at most, all in all.
const BYTES_OF_TOKEN: usize = 16;

/// What the store is called, in the directory of the output in the making.
const STORE: &str = "calibration";

impl Pipeline {
    /// Runs the model over texts and quantises its weights on the way, into a store in `directory`,
    /// that of the output in the making; nothing where its scheme asks for none. What an
    /// interrupted run has done is not done again.
    ///
    /// # Errors
    /// No tokenizer, no texts; weights or activations that are no numbers; a full disk, an
    /// interrupt.
    pub fn calibrate(
        &self,
        directory: &Path,
        progress: &dyn Fn(Progress),
    ) -> Result<Option<Calibrated>, ConvertError> {
        let Some(Quantised { stored, way: Way::Calibration(calibration), .. }) =
            self.quantised_by()
        else {
            return Ok(None);
        };
        let samples = self.samples(calibration)?;
        let tokens: usize = samples.iter().map(Vec::len).sum();
        let ids: Vec<u8> = samples.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        let facts = format!(
            "{}\n{calibration:?}\n{}\n{}",
            self.config().to_json(),
            digest::blake3_hex(&ids),
            provenance::stamps(self.source().files())?,
        );
        let spill = Spill::open(&directory.join(STORE), &facts)?;
        let settings = Settings { alpha: calibration.alpha, dtype: self.config().dtype };
        let mut quantiser = Quantiser::new(stored, &spill, settings);
        let plan = self.plan()?;
        match engraft_calibrate::run(self.graph(), &plan, &samples, &mut quantiser, progress) {
            // What is in the store is not done again.
            Err(RunError::File(FileError::Interrupted)) => return Err(FileError::Paused.into()),
            done => done?,
        }
        let reports = quantiser.into_reports();
        Ok(Some(Calibrated { spill, reports, samples: (samples.len(), tokens) }))
    }

    /// The token ids of the samples: the first of each text, then the next of each, as far as
    /// there are texts.
    fn samples(&self, calibration: &Calibration) -> Result<Vec<Vec<u32>>, ConvertError> {
        let files = self.source().text_files();
        let tokenizer = files.get("tokenizer.json").ok_or(ConvertError::NoTokenizer)?;
        let config = files.get("tokenizer_config.json").map(Vec::as_slice);
        let tokenizer = Tokenizer::from_bytes(tokenizer, config).map_err(RunError::from)?;
        let texts = texts(calibration)?;
        let mut windows: Vec<Vec<Vec<u32>>> = Vec::new();
        for text in &texts {
            let ids = tokenizer.encode(text, false).map_err(RunError::from)?;
            let length = calibration.max_seq_length.max(1);
            windows.push(ids.chunks(length).map(<[u32]>::to_vec).collect());
        }
        let most = windows.iter().map(Vec::len).max().unwrap_or(0);
        let samples = (0..most).flat_map(|at| windows.iter().filter_map(move |all| all.get(at)));
        let samples: Vec<Vec<u32>> = samples.take(calibration.size).cloned().collect();
        match samples.is_empty() {
            true => Err(RunError::NoSamples.into()),
            false => Ok(samples),
        }
    }
}

/// The texts that samples are taken of.
fn texts(calibration: &Calibration) -> Result<Vec<String>, ConvertError> {
    let tokens = calibration.size.saturating_mul(calibration.max_seq_length);
    let bytes = tokens.saturating_mul(BYTES_OF_TOKEN);
    let wanted = Wanted { texts: calibration.size, bytes, seed: calibration.seed };
    Ok(match &calibration.dataset {
        Some(path) => engraft_texts::read(path, &wanted)?,
        None => engraft_texts::builtin(&wanted),
    }
    .texts)
}
