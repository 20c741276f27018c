//! Holding what the ranks should have against what their files have; headers only.

use super::cells::Layout;
use super::{Joined, Part, Whole};
use crate::extras::{is_computed, is_left_alone};
use crate::rank_file::place_rank;
use crate::read::Files;
use crate::{CheckpointError, EMBEDDING, HEAD};
use engraft_ir::{Axis, DType, Meaning};
use engraft_weights::{Cut, Listing, Piece, Share, Supply};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// What is found on the way.
#[derive(Default)]
struct Findings {
    missing: Vec<String>,
    extra: Vec<String>,
    shapes: Vec<String>,
    warnings: Vec<String>,
}

/// The parts of one parameter, with what each is of it.
#[derive(Default)]
struct Parts<'a> {
    cuts: Vec<&'a Cut>,
    parts: Vec<Part>,
}

/// Joins by headers alone: every share found, every tensor used.
pub(super) fn joined(
    files: Arc<Files>,
    shares: &[Vec<Share>],
    wholes: &[(String, Vec<u64>)],
    piece: usize,
) -> Result<Joined, CheckpointError> {
    let mut findings = Findings { warnings: files.warnings.clone(), ..Findings::default() };
    let mut found: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
    let none = Vec::new();
    let headless = headless(&files, shares, wholes);
    for rank in 0..files.ranks.len().max(shares.len()) {
        let shares = shares.get(rank).unwrap_or(&none);
        find(&files, rank, shares, headless, &mut found, &mut findings);
        find_extras(&files, rank, shares, &mut findings)?;
    }
    let mut joined = Joined {
        files,
        names: Vec::new(),
        supplies: BTreeMap::new(),
        wholes: BTreeMap::new(),
        warnings: Vec::new(),
        piece,
    };
    for (name, shape) in wholes {
        let parts = found.remove(name.as_str()).unwrap_or_default();
        joined.add(name, shape, parts, &mut findings);
    }
    joined.finish(headless, findings)
}

/// Whether the head is in no file, though it is a parameter, and the embedding may stand for it.
fn headless(files: &Files, shares: &[Vec<Share>], wholes: &[(String, Vec<u64>)]) -> bool {
    let shape = |name: &str| wholes.iter().find(|(n, _)| n == name).map(|(_, shape)| shape);
    let named = shares.iter().flatten().filter(|share| share.name == HEAD).count();
    shape(HEAD).is_some()
        && shape(HEAD) == shape(EMBEDDING)
        && (named > 0 || files.config.is_tied())
        && files.ranks.iter().all(|file| !file.tensors.contains_key(HEAD))
        && !files.config.is_untied()
}

/// Looks for a rank's shares in its file.
fn find<'a>(
    files: &Files,
    rank: usize,
    shares: &'a [Share],
    headless: bool,
    found: &mut BTreeMap<&'a str, Parts<'a>>,
    findings: &mut Findings,
) {
    for share in shares {
        let shape = share.cut.shape();
        let Some(entry) = files.ranks.get(rank).and_then(|f| f.tensors.get(&share.name)) else {
            if !(headless && share.name == HEAD) {
                findings.missing.push(format!("{}`{}` {shape:?}", files.at(rank), share.name));
            }
            continue;
        };
        // One number may be there as one without any axis.
        let one = entry.shape.is_empty() && shape.iter().all(|&n| n == 1);
        if entry.shape != shape && !one {
            let found = &entry.shape;
            let line = format!("{}`{}` {found:?}, not {shape:?}", files.at(rank), share.name);
            findings.shapes.push(line);
            continue;
        }
        // Of which type codes and what they are told by must be is for whoever reads them.
        let may_be_codes = files.config.quantization.quant_algo.is_some()
            && !matches!(entry.dtype, DType::Bool | DType::I64);
        if !entry.dtype.is_float() && !may_be_codes {
            let line = format!("{}`{}` holds {} elements", files.at(rank), share.name, entry.dtype);
            findings.shapes.push(line);
            continue;
        }
        let padded = share.cut.axes.first().map(|axis| zeros(axis)).unwrap_or_default();
        let parts = found.entry(&share.source).or_default();
        parts.cuts.push(&share.cut);
        parts.parts.push(Part { rank, entry: entry.clone(), shape, padded });
    }
}

/// Where the zeros of an axis are in the part.
fn zeros(axis: &[Piece]) -> Vec<Range<u64>> {
    let mut at = 0;
    let mut found = Vec::new();
    for piece in axis {
        let next = at + piece.size();
        if matches!(piece, Piece::Zeros(_)) {
            found.push(at..next);
        }
        at = next;
    }
    found
}

/// Looks for tensors of a rank's file that are none of its shares.
fn find_extras(
    files: &Files,
    rank: usize,
    shares: &[Share],
    findings: &mut Findings,
) -> Result<(), CheckpointError> {
    let known: BTreeSet<&str> = shares.iter().map(|share| share.name.as_str()).collect();
    let Some(file) = files.ranks.get(rank) else { return Ok(()) };
    for (name, entry) in &file.tensors {
        if known.contains(name.as_str()) || is_computed(name) {
            continue;
        }
        if let Some(reason) = is_left_alone(name) {
            findings.warnings.push(format!("{}: `{name}` is left alone: {reason}", file.name()));
            continue;
        }
        // A rank whose head is its embedding has it once, but may hold it twice.
        if name == HEAD && files.config.is_tied() && known.contains(EMBEDDING) {
            files.compare_tied(rank)?;
            continue;
        }
        findings.extra.push(format!("{}`{name}` {:?}", files.at(rank), entry.shape));
    }
    Ok(())
}

impl Joined {
    fn add(&mut self, name: &str, shape: &[u64], found: Parts<'_>, findings: &mut Findings) {
        let Some(dtype) = found.parts.first().map(|part| part.entry.dtype) else { return };
        let other = found.parts.iter().find(|part| part.entry.dtype != dtype);
        if let (Some(other), Some(first)) = (other, found.parts.first()) {
            let of = |part: &Part| {
                format!("{} in {}", part.entry.dtype, self.files.ranks[part.rank].name())
            };
            findings.shapes.push(format!("`{name}` is {}, but {}", of(first), of(other)));
            return;
        }
        let layout = match Layout::new(shape, &found.cuts) {
            Ok(layout) => layout,
            // Of a share that is missing there is no part; that is said already.
            Err(_) if !findings.missing.is_empty() || !findings.shapes.is_empty() => return,
            Err(reason) => {
                findings.missing.push(format!("`{name}`: {reason}"));
                return;
            }
        };
        let whole = Whole { dtype, layout, parts: found.parts, may_be_zero: false };
        self.wholes.insert(name.to_owned(), whole);
        self.supplies.insert(name.to_owned(), supply(dtype, shape));
    }

    /// Settles ties, biases and the order; or says all that is wrong.
    fn finish(mut self, headless: bool, findings: Findings) -> Result<Joined, CheckpointError> {
        let Findings { missing, extra, shapes, mut warnings } = findings;
        if !missing.is_empty() || !extra.is_empty() || !shapes.is_empty() {
            return Err(CheckpointError::Tensors {
                path: self.files.place(),
                missing: Listing(missing),
                extra: Listing(extra),
                shapes: Listing(shapes),
            });
        }
        let rows: Vec<String> = self
            .wholes
            .iter()
            .filter(|(_, whole)| whole.layout.cuts_columns())
            .filter_map(|(name, _)| Some(format!("{}.bias", name.strip_suffix(".weight")?)))
            .collect();
        for bias in rows {
            if let Some(whole) = self.wholes.get_mut(&bias) {
                whole.may_be_zero = whole.layout.shape.len() == 1;
            }
        }
        // As a checkpoint has them: by place, then as the first rank's file has them.
        let mut order: Vec<(_, &String)> = self
            .wholes
            .iter()
            .map(|(name, whole)| {
                let first = whole.parts.first().map(|part| (part.rank, part.entry.start));
                ((place_rank(name), first), name)
            })
            .collect();
        order.sort();
        self.names = order.into_iter().map(|(_, name)| name.clone()).collect();
        if (headless || self.files.config.is_tied())
            && !self.supplies.contains_key(HEAD)
            && let Some(embedding) = self.supplies.get(EMBEDDING).cloned()
        {
            if headless && !self.files.config.is_tied() {
                warnings.push(format!(
                    "`{HEAD}` is in no file, and the config does not say whether it is tied: \
                     `{EMBEDDING}` stands for it"
                ));
            }
            self.names.push(HEAD.to_owned());
            let tied = Supply { tied: Some(EMBEDDING.to_owned()), ..embedding };
            self.supplies.insert(HEAD.to_owned(), tied);
        }
        self.warnings = warnings;
        Ok(self)
    }
}

/// What there is of a parameter; a checkpoint knows lengths only.
pub(crate) fn supply(dtype: DType, shape: &[u64]) -> Supply {
    let axes = shape.iter().map(|&n| Axis::new(n, Meaning::Plain)).collect();
    Supply { dtype, axes, tied: None }
}
