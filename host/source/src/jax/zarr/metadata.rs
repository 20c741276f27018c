//! What zarr's metadata say of an array.

use engraft_ir::DType;
use serde_json::Value;

use super::dtype_of_version_2;
use crate::jax::JaxError;
use crate::source::grid::store::Packing;

/// How an array is stored.
pub(super) struct Metadata {
    /// Its type as the file spells it.
    pub(super) kind: String,
    pub(super) dtype: Option<DType>,
    pub(super) extents: Vec<u64>,
    /// The extents of what has a key of its own.
    pub(super) chunk: Vec<u64>,
    pub(super) packing: Packing,
    /// What stands between the numbers of a key.
    pub(super) separator: &'static str,
    /// What stands before them.
    pub(super) prefix: &'static str,
    /// Where a chunk is made of smaller ones: these.
    pub(super) sharding: Option<Sharding>,
}

/// Chunks inside of chunks.
pub(super) struct Sharding {
    pub(super) inner: Vec<u64>,
    pub(super) packing: Packing,
}

impl Sharding {
    /// How many inner chunks there are in a chunk along each axis.
    pub(super) fn per(&self, chunk: &[u64]) -> Vec<u64> {
        chunk.iter().zip(&self.inner).map(|(outer, inner)| outer / inner).collect()
    }

    /// How many there are in a chunk.
    pub(super) fn places(&self, chunk: &[u64]) -> Option<u64> {
        self.per(chunk).iter().try_fold(1u64, |product, per| product.checked_mul(*per))
    }

    /// Which of its chunk's inner chunks one is, whose numbers are given.
    pub(super) fn number(&self, chunk: &[u64], at: &[u64]) -> usize {
        let inside = self.per(chunk).into_iter().zip(at);
        inside.fold(0, |number, (per, at)| number * per + at % per) as usize
    }
}

/// Reads of one array's metadata.
struct Reading<'a> {
    name: &'a str,
}

impl Reading<'_> {
    fn malformed(&self, what: &str) -> JaxError {
        JaxError::Metadata { name: self.name.to_owned(), what: what.to_owned() }
    }

    fn unsupported(&self, what: impl Into<String>) -> JaxError {
        JaxError::Unsupported { name: self.name.to_owned(), what: what.into() }
    }

    fn extents(&self, value: Option<&Value>, what: &str) -> Result<Vec<u64>, JaxError> {
        let list = value.and_then(Value::as_array).filter(|list| list.len() <= 32);
        let numbers = list.and_then(|list| list.iter().map(Value::as_u64).collect());
        numbers.ok_or_else(|| self.malformed(&format!("`{what}` is no list of numbers")))
    }

    /// Extents of chunks, of which there is one an axis.
    fn chunk(&self, value: Option<&Value>, what: &str, rank: usize) -> Result<Vec<u64>, JaxError> {
        let chunk = self.extents(value, what)?;
        if chunk.len() != rank || chunk.contains(&0) {
            return Err(self.malformed(&format!("`{what}` is not one extent an axis, none zero")));
        }
        Ok(chunk)
    }

    fn text<'v>(&self, value: &'v Value, key: &str) -> Result<&'v str, JaxError> {
        let text = value.get(key).and_then(Value::as_str);
        text.ok_or_else(|| self.malformed(&format!("`{key}` is no text")))
    }

    /// How codecs of version 3 pack a chunk, whose elements must be little-endian.
    fn packing(&self, codecs: &[Value]) -> Result<Packing, JaxError> {
        let mut packing = Packing::None;
        for (i, codec) in codecs.iter().enumerate() {
            let endian = || codec.pointer("/configuration/endian").and_then(Value::as_str);
            packing = match (self.text(codec, "name")?, i, packing) {
                ("bytes", 0, _) if endian().unwrap_or("little") == "little" => packing,
                ("zstd", 1, Packing::None) => Packing::Zstd,
                ("gzip", 1, Packing::None) => Packing::Gzip,
                (other, ..) => return Err(self.unsupported(format!("codec `{other}`"))),
            };
        }
        Ok(packing)
    }

    fn codecs<'v>(&self, value: Option<&'v Value>) -> Result<&'v [Value], JaxError> {
        let list = value.and_then(Value::as_array).filter(|list| !list.is_empty());
        list.map(Vec::as_slice).ok_or_else(|| self.malformed("`codecs` is no list"))
    }

    fn sharding(&self, codec: &Value, chunk: &[u64]) -> Result<Sharding, JaxError> {
        let inside = codec.get("configuration").unwrap_or(&Value::Null);
        let inner = self.chunk(inside.get("chunk_shape"), "chunk_shape", chunk.len())?;
        if chunk.iter().zip(&inner).any(|(outer, inner)| outer % inner != 0) {
            return Err(self.malformed("a chunk is no multiple of its inner chunks"));
        }
        let packing = self.packing(self.codecs(inside.get("codecs"))?)?;
        let index = self.codecs(inside.get("index_codecs"))?;
        let names: Vec<_> = index.iter().map(|codec| codec.get("name")).collect();
        let usual =
            names.iter().map(|n| n.and_then(Value::as_str)).eq([Some("bytes"), Some("crc32c")]);
        let place = inside.get("index_location").and_then(Value::as_str).unwrap_or("end");
        if !usual || place != "end" {
            return Err(self.unsupported("an index at another place or of another form"));
        }
        Ok(Sharding { inner, packing })
    }
}

impl Metadata {
    /// `.zarray`.
    pub(super) fn of_version_2(name: &str, value: &Value) -> Result<Metadata, JaxError> {
        let reading = Reading { name };
        if value.get("zarr_format").and_then(Value::as_u64) != Some(2) {
            return Err(reading.malformed("`zarr_format` is not 2"));
        }
        let extents = reading.extents(value.get("shape"), "shape")?;
        let chunk = reading.chunk(value.get("chunks"), "chunks", extents.len())?;
        // A type may be a list of fields.
        let kind = value.get("dtype").ok_or_else(|| reading.malformed("`dtype` is missing"))?;
        let kind = kind.as_str().map_or_else(|| kind.to_string(), str::to_owned);
        let packing = match value.get("compressor") {
            None | Some(Value::Null) => Packing::None,
            Some(compressor) => match reading.text(compressor, "id")? {
                "zstd" => Packing::Zstd,
                "gzip" => Packing::Gzip,
                "zlib" => Packing::Zlib,
                other => return Err(reading.unsupported(format!("compressor `{other}`"))),
            },
        };
        let filters = value.get("filters").and_then(Value::as_array);
        if filters.is_some_and(|filters| !filters.is_empty()) {
            return Err(reading.unsupported("filters"));
        }
        let order = value.get("order").and_then(Value::as_str).unwrap_or("C");
        if order != "C" && extents.len() > 1 {
            return Err(reading.unsupported(format!("order `{order}`")));
        }
        let separator = match value.get("dimension_separator").and_then(Value::as_str) {
            Some("/") => "/",
            _ => ".",
        };
        let dtype = dtype_of_version_2(&kind);
        let (prefix, sharding) = ("", None);
        Ok(Metadata { kind, dtype, extents, chunk, packing, separator, prefix, sharding })
    }

    /// `zarr.json`.
    pub(super) fn of_version_3(name: &str, value: &Value) -> Result<Metadata, JaxError> {
        let reading = Reading { name };
        if value.get("zarr_format").and_then(Value::as_u64) != Some(3) {
            return Err(reading.malformed("`zarr_format` is not 3"));
        }
        let extents = reading.extents(value.get("shape"), "shape")?;
        let grid = value.get("chunk_grid").unwrap_or(&Value::Null);
        if reading.text(grid, "name")? != "regular" {
            return Err(reading.unsupported("chunks of several shapes"));
        }
        let shape = grid.pointer("/configuration/chunk_shape");
        let chunk = reading.chunk(shape, "chunk_shape", extents.len())?;
        let kind = reading.text(value, "data_type")?.to_owned();
        let codecs = reading.codecs(value.get("codecs"))?;
        let (packing, sharding) = match codecs {
            [codec] if reading.text(codec, "name")? == "sharding_indexed" => {
                (Packing::None, Some(reading.sharding(codec, &chunk)?))
            }
            codecs => (reading.packing(codecs)?, None),
        };
        let keys = value.get("chunk_key_encoding").unwrap_or(&Value::Null);
        let separator = keys.pointer("/configuration/separator").and_then(Value::as_str);
        let (prefix, separator) = match (reading.text(keys, "name")?, separator) {
            ("default", None | Some("/")) => ("c", "/"),
            ("default", Some(".")) => ("c", "."),
            ("v2", None | Some(".")) => ("", "."),
            ("v2", Some("/")) => ("", "/"),
            _ => return Err(reading.unsupported("its chunks' keys")),
        };
        let dtype = DType::from_config_name(&kind);
        Ok(Metadata { kind, dtype, extents, chunk, packing, separator, prefix, sharding })
    }
}
