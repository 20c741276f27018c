//! GGUF files for tests, sound or not.

/// A file in the making: what it claims can be told apart from what it holds.
pub(crate) struct Build {
    pub(crate) version: u32,
    pub(crate) claimed_keys: Option<u64>,
    pub(crate) claimed_tensors: Option<u64>,
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) tensors: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Build {
    /// A file with an architecture and nothing else.
    pub(crate) fn new() -> Build {
        let build = Build {
            version: 3,
            claimed_keys: None,
            claimed_tensors: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        };
        build.text("general.architecture", "llama")
    }

    /// A value of the type that the format numbers `kind`.
    pub(crate) fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Build {
        self.keys.push([&text(key), &kind.to_le_bytes()[..], value].concat());
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Build {
        self.key(key, 8, &text(value))
    }

    pub(crate) fn number(self, key: &str, value: u32) -> Build {
        self.key(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn truth(self, key: &str, value: bool) -> Build {
        self.key(key, 7, &[value.into()])
    }

    /// A list of `count` elements whose bytes are `elements`.
    pub(crate) fn list(self, key: &str, kind: u32, count: usize, elements: &[u8]) -> Build {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.key(key, 9, &[&head, elements].concat())
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Build {
        let elements: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.list(key, 8, values.len(), &elements)
    }

    pub(crate) fn integers(self, key: &str, values: &[i32]) -> Build {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.list(key, 5, values.len(), &elements)
    }

    pub(crate) fn floats(self, key: &str, values: &[f32]) -> Build {
        let elements: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.list(key, 6, values.len(), &elements)
    }

    /// A tensor's entry alone; `shape` innermost first, as the file has it.
    pub(crate) fn entry(mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> Build {
        let mut entry = [&text(name), &(shape.len() as u32).to_le_bytes()[..]].concat();
        entry.extend(shape.iter().flat_map(|extent| extent.to_le_bytes()));
        entry.extend(kind.to_le_bytes());
        entry.extend(offset.to_le_bytes());
        self.tensors.push(entry);
        self
    }

    /// A tensor with its bytes.
    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> Build {
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        self.entry(name, shape, kind, offset)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        let count =
            |claimed: Option<u64>, real: usize| claimed.unwrap_or(real as u64).to_le_bytes();
        bytes.extend(count(self.claimed_tensors, self.tensors.len()));
        bytes.extend(count(self.claimed_keys, self.keys.len()));
        bytes.extend(self.keys.iter().chain(&self.tensors).flatten());
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend(&self.data);
        bytes
    }
}
