//! A reader of pickles that can do nothing: it builds plain data, and knows the names of tensors.
//!
//! A pickle is a program for a small machine, and in Python that machine imports and calls
//! whatever the program names. This one has no such powers. A name that is not on the list of
//! [`Name`] ends the reading; names on it are words that become data; opcodes that only objects
//! with code need are errors by name.
//!
//! Every opcode takes a bounded amount of memory beside bytes of its own that are there in the
//! input, and the input and the count of opcodes are bounded: so is all that a pickle can cost.
//! Nothing here is recursive.

use std::collections::BTreeMap;

use engraft_diagnostic::escape;

use super::TorchError;
use super::names::Name;
use super::rebuild;
use super::value::{Heap, Id, Storage, Value};

/// The longest pickle, in bytes. That of the largest models has a fiftieth.
pub(crate) const LONGEST: u64 = 64 << 20;
/// The most opcodes of one.
const MOST_OPCODES: u64 = 4 << 20;

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The input ends before the pickle does.
    End,
    Error(TorchError),
}

impl From<TorchError> for Stop {
    fn from(error: TorchError) -> Stop {
        Stop::Error(error)
    }
}

type Result<T> = std::result::Result<T, Stop>;

/// The pickle at the start of `input`: all its values, that which it is, and its length.
pub(crate) fn read(input: &[u8]) -> Result<(Heap, Id, usize)> {
    let mut machine = Machine {
        input,
        at: 0,
        heap: Heap::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
    };
    let mut opcodes = 0;
    loop {
        opcodes += 1;
        if opcodes > MOST_OPCODES {
            let what = "the count of a pickle's opcodes";
            return Err(TorchError::TooMuch { what, limit: MOST_OPCODES }.into());
        }
        if let Some(root) = machine.step()? {
            return Ok((machine.heap, root, machine.at));
        }
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    heap: Heap,
    stack: Vec<Id>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn malformed(&self, what: impl Into<String>) -> Stop {
        TorchError::Malformed { at: self.at, what: what.into() }.into()
    }

    /// One opcode; the pickle's value when it was the last.
    fn step(&mut self) -> Result<Option<Id>> {
        let opcode = self.byte()?;
        match opcode {
            // What frames it.
            0x80 => {
                let version = self.byte()?;
                if version > 5 {
                    return Err(self.malformed(format!("protocol {version} is not known")));
                }
            }
            0x95 => _ = self.bytes(8)?,
            b'.' => return Ok(Some(self.pop()?)),
            // The stack.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => _ = self.pop()?,
            b'1' => _ = self.popped()?,
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // The memo.
            b'p' => {
                let key = self.line_number()?;
                self.keep(key)?;
            }
            b'q' | b'r' => {
                let key = self.unsigned(if opcode == b'q' { 1 } else { 4 })?;
                self.keep(key)?;
            }
            0x94 => self.keep(self.memo.len() as u64)?,
            b'g' => {
                let key = self.line_number()?;
                self.recall(key)?;
            }
            b'h' | b'j' => {
                let key = self.unsigned(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(key)?;
            }
            // Plain values.
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Integer(i64::from(opcode == 0x88))),
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let number = self.unsigned(4)? as u32 as i32;
                self.push(Value::Integer(i64::from(number)));
            }
            b'I' | b'L' => self.line_integer()?,
            0x8a | 0x8b => self.long(if opcode == 0x8a { 1 } else { 4 })?,
            b'G' => {
                self.bytes(8)?;
                self.push(Value::Data);
            }
            b'F' => {
                self.line()?;
                self.push(Value::Data);
            }
            b'V' => self.line_text()?,
            b'S' => self.quoted()?,
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            b'T' | b'U' => self.old_text(if opcode == b'T' { 4 } else { 1 })?,
            b'B' | b'C' | 0x8e | 0x96 => {
                let width = match opcode {
                    b'B' => 4,
                    b'C' => 1,
                    _ => 8,
                };
                self.counted(width)?;
                self.push(Value::Data);
            }
            _ => return self.container(opcode),
        }
        Ok(None)
    }

    /// Opcodes that make something of what is on the stack.
    fn container(&mut self, opcode: u8) -> Result<Option<Id>> {
        match opcode {
            b')' => self.push(Value::Tuple(Box::new([]))),
            b't' => {
                let items = self.popped()?;
                self.push(Value::Tuple(items.into()));
            }
            0x85..=0x87 => {
                let mut items = [self.top()?; 3];
                let count = usize::from(opcode - 0x84);
                for item in items[..count].iter_mut().rev() {
                    *item = self.pop()?;
                }
                self.push(Value::Tuple(items[..count].into()));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'l' => {
                let items = self.popped()?;
                self.push(Value::List(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.popped()?;
                self.append(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.popped()?;
                let entries = self.pairs(&items)?;
                self.push(Value::Dict(entries));
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend(&[key, value])?;
            }
            b'u' => {
                let items = self.popped()?;
                self.extend(&items)?;
            }
            0x8f => self.push(Value::Data),
            0x90 => {
                self.popped()?;
                self.data("adds to what is no set")?;
            }
            0x91 => {
                self.popped()?;
                self.push(Value::Data);
            }
            _ => return self.object(opcode),
        }
        Ok(None)
    }

    /// Opcodes that, in Python, could run something.
    fn object(&mut self, opcode: u8) -> Result<Option<Id>> {
        match opcode {
            b'c' => {
                let module = self.line_utf8()?;
                let name = self.line_utf8()?;
                self.name(module, name)?;
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let text = |id| self.heap.text(id).map(str::to_owned);
                let (Some(module), Some(name)) = (text(module), text(name)) else {
                    return Err(self.malformed("a name that is no text"));
                };
                self.name(&module, &name)?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let called = self.pop()?;
                let made = rebuild::call(&mut self.heap, called, arguments)?;
                self.stack.push(made);
            }
            0x81 | 0x92 => {
                if opcode == 0x92 {
                    self.pop()?;
                }
                self.pop()?;
                let class = self.pop()?;
                let made = rebuild::instance(&self.heap, class)?;
                self.push(made);
            }
            b'b' => {
                self.pop()?;
                let built = self.top()?;
                // The attributes of a dictionary, such as `_metadata`, and of data.
                if !matches!(self.heap.get(built), Value::Dict(_) | Value::Data) {
                    let what = "sets the state of what is neither dictionary nor data";
                    return Err(TorchError::Does(what.to_owned()).into());
                }
            }
            b'Q' => self.persistent()?,
            b'P' => return Err(refused("refers to an object by a line of text")),
            b'i' => {
                let name = format!("{}.{}", self.line_utf8()?, self.line_utf8()?);
                return Err(TorchError::Names(name).into());
            }
            b'o' => return Err(refused("makes an object of a class on the stack")),
            0x82..=0x84 => return Err(refused("asks for an extension by number")),
            0x97 | 0x98 => return Err(refused("asks for a buffer that is not in the file")),
            _ => {
                self.at -= 1;
                return Err(self.malformed(format!("there is no opcode {opcode:#04x}")));
            }
        }
        Ok(None)
    }

    fn name(&mut self, module: &str, name: &str) -> Result<()> {
        match Name::find(module, name) {
            Some(found) => {
                self.push(Value::Name(found));
                Ok(())
            }
            None => Err(TorchError::Names(format!("{module}.{name}")).into()),
        }
    }

    /// The storage that a persistent id says: `('storage', type, key, location, elements)`, in
    /// older files followed by what it is a view of.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let wrong = || refused("refers to an object that is no storage");
        let heap = &self.heap;
        let parts = heap.items(id).ok_or_else(wrong)?;
        let (&[kind, class, key, _location, elements], rest) =
            parts.split_first_chunk().ok_or_else(wrong)?;
        let whole = match rest {
            [] => true,
            [view] => *heap.get(*view) == Value::None,
            _ => false,
        };
        let Value::Name(Name::Storage(element)) = *heap.get(class) else {
            return Err(wrong());
        };
        if heap.text(kind) != Some("storage") {
            return Err(wrong());
        }
        if !whole {
            return Err(refused("has a storage that is a view of another"));
        }
        let key = heap.text(key).ok_or_else(wrong)?.into();
        let elements = heap.number(elements).ok_or_else(wrong)?;
        self.push(Value::Storage(Box::new(Storage { key, element, elements })));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        let id = self.heap.push(value);
        self.stack.push(id);
    }

    /// The value at the top, which must not be below the last mark.
    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.get(floor..).and_then(|above| above.last()) {
            Some(top) => Ok(*top),
            None => Err(self.malformed("an opcode takes more than there is")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// All above the last mark, which goes as well.
    fn popped(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(floor) => Ok(self.stack.split_off(floor)),
            None => Err(self.malformed("an opcode takes all to a mark, and there is none")),
        }
    }

    fn keep(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<()> {
        let Some(&id) = self.memo.get(&key) else {
            return Err(self.malformed(format!("nothing was kept under {key}")));
        };
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        if let Value::List(all) = self.heap.get_mut(list) {
            all.append(&mut items);
            return Ok(());
        }
        self.data("appends to what is no list")
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let mut entries = self.pairs(items)?;
        let dict = self.top()?;
        if let Value::Dict(all) = self.heap.get_mut(dict) {
            all.append(&mut entries);
            return Ok(());
        }
        self.data("sets an item of what is no dictionary")
    }

    /// That what is at the top is data, in which anything may be put.
    fn data(&self, otherwise: &str) -> Result<()> {
        match self.heap.get(self.top()?) {
            Value::Data => Ok(()),
            _ => Err(refused(otherwise)),
        }
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("a key without a value"));
        }
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }
}

fn refused(what: &str) -> Stop {
    TorchError::Does(what.to_owned()).into()
}

/// Reading of bytes and of the plain values that they spell.
impl<'a> Machine<'a> {
    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8]> {
        let left = &self.input[self.at..];
        let bytes = usize::try_from(count).ok().and_then(|count| left.get(..count));
        let bytes = bytes.ok_or(Stop::End)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    /// A little-endian number.
    fn unsigned(&mut self, width: u64) -> Result<u64> {
        let bytes = self.bytes(width)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// As many bytes as a number of `width` bytes before them says.
    fn counted(&mut self, width: u64) -> Result<&'a [u8]> {
        let count = self.unsigned(width)?;
        if count > LONGEST {
            let what = "the length of a value in a pickle";
            return Err(TorchError::TooMuch { what, limit: LONGEST }.into());
        }
        self.bytes(count)
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let left = &self.input[self.at..];
        let length = left.iter().position(|byte| *byte == b'\n').ok_or(Stop::End)?;
        self.at += length + 1;
        Ok(&left[..length])
    }

    fn line_utf8(&mut self) -> Result<&'a str> {
        let line = self.line()?;
        str::from_utf8(line).map_err(|_| self.malformed("a name that is not UTF-8"))
    }

    fn line_number(&mut self) -> Result<u64> {
        let line = self.line_utf8()?;
        line.parse().map_err(|_| self.malformed(format!("`{}` is no number", escape(line))))
    }

    fn integer(&mut self, width: u64) -> Result<()> {
        let number = self.unsigned(width)?;
        self.push(Value::Integer(number as i64));
        Ok(())
    }

    fn line_integer(&mut self) -> Result<()> {
        let line = self.line_utf8()?;
        let digits = line.strip_suffix('L').unwrap_or(line);
        // `00` and `01` are false and true, and so are their numbers.
        let is_number = digits.strip_prefix('-').unwrap_or(digits);
        if is_number.is_empty() || !is_number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.malformed(format!("`{}` is no number", escape(line))));
        }
        // Seeds may have more digits than any extent.
        self.push(digits.parse().map_or(Value::Data, Value::Integer));
        Ok(())
    }

    fn long(&mut self, width: u64) -> Result<()> {
        let bytes = self.counted(width)?;
        let mut whole = [if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 }; 8];
        let value = match whole.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Integer(i64::from_le_bytes(whole))
            }
            None => Value::Data,
        };
        self.push(value);
        Ok(())
    }

    fn text(&mut self, width: u64) -> Result<()> {
        let bytes = self.counted(width)?;
        let text = str::from_utf8(bytes).map_err(|_| self.malformed("text that is not UTF-8"))?;
        self.push(Value::Text(text.into()));
        Ok(())
    }

    /// What Python 2 called text, which may be bytes.
    fn old_text(&mut self, width: u64) -> Result<()> {
        let bytes = self.counted(width)?;
        self.push(str::from_utf8(bytes).map_or(Value::Data, |text| Value::Text(text.into())));
        Ok(())
    }

    /// Text of a line. Names of tensors and storages need no escapes, and what has some is data.
    fn line_text(&mut self) -> Result<()> {
        let line = self.line()?;
        let text = str::from_utf8(line).ok().filter(|text| !text.contains('\\'));
        self.push(text.map_or(Value::Data, |text| Value::Text(text.into())));
        Ok(())
    }

    /// The same in quotes.
    fn quoted(&mut self) -> Result<()> {
        let line = self.line_utf8()?;
        let inner =
            ['\'', '"'].iter().find_map(|quote| line.strip_prefix(*quote)?.strip_suffix(*quote));
        let Some(inner) = inner else {
            return Err(self.malformed("text without quotes"));
        };
        let text = Some(inner).filter(|text| !text.contains('\\'));
        self.push(text.map_or(Value::Data, |text| Value::Text(text.into())));
        Ok(())
    }
}
