//! The tensors among a pickle's values, by name, and where they lie.
//!
//! Names of nested dictionaries are joined by dots, and items of lists are numbered.

use std::collections::BTreeMap;

use engraft_diagnostic::escape;

use super::TorchError;
use super::names::Element;
use super::value::{Heap, Id, Tensor, Value};
use crate::source::{Encoding, TensorInfo};

/// The most values that are looked at on the way to tensors.
const MOST_VALUES: usize = 1 << 20;
/// The longest name of a tensor, in bytes.
const LONGEST_NAME: usize = 1024;
/// The most dictionaries in one another.
const DEEPEST: usize = 16;

/// Where each storage lies: its first byte, and how many there are.
pub(crate) type Storages = BTreeMap<Box<str>, (u64, u64)>;

/// All tensors below the value `root`, by name.
pub(crate) fn tensors(heap: &Heap, root: Id) -> Result<BTreeMap<String, &Tensor>, TorchError> {
    let mut found = BTreeMap::new();
    let mut left = vec![(root, String::new(), 0)];
    let mut seen = 0;
    while let Some((id, name, depth)) = left.pop() {
        seen += 1;
        let too_much = |what, limit| Err(TorchError::TooMuch { what, limit: limit as u64 });
        if seen + left.len() > MOST_VALUES {
            return too_much(
                "the count of a file's values, with those that are there twice,",
                MOST_VALUES,
            );
        }
        if depth > DEEPEST {
            return too_much("the depth of dictionaries in one another", DEEPEST);
        }
        let below = |key: &str| match name.is_empty() {
            true => key.to_owned(),
            false => format!("{name}.{key}"),
        };
        match heap.get(id) {
            Value::Tensor(tensor) => {
                if name.len() > LONGEST_NAME {
                    return too_much("the length of a tensor's name", LONGEST_NAME);
                }
                if found.insert(name.clone(), &**tensor).is_some() {
                    let what = "is in the file twice".to_owned();
                    return Err(TorchError::Tensor { tensor: name, what });
                }
            }
            Value::Dict(entries) => {
                for (key, value) in entries.iter().filter(|(_, value)| holds(heap, *value)) {
                    let key = match heap.get(*key) {
                        Value::Text(text) => below(text),
                        Value::Integer(number) => below(&number.to_string()),
                        _ => continue,
                    };
                    left.push((*value, shortened(key), depth + 1));
                }
            }
            Value::List(items) => {
                let items = items.iter().enumerate().filter(|(_, item)| holds(heap, **item));
                left.extend(items.map(|(i, item)| (*item, below(&i.to_string()), depth + 1)));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Whether a value may have tensors in it.
fn holds(heap: &Heap, id: Id) -> bool {
    matches!(heap.get(id), Value::Tensor(_) | Value::Dict(_) | Value::List(_))
}

/// A name, or as much of it as shows that it is too long.
fn shortened(mut name: String) -> String {
    if let Some((end, _)) = name.char_indices().find(|(at, _)| *at > LONGEST_NAME) {
        name.truncate(end);
    }
    name
}

/// A tensor as one of a source's: its elements are held against its storage, and that against
/// `storages`.
pub(crate) fn locate(
    heap: &Heap,
    storages: &Storages,
    name: &str,
    tensor: &Tensor,
    file: usize,
) -> Result<TensorInfo, TorchError> {
    let fail = |what: String| TorchError::Tensor { tensor: name.to_owned(), what };
    let dtype = match tensor.element {
        Element::Known(dtype) => dtype,
        Element::Other(element, _) => {
            return Err(fail(format!("has elements of {element}, which are not read")));
        }
    };
    let Value::Storage(storage) = heap.get(tensor.storage) else {
        return Err(fail("has no storage".to_owned()));
    };
    let Some(&(start, bytes)) = storages.get(&storage.key) else {
        return Err(fail(format!("is in storage `{}`, which is not there", escape(&storage.key))));
    };
    if tensor.strides.len() != tensor.shape.len() {
        return Err(fail("has not as many strides as axes".to_owned()));
    }
    let size = dtype.size() as u64;
    let claimed = storage.elements.checked_mul(storage.element.map_or(1, Element::size));
    if claimed.is_none_or(|claimed| claimed > bytes) {
        return Err(fail(format!(
            "is in a storage of {bytes} bytes that should have {} elements",
            storage.elements
        )));
    }
    let elements = tensor.shape.iter().try_fold(1u64, |all, extent| all.checked_mul(*extent));
    // One past the last element that the view touches.
    let reach = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(1u64, |reach, (extent, stride)| {
            reach.checked_add(extent.saturating_sub(1).checked_mul(*stride)?)
        })
        .and_then(|reach| reach.checked_add(tensor.offset));
    let (Some(elements), Some(reach)) = (elements, reach) else {
        return Err(fail(format!("has a shape {:?} that cannot be", tensor.shape)));
    };
    let (elements, reach) = if elements == 0 { (0, 0) } else { (elements, reach) };
    if reach > bytes / size {
        return Err(fail(format!("of shape {:?} ends past the end of its storage", tensor.shape)));
    }
    if elements > bytes / size {
        return Err(fail(format!(
            "of shape {:?} repeats elements of its storage, which is not read",
            tensor.shape
        )));
    }
    let start = if elements == 0 { start } else { start + tensor.offset * size };
    let encoding = match is_row_major(&tensor.shape, &tensor.strides) || elements == 0 {
        true => Encoding::Plain,
        false => Encoding::Strided(tensor.strides.clone()),
    };
    Ok(TensorInfo {
        dtype,
        stored: dtype.safetensors_name().to_owned(),
        shape: tensor.shape.clone(),
        file,
        start,
        end: start + elements * size,
        encoding,
    })
}

fn is_row_major(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    for (extent, stride) in shape.iter().zip(strides).rev() {
        if *extent != 1 && *stride != expected {
            return false;
        }
        expected *= extent;
    }
    true
}
