//! Where a column's bytes lie in a batch: a batch lists the buffers of all columns one after the
//! other, and the schema says how many each has.
//!
//! Slots and numbers of types are those of Arrow's `Schema.fbs` and `Message.fbs`.

use super::flat::Flat;
use crate::FIELDS;
use crate::error::LISTED;

/// How many columns a schema may have in all, nested ones included.
const COLUMNS: usize = 100_000;

/// How deep they may nest.
const DEPTH: usize = 64;

/// The column of texts: how much stands before it in a batch.
#[derive(Debug)]
pub(crate) struct Column {
    /// How many nodes.
    nodes: usize,
    /// How many buffers, but for those of views, of which each batch has another number.
    buffers: usize,
    /// How many columns of views.
    views: usize,
    /// Of its offsets.
    pub(crate) width: Width,
}

/// How wide an offset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// `Utf8`.
    Four,
    /// `LargeUtf8`.
    Eight,
}

impl Width {
    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Width::Four => 4,
            Width::Eight => 8,
        }
    }
}

/// A part of a file, or of a message's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) at: u64,
    pub(crate) count: u64,
}

impl Range {
    /// A part of this range, as one of the file.
    pub(crate) fn part(&self, at: u64, count: u64) -> Option<Range> {
        let end = at.checked_add(count)?;
        (end <= self.count).then_some(Range { at: self.at + at, count })
    }

    /// This range of a body as one of the file.
    pub(crate) fn within(&self, body: &Range) -> Option<Range> {
        body.part(self.at, self.count)
    }
}

/// The column in one batch; ranges are within the body.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) rows: u64,
    /// Whether some rows are null.
    pub(crate) nulls: bool,
    /// A bit a row, or nothing where no row is null.
    pub(crate) valid: Range,
    /// One more than rows.
    pub(crate) offsets: Range,
    pub(crate) data: Range,
}

/// Finds the column of texts in a schema, or the names and types of the columns that there are.
///
/// # Errors
/// Why the schema is not read.
pub(crate) fn column(schema: &Flat) -> Result<Result<Column, Vec<String>>, &'static str> {
    const MALFORMED: &str = "its schema is malformed";
    if schema.i16(0).unwrap_or(0) != 0 {
        return Err("its numbers are big-endian");
    }
    let fields = schema.list(1).ok_or(MALFORMED)?;
    let (mut found, mut names) = (Vec::new(), Vec::new());
    let mut before = Before::default();
    for index in 0..fields.len {
        let field = fields.table(index).ok_or(MALFORMED)?;
        let name = field.text(0).unwrap_or_default();
        let kind = field.u8(2).unwrap_or(0);
        let width = match kind {
            UTF8 if field.table(4).is_none() => Some(Width::Four),
            LARGE_UTF8 if field.table(4).is_none() => Some(Width::Eight),
            _ => None,
        };
        if let (Some(width), Some(rank)) = (width, FIELDS.iter().position(|f| *f == name)) {
            let Before { nodes, buffers, views, .. } = before;
            found.push((rank, before.union, Column { nodes, buffers, views, width }));
        }
        if names.len() < LISTED {
            names.push(format!("{name}: {}", NAMES.get(usize::from(kind)).unwrap_or(&"?")));
        }
        before.count(&field, DEPTH).ok_or(MALFORMED)?;
    }
    found.sort_by_key(|(rank, ..)| *rank);
    match found.into_iter().next() {
        Some((_, true, _)) => Err("a union stands before its column of texts"),
        Some((_, false, column)) => Ok(Ok(column)),
        None => Ok(Err(names)),
    }
}

/// Finds the column's buffers in a batch.
///
/// # Errors
/// Why the batch is not read.
pub(crate) fn batch(batch: &Flat, column: &Column) -> Result<Batch, &'static str> {
    const MALFORMED: &str = "a batch of rows is malformed";
    if batch.table(3).is_some() {
        return Err("its columns are compressed");
    }
    let nodes = batch.list(1).ok_or(MALFORMED)?;
    let buffers = batch.list(2).ok_or(MALFORMED)?;
    let (rows, nulls) = nodes.pair(column.nodes).ok_or(MALFORMED)?;
    let mut first = column.buffers;
    if column.views > 0 {
        let counts = batch.list(4).ok_or(MALFORMED)?;
        for view in 0..column.views {
            let more = counts.i64(view).and_then(|count| usize::try_from(count).ok());
            first = more.and_then(|more| first.checked_add(more)).ok_or(MALFORMED)?;
        }
    }
    let range = |which: usize| {
        let (at, count) = buffers.pair(first.checked_add(which)?)?;
        Some(Range { at: u64::try_from(at).ok()?, count: u64::try_from(count).ok()? })
    };
    let all = (|| {
        let rows = u64::try_from(rows).ok()?;
        // Twice as many rows as fit would not overflow either.
        (rows < 1 << 56).then_some(())?;
        let (valid, offsets, data) = (range(0)?, range(1)?, range(2)?);
        Some(Batch { rows, nulls: nulls != 0, valid, offsets, data })
    })();
    all.ok_or(MALFORMED)
}

/// What stands before a column.
#[derive(Default)]
struct Before {
    nodes: usize,
    buffers: usize,
    views: usize,
    /// Whether there is a union, whose buffers depend on the version.
    union: bool,
}

impl Before {
    /// Counts a field with all in it.
    fn count(&mut self, field: &Flat, depth: usize) -> Option<()> {
        if depth == 0 || self.nodes >= COLUMNS {
            return None;
        }
        self.nodes += 1;
        // Its values are words' numbers; the words come in messages of their own.
        if field.table(4).is_some() {
            self.buffers += 2;
            return Some(());
        }
        self.buffers += match field.u8(2)? {
            NULL | RUN_END_ENCODED => 0,
            FIXED_SIZE_LIST | STRUCT => 1,
            BINARY | UTF8 | LARGE_BINARY | LARGE_UTF8 | LIST_VIEW | LARGE_LIST_VIEW => 3,
            BINARY_VIEW | UTF8_VIEW => {
                self.views += 1;
                2
            }
            UNION => {
                self.union = true;
                0
            }
            _ => 2,
        };
        if let Some(children) = field.list(5) {
            for index in 0..children.len {
                self.count(&children.table(index)?, depth - 1)?;
            }
        }
        Some(())
    }
}

const NULL: u8 = 1;
const BINARY: u8 = 4;
const UTF8: u8 = 5;
const STRUCT: u8 = 13;
const UNION: u8 = 14;
const FIXED_SIZE_LIST: u8 = 16;
const LARGE_BINARY: u8 = 19;
const LARGE_UTF8: u8 = 20;
const RUN_END_ENCODED: u8 = 22;
const BINARY_VIEW: u8 = 23;
const UTF8_VIEW: u8 = 24;
const LIST_VIEW: u8 = 25;
const LARGE_LIST_VIEW: u8 = 26;

/// The types by their numbers, for errors.
const NAMES: [&str; 27] = [
    "none",
    "null",
    "int",
    "float",
    "binary",
    "string",
    "bool",
    "decimal",
    "date",
    "time",
    "timestamp",
    "interval",
    "list",
    "struct",
    "union",
    "fixed binary",
    "fixed list",
    "map",
    "duration",
    "large binary",
    "large string",
    "large list",
    "run-end encoded",
    "binary view",
    "string view",
    "list view",
    "large list view",
];
