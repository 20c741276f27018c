//! Where the tensors of a safetensors file lie.
//!
//! It follows from names, types and shapes alone, so a file's length is known, to the byte,
//! before there is a file. With an alignment the data and every tensor begin at a multiple of it;
//! the format allows no holes, so they are filled by `U8` tensors named `~pad.0`, `~pad.1`, ….

use crate::header::bytes_of;
use engraft_ir::DType;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What the names of the tensors begin with that fill holes.
pub const PAD_PREFIX: &str = "~pad.";
/// The largest alignment: a page.
const ALIGN: usize = 4096;

/// What a tensor of the layout is: its name, the type of its elements, its lengths.
pub type Declared = (String, DType, Vec<u64>);

/// Where a tensor lies, in bytes from the beginning of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The layout of one file.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The JSON of the header with its trailing spaces.
    pub(crate) header: Vec<u8>,
    pub(crate) slots: BTreeMap<String, Slot>,
    bytes: u64,
}

impl Layout {
    /// The layout of these tensors, in this order. `align` is 1 for a plain file, or a power of
    /// two up to 4096.
    ///
    /// # Errors
    /// What is wrong: a name that occurs twice, a reserved name, an impossible shape or another
    /// alignment.
    pub fn new(
        metadata: &BTreeMap<String, String>,
        tensors: Vec<Declared>,
        align: usize,
    ) -> Result<Layout, String> {
        if !align.is_power_of_two() || align > ALIGN {
            return Err(format!("an alignment of {align}"));
        }
        let mut entries = serde_json::Map::new();
        if !metadata.is_empty() {
            entries.insert("__metadata__".to_owned(), json!(metadata));
        }
        let mut slots = BTreeMap::new();
        let mut offset: u64 = 0;
        for (name, dtype, shape) in tensors {
            let pad = offset.next_multiple_of(align as u64) - offset;
            if pad > 0 {
                let filling = format!("{PAD_PREFIX}{}", slots.len());
                entries.insert(filling, entry(DType::U8, &[pad], offset, offset + pad));
            }
            let start = offset + pad;
            // The margin keeps every later sum in range.
            let end = bytes_of(dtype, &shape)
                .and_then(|length| start.checked_add(length))
                .filter(|end| *end < 1 << 62)
                .ok_or_else(|| format!("`{name}` has the impossible shape {shape:?}"))?;
            if name.starts_with(PAD_PREFIX) || name == "__metadata__" {
                return Err(format!("the name `{name}` is reserved"));
            }
            if entries.insert(name.clone(), entry(dtype, &shape, start, end)).is_some() {
                return Err(format!("`{name}` is declared twice"));
            }
            slots.insert(name, Slot { start, end });
            offset = end;
        }
        let header = render(&Value::Object(entries), align);
        let data_start = 8 + header.len() as u64;
        for slot in slots.values_mut() {
            (slot.start, slot.end) = (data_start + slot.start, data_start + slot.end);
        }
        Ok(Layout { header, slots, bytes: data_start + offset })
    }

    /// How long the file is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A tensor's entry in the header; offsets count from the first byte of data.
fn entry(dtype: DType, shape: &[u64], start: u64, end: u64) -> Value {
    json!({"dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [start, end]})
}

/// The header's JSON, with spaces at its end so that the data begins aligned: at a multiple of
/// `align`, and of eight in any case.
fn render(entries: &Value, align: usize) -> Vec<u8> {
    let mut header = entries.to_string().into_bytes();
    let end = (8 + header.len()).next_multiple_of(align.max(8));
    header.resize(end - 8, b' ');
    header
}
