//! Files of PyTorch for tests, byte by byte.

use engraft_ir::DType;

/// Opcodes of a pickle.
#[derive(Clone, Default)]
pub(crate) struct Pickle(pub(crate) Vec<u8>);

impl Pickle {
    pub(crate) fn new() -> Pickle {
        Pickle(vec![0x80, 2])
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn global(self, module: &str, name: &str) -> Pickle {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Pickle {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(crate) fn number(self, number: u64) -> Pickle {
        self.raw(b"J").raw(&(number as u32).to_le_bytes())
    }

    fn numbers(self, numbers: &[u64]) -> Pickle {
        numbers.iter().fold(self.raw(b"("), |pickle, number| pickle.number(*number)).raw(b"t")
    }

    pub(crate) fn storage(self, kind: &str, key: &str, elements: u64) -> Pickle {
        let id = self.raw(b"(").text("storage").global("torch", kind).text(key).text("cpu");
        id.number(elements).raw(b"tQ")
    }

    /// A tensor over a storage.
    pub(crate) fn view(self, tensor: &Tensor) -> Pickle {
        let Tensor { kind, key, elements, offset, shape, strides, .. } = tensor;
        self.global("torch._utils", "_rebuild_tensor_v2")
            .raw(b"(")
            .storage(kind, key, *elements)
            .number(*offset)
            .numbers(shape)
            .numbers(strides)
            .raw(b"\x89")
            .global("collections", "OrderedDict")
            .raw(b")RtR")
    }

    /// A dictionary of tensors, and the end.
    pub(crate) fn model(self, tensors: &[Tensor]) -> Vec<u8> {
        let dict = self.global("collections", "OrderedDict").raw(b")Rq\x00(");
        let with = |pickle: Pickle, tensor: &Tensor| pickle.text(&tensor.name).view(tensor);
        tensors.iter().fold(dict, with).raw(b"u.").0
    }
}

/// A tensor, and the storage that it is a view of.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) elements: u64,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    /// The storage's bytes; none where another tensor has them.
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    /// One that has a storage to itself.
    pub(crate) fn new(name: &str, dtype: DType, shape: &[u64], bytes: &[u8]) -> Tensor {
        let kind = match dtype {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            DType::I64 => "LongStorage",
            DType::I32 => "IntStorage",
            DType::I16 => "ShortStorage",
            DType::I8 => "CharStorage",
            DType::U8 => "ByteStorage",
            DType::Bool => "BoolStorage",
            DType::F8E4M3 => unreachable!("there is no storage of it"),
        };
        let strides = (1..=shape.len()).map(|i| shape[i..].iter().product()).collect();
        Tensor {
            name: name.to_owned(),
            kind,
            key: name.to_owned(),
            elements: bytes.len() as u64 / dtype.size() as u64,
            offset: 0,
            shape: shape.to_vec(),
            strides,
            bytes: bytes.to_vec(),
        }
    }

    /// Another view of the same storage.
    pub(crate) fn view(&self, name: &str, offset: u64, shape: &[u64], strides: &[u64]) -> Tensor {
        let (name, shape, strides) = (name.to_owned(), shape.to_vec(), strides.to_vec());
        Tensor { name, offset, shape, strides, bytes: Vec::new(), ..self.clone() }
    }
}

/// A zip archive of stored entries, aligned by a field that means nothing, as PyTorch does.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let at = out.len() as u32;
        let sizes = [(bytes.len() as u32).to_le_bytes(); 2].concat();
        let padding = 64 - (out.len() + 30 + name.len() + 4) % 64;
        let common = [[0; 12].as_slice(), &sizes].concat();
        let name_length = (name.len() as u16).to_le_bytes();
        out.extend(b"PK\x03\x04\x14\x00");
        out.extend(&common);
        out.extend(name_length);
        out.extend((padding as u16 + 4).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(b"FB");
        out.extend((padding as u16).to_le_bytes());
        out.extend(vec![b'Z'; padding]);
        out.extend(*bytes);
        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&common);
        directory.extend(name_length);
        directory.extend([0; 12]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([(entries.len() as u16).to_le_bytes(); 2].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// An archive around a pickle, with the storages of these tensors.
pub(crate) fn archive(pickle: &[u8], tensors: &[Tensor]) -> Vec<u8> {
    let names: Vec<String> = tensors.iter().map(|t| format!("archive/data/{}", t.key)).collect();
    let storages = names.iter().zip(tensors).filter(|(_, tensor)| !tensor.bytes.is_empty());
    let storages = storages.map(|(name, tensor)| (name.as_str(), tensor.bytes.as_slice()));
    let fixed = [
        ("archive/data.pkl", pickle),
        ("archive/byteorder", b"little".as_slice()),
        ("archive/version", b"3\n".as_slice()),
    ];
    zip(&fixed.into_iter().chain(storages).collect::<Vec<_>>())
}

/// A model in the form of today.
pub(crate) fn model(tensors: &[Tensor]) -> Vec<u8> {
    archive(&Pickle::new().model(tensors), tensors)
}

/// The same in the form before.
pub(crate) fn old(tensors: &[Tensor]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    out.extend(b"\x80\x02M\xe9\x03.");
    let machine = Pickle::new().raw(b"}(").text("little_endian").raw(b"\x88u.");
    out.extend(machine.0);
    // Old persistent ids end with what a storage is a view of.
    let pickle = Pickle::new().model(tensors);
    let at = |i: usize| pickle[i..].starts_with(b"tQ");
    let mut i = 0;
    while i < pickle.len() {
        out.extend(if at(i) { b"NtQ".as_slice() } else { &pickle[i..=i] });
        i += if at(i) { 2 } else { 1 };
    }
    let stored: Vec<&Tensor> = tensors.iter().filter(|t| !t.bytes.is_empty()).collect();
    let keys = Pickle::new().raw(b"](");
    out.extend(stored.iter().fold(keys, |pickle, t| pickle.text(&t.key)).raw(b"e.").0);
    for tensor in stored {
        out.extend(tensor.elements.to_le_bytes());
        out.extend(&tensor.bytes);
    }
    out
}
