//! Shapes of values (with symbolic axes) and axes of weights (with meanings).

use crate::DType;
use std::fmt;

/// One axis of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// All tokens of the batch, of all its requests, packed without padding.
    Tokens,
    /// The tokens whose logits are asked for.
    Outputs,
    /// A number known when the graph is written.
    Fixed(u64),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Tokens => f.write_str("tokens"),
            Dim::Outputs => f.write_str("outputs"),
            Dim::Fixed(n) => n.fmt(f),
        }
    }
}

/// What a value is: `f32 [tokens, 576]`, or `i32 [tokens]` for the token ids.
///
/// `f32` says "a real number": a device may hold it in fewer bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Its elements.
    pub dtype: DType,
    /// Its rows.
    pub rows: Dim,
    /// Elements of a row; none where a row is a single number.
    pub width: Option<u64>,
}

impl Type {
    /// Real numbers, `width` to a row.
    pub fn real(rows: Dim, width: u64) -> Type {
        Type { dtype: DType::F32, rows, width: Some(width) }
    }

    /// One token id a row.
    pub fn tokens() -> Type {
        Type { dtype: DType::I32, rows: Dim::Tokens, width: None }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            Some(width) => write!(f, "{} [{}, {width}]", self.dtype, self.rows),
            None => write!(f, "{} [{}]", self.dtype, self.rows),
        }
    }
}

/// What a stretch of a weight's axis counts. Whoever splits a model over devices goes by this
/// alone, so no architecture says how it is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meaning {
    /// Nothing that may be cut.
    Plain,
    /// Entries of the vocabulary.
    Vocabulary,
    /// Query heads times their width.
    QueryHeads,
    /// Key or value heads times their width.
    KeyHeads,
    /// The inner width of a feed-forward layer.
    FeedForward,
    /// Experts of a mixture.
    Experts,
    /// Channels of a recurrent block.
    Recurrent,
    /// The compressed width of latent attention.
    Latent,
}

/// Every meaning with its spelling.
pub(crate) const MEANINGS: [(Meaning, &str); 8] = [
    (Meaning::Plain, "plain"),
    (Meaning::Vocabulary, "vocabulary"),
    (Meaning::QueryHeads, "query_heads"),
    (Meaning::KeyHeads, "key_heads"),
    (Meaning::FeedForward, "feed_forward"),
    (Meaning::Experts, "experts"),
    (Meaning::Recurrent, "recurrent"),
    (Meaning::Latent, "latent"),
];

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MEANINGS[*self as usize].1)
    }
}

/// A stretch of an axis that means one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its length.
    pub size: u64,
    /// What it counts.
    pub meaning: Meaning,
}

/// One axis of a weight: segments side by side. A fused projection has several on its outer
/// axis (`576 query_heads + 192 key_heads + 192 key_heads`), and each is cut by its own meaning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// At least one.
    pub segments: Vec<Segment>,
}

impl Axis {
    /// An axis of one segment.
    pub fn new(size: u64, meaning: Meaning) -> Axis {
        Axis { segments: vec![Segment { size, meaning }] }
    }

    /// The length of the whole axis; saturates, so that a hostile size cannot wrap around.
    pub fn size(&self) -> u64 {
        self.segments.iter().fold(0, |sum, s| sum.saturating_add(s.size))
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Segment { size, meaning }) in self.segments.iter().enumerate() {
            if i > 0 {
                f.write_str(" + ")?;
            }
            match meaning {
                Meaning::Plain => write!(f, "{size}")?,
                _ => write!(f, "{size} {meaning}")?,
            }
        }
        Ok(())
    }
}

/// `[49152 vocabulary, 576]`
pub fn display_axes(axes: &[Axis]) -> String {
    let axes: Vec<String> = axes.iter().map(Axis::to_string).collect();
    format!("[{}]", axes.join(", "))
}
