//! The few calls that the pickle of a tensor makes, as data.

use super::TorchError;
use super::names::{Element, Name};
use super::value::{Heap, Id, Tensor, Value};

/// The most arguments of a call that means something here.
const MOST_ARGUMENTS: usize = 16;

/// What calling `called` with a tuple of arguments gives.
pub(crate) fn call(heap: &mut Heap, called: Id, arguments: Id) -> Result<Id, TorchError> {
    let Value::Name(name) = *heap.get(called) else {
        return Err(TorchError::Does("calls what is no name".to_owned()));
    };
    let Value::Tuple(arguments) = heap.get(arguments) else {
        return Err(TorchError::Does("calls with what is no tuple".to_owned()));
    };
    if name == Name::Data {
        return Ok(heap.push(Value::Data));
    }
    if arguments.len() > MOST_ARGUMENTS {
        return Err(wrong(name));
    }
    let arguments = arguments.clone();
    match (name, &*arguments) {
        // How, the class, the arguments, attributes that nobody needs.
        (Name::RebuildFromType, &[how, class, inner, _state]) => {
            let is_class = *heap.get(class) == Value::Name(Name::TensorClass);
            let (Value::Name(how), Value::Tuple(inner), true) =
                (heap.get(how), heap.get(inner), is_class)
            else {
                return Err(wrong(name));
            };
            let (how, inner) =
                (*how, inner.iter().take(MOST_ARGUMENTS).copied().collect::<Vec<_>>());
            // Only one step down, whatever the file says.
            tensor(heap, how, &inner).ok_or_else(|| wrong(name))
        }
        (Name::OrderedDict, []) => Ok(heap.push(Value::Dict(Vec::new()))),
        // A list of pairs, as Python 2 wrote it. It is used up: nothing else needs it, and many
        // dictionaries of one list would take more than the file.
        (Name::OrderedDict, &[list]) => {
            let Value::List(pairs) = heap.get_mut(list) else {
                return Err(wrong(name));
            };
            let pairs = std::mem::take(pairs);
            let pair = |id: &Id| match heap.items(*id) {
                Some(&[key, value]) => Ok((key, value)),
                _ => Err(wrong(name)),
            };
            let entries = pairs.iter().map(pair).collect::<Result<_, _>>()?;
            Ok(heap.push(Value::Dict(entries)))
        }
        (Name::Size, &[extents]) if heap.numbers(extents).is_some() => Ok(extents),
        _ => tensor(heap, name, &arguments).ok_or_else(|| wrong(name)),
    }
}

/// What making an instance of a class gives.
pub(crate) fn instance(heap: &Heap, class: Id) -> Result<Value, TorchError> {
    match heap.get(class) {
        Value::Name(Name::OrderedDict) => Ok(Value::Dict(Vec::new())),
        Value::Name(Name::Data) => Ok(Value::Data),
        Value::Name(name) => Err(TorchError::Does(format!("makes an instance of {name:?}"))),
        _ => Err(TorchError::Does("makes an instance of what is no name".to_owned())),
    }
}

fn wrong(name: Name) -> TorchError {
    TorchError::Does(format!("calls {name:?} with what it does not take"))
}

/// A tensor, if `name` makes such of these arguments.
fn tensor(heap: &mut Heap, name: Name, arguments: &[Id]) -> Option<Id> {
    let element = match (name, arguments) {
        // A trained tensor is a tensor.
        (Name::RebuildParameter, [tensor, ..]) => {
            let is_tensor = matches!(heap.get(*tensor), Value::Tensor(_));
            return is_tensor.then_some(*tensor);
        }
        (Name::RebuildTensorTyped, [_, _, _, _, _, _, element, ..]) => match heap.get(*element) {
            Value::Name(Name::Element(element)) => Some(*element),
            _ => return None,
        },
        (Name::RebuildTensor, _) => None,
        _ => return None,
    };
    let &[storage, offset, shape, strides, ..] = arguments else {
        return None;
    };
    let Value::Storage(kept) = heap.get(storage) else {
        return None;
    };
    let element = element.or(kept.element).unwrap_or(Element::Other("bytes of no type", 1));
    let (offset, shape, strides) =
        (heap.number(offset)?, heap.numbers(shape)?, heap.numbers(strides)?);
    let tensor = Tensor { storage, element, offset, shape, strides };
    Some(heap.push(Value::Tensor(Box::new(tensor))))
}
