//! What a pickle says, as plain data.
//!
//! Values refer to each other by number: sharing costs nothing, and a value that holds itself is
//! only a number that comes back, which whoever walks the values has to bound.

use super::names::{Element, Name};

/// The most axes of a tensor.
const MOST_AXES: usize = 16;

/// The number of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u32);

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Integer(i64),
    Text(Box<str>),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
    /// What is never looked at: floats, bytes, sets, classes of training programs.
    Data,
}

/// Elements that tensors are views of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Storage {
    /// What its file calls it.
    pub(crate) key: Box<str>,
    /// Of what type its elements are; of none, they are bytes.
    pub(crate) element: Option<Element>,
    /// How many there are.
    pub(crate) elements: u64,
}

/// A view of a storage. Numbers count elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) storage: Id,
    pub(crate) element: Element,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
}

/// All values of a pickle.
#[derive(Debug, Default)]
pub(crate) struct Heap(Vec<Value>);

impl Heap {
    /// Adds a value. The pickle's bounds keep the count in range.
    pub(crate) fn push(&mut self, value: Value) -> Id {
        self.0.push(value);
        Id(self.0.len() as u32 - 1)
    }

    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.0[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.0[id.0 as usize]
    }

    /// The items of a tuple or list.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A number that is not negative.
    pub(crate) fn number(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The numbers of a tuple or list of such, which is as short as a shape.
    pub(crate) fn numbers(&self, id: Id) -> Option<Vec<u64>> {
        let items = self.items(id).filter(|items| items.len() <= MOST_AXES)?;
        items.iter().map(|&item| self.number(item)).collect()
    }

    pub(crate) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries),
            _ => None,
        }
    }

    /// What a dictionary has under a key of text.
    pub(crate) fn find(&self, id: Id, key: &str) -> Option<Id> {
        let entries = self.entries(id)?;
        entries
            .iter()
            .rev()
            .find(|(name, _)| self.text(*name) == Some(key))
            .map(|(_, value)| *value)
    }

    /// The storages that tensors are made of: what the file calls each, and its elements' type.
    pub(crate) fn storages(&self) -> impl Iterator<Item = (&str, Option<Element>)> {
        self.0.iter().filter_map(|value| match value {
            Value::Storage(storage) => Some((&*storage.key, storage.element)),
            _ => None,
        })
    }
}
