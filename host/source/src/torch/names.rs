//! The only names that a pickle may use: what tensors are made of, and a few kinds of data that
//! lie beside them and are never looked at.
//!
//! A name is a word to us: nothing is looked up by it, imported or called. The list is closed so
//! that a file that asks for anything else is turned away whole, with the name in the error, and
//! nobody opens it elsewhere believing that it was checked.

use engraft_ir::DType;

/// What a pickle's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A tensor over a storage: the second form has hooks, the third a type of its own.
    RebuildTensor,
    RebuildTensorTyped,
    /// A tensor that is trained.
    RebuildParameter,
    /// A tensor of a class: names how, and the class.
    RebuildFromType,
    /// A dictionary that keeps its order.
    OrderedDict,
    /// The extents of a tensor.
    Size,
    /// A type of storage, with that of its elements where it has one.
    Storage(Option<Element>),
    /// A type of elements.
    Element(Element),
    /// A class of tensors.
    TensorClass,
    /// Data that has nothing to do with tensors, and is skipped whatever it holds.
    Data,
}

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Known(DType),
    /// What we have no type for: the name, and bytes of one.
    Other(&'static str, u64),
}

impl Element {
    /// Bytes of one.
    pub(crate) fn size(self) -> u64 {
        match self {
            Element::Known(dtype) => dtype.size() as u64,
            Element::Other(_, size) => size,
        }
    }
}

/// Element types: the storage's name, the type's, and what it is.
const ELEMENTS: [(&str, &str, Element); 22] = [
    ("DoubleStorage", "float64", Element::Known(DType::F64)),
    ("FloatStorage", "float32", Element::Known(DType::F32)),
    ("HalfStorage", "float16", Element::Known(DType::F16)),
    ("BFloat16Storage", "bfloat16", Element::Known(DType::BF16)),
    ("LongStorage", "int64", Element::Known(DType::I64)),
    ("IntStorage", "int32", Element::Known(DType::I32)),
    ("ShortStorage", "int16", Element::Known(DType::I16)),
    ("CharStorage", "int8", Element::Known(DType::I8)),
    ("ByteStorage", "uint8", Element::Known(DType::U8)),
    ("BoolStorage", "bool", Element::Known(DType::Bool)),
    ("ComplexDoubleStorage", "complex128", Element::Other("complex128", 16)),
    ("ComplexFloatStorage", "complex64", Element::Other("complex64", 8)),
    ("QInt8Storage", "qint8", Element::Other("qint8", 1)),
    ("QUInt8Storage", "quint8", Element::Other("quint8", 1)),
    ("QInt32Storage", "qint32", Element::Other("qint32", 4)),
    ("", "float8_e4m3fn", Element::Other("float8_e4m3fn", 1)),
    ("", "float8_e5m2", Element::Other("float8_e5m2", 1)),
    ("", "float8_e4m3fnuz", Element::Other("float8_e4m3fnuz", 1)),
    ("", "float8_e5m2fnuz", Element::Other("float8_e5m2fnuz", 1)),
    ("", "uint16", Element::Other("uint16", 2)),
    ("", "uint32", Element::Other("uint32", 4)),
    ("", "uint64", Element::Other("uint64", 8)),
];

/// All other names.
const NAMES: [(&str, &str, Name); 32] = [
    ("torch._utils", "_rebuild_tensor", Name::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Name::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v3", Name::RebuildTensorTyped),
    ("torch._utils", "_rebuild_parameter", Name::RebuildParameter),
    ("torch._utils", "_rebuild_parameter_with_state", Name::RebuildParameter),
    ("torch._tensor", "_rebuild_from_type_v2", Name::RebuildFromType),
    ("torch", "Tensor", Name::TensorClass),
    ("torch.nn.parameter", "Parameter", Name::TensorClass),
    ("torch", "Size", Name::Size),
    ("torch", "UntypedStorage", Name::Storage(None)),
    ("torch.storage", "UntypedStorage", Name::Storage(None)),
    ("collections", "OrderedDict", Name::OrderedDict),
    // What training leaves beside weights.
    ("torch", "device", Name::Data),
    ("argparse", "Namespace", Name::Data),
    ("builtins", "set", Name::Data),
    ("__builtin__", "set", Name::Data),
    ("_codecs", "encode", Name::Data),
    ("_io", "BytesIO", Name::Data),
    ("io", "BytesIO", Name::Data),
    ("numpy", "dtype", Name::Data),
    ("numpy", "ndarray", Name::Data),
    ("numpy.core.multiarray", "scalar", Name::Data),
    ("numpy.core.multiarray", "_reconstruct", Name::Data),
    ("numpy._core.multiarray", "scalar", Name::Data),
    ("numpy._core.multiarray", "_reconstruct", Name::Data),
    ("pathlib", "PosixPath", Name::Data),
    ("deepspeed.runtime.fp16.loss_scaler", "LossScaler", Name::Data),
    ("deepspeed.runtime.fp16.loss_scaler", "DynamicLossScaler", Name::Data),
    ("deepspeed.runtime.zero.config", "ZeroStageEnum", Name::Data),
    ("deepspeed.utils.tensor_fragment", "fragment_address", Name::Data),
    ("megatron.core.enums", "ModelType", Name::Data),
    ("megatron.model.enums", "AttnMaskType", Name::Data),
];

impl Name {
    /// What `module.name` stands for, if it is on the list.
    pub(crate) fn find(module: &str, name: &str) -> Option<Name> {
        if let Some((_, _, found)) = NAMES.iter().find(|(m, n, _)| *m == module && *n == name) {
            return Some(*found);
        }
        if module != "torch" || name.is_empty() {
            return None;
        }
        let storage = ELEMENTS.iter().find(|(storage, _, _)| *storage == name);
        let element = ELEMENTS.iter().find(|(_, element, _)| *element == name);
        storage
            .map(|(_, _, element)| Name::Storage(Some(*element)))
            .or(element.map(|(_, _, element)| Name::Element(*element)))
    }
}
