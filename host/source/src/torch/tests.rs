//! Sound files, and files that want more than to be read.

use engraft_diagnostic::{Code, Diagnostic};
use engraft_ir::DType;
use tempfile::TempDir;

use super::build::{Pickle, Tensor, archive, model, old, zip};
use crate::{Source, SourceError};

/// A model's directory with this as its only weights.
fn directory(bytes: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), "{}").unwrap();
    std::fs::write(directory.path().join("pytorch_model.bin"), bytes).unwrap();
    directory
}

fn open(bytes: &[u8]) -> Result<(TempDir, Source), SourceError> {
    let directory = directory(bytes);
    let source = Source::open(directory.path())?;
    Ok((directory, source))
}

fn refused(bytes: &[u8]) -> SourceError {
    let error = open(bytes).map(|_| ()).unwrap_err();
    assert!(error.location().unwrap().ends_with("pytorch_model.bin"), "{error:?}");
    assert!(error.help().is_some());
    error
}

fn bytes(source: &Source, name: &str) -> Vec<u8> {
    let info = &source.tensors()[name];
    let mut out = Vec::new();
    source.read(name, 0..info.shape.first().copied().unwrap_or(1), &mut out).unwrap();
    out
}

/// Tensors of several types, of which some share a storage.
fn tensors() -> Vec<Tensor> {
    let whole: Vec<u8> = (0..48).collect();
    let w = Tensor::new("w", DType::BF16, &[4, 6], &whole);
    vec![
        Tensor::new("a.ids", DType::I64, &[2], &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
        w.clone(),
        w.view("w.tied", 0, &[4, 6], &[6, 1]),
        w.view("w.turned", 0, &[6, 4], &[1, 6]),
        w.view("w.rows", 6, &[2, 6], &[6, 1]),
        w.view("w.columns", 2, &[4, 2], &[6, 1]),
        w.view("w.scalar", 23, &[], &[]),
        w.view("w.empty", 24, &[0, 3], &[3, 1]),
    ]
}

#[test]
fn both_forms_give_the_tensors_that_were_saved() {
    for file in [model(&tensors()), old(&tensors())] {
        let (_kept, source) = open(&file).unwrap();
        assert_eq!(source.dialect(), "hugging-face");
        assert_eq!(source.tensors().len(), 8);
        let info = &source.tensors()["w.turned"];
        assert_eq!(
            (info.dtype, info.stored.as_str(), info.stored_bytes()),
            (DType::BF16, "BF16", 48)
        );
        let element = |i: u8, j: u8| [2 * (6 * i + j), 2 * (6 * i + j) + 1];
        let whole: Vec<u8> = (0..48).collect();
        assert_eq!(bytes(&source, "w"), whole);
        assert_eq!(bytes(&source, "w.tied"), whole);
        assert_eq!(bytes(&source, "w.rows"), whole[12..36]);
        let turned: Vec<u8> =
            (0..6).flat_map(|j| (0..4).flat_map(move |i| element(i, j))).collect();
        assert_eq!(bytes(&source, "w.turned"), turned);
        let columns: Vec<u8> =
            (0..4).flat_map(|i| (2..4).flat_map(move |j| element(i, j))).collect();
        assert_eq!(bytes(&source, "w.columns"), columns);
        assert_eq!(bytes(&source, "w.scalar"), [46, 47]);
        assert!(bytes(&source, "w.empty").is_empty());
        assert_eq!(bytes(&source, "a.ids")[8], 2);
        let mut row = Vec::new();
        source.read("w.turned", 1..2, &mut row).unwrap();
        assert_eq!(row, turned[8..16]);
    }
}

#[test]
fn a_model_beside_what_training_keeps_is_found() {
    let tensor = Tensor::new("w", DType::U8, &[2], &[7, 8]);
    let pickle = Pickle::new()
        .raw(b"}(")
        .text("args")
        .global("argparse", "Namespace")
        .raw(b")\x81}b")
        .text("epoch")
        .raw(b"K\x03")
        .text("model")
        .raw(b"}(")
        .text("layer")
        .raw(b"}(")
        .text("w")
        .view(&tensor)
        .raw(b"uuu.");
    let (_kept, source) = open(&archive(&pickle.0, &[tensor])).unwrap();
    assert_eq!(source.tensors().keys().collect::<Vec<_>>(), ["layer.w"]);
}

#[test]
fn parameters_and_typed_tensors_are_tensors() {
    let tensor = Tensor::new("w", DType::F32, &[1], &1f32.to_le_bytes());
    let dict = || Pickle::new().raw(b"}").text("w");
    let parameter = dict()
        .global("torch._utils", "_rebuild_parameter")
        .raw(b"(")
        .view(&tensor)
        .raw(b"\x88}tRs.");
    let typed = dict()
        .global("torch._utils", "_rebuild_tensor_v3")
        .raw(b"(")
        .storage("UntypedStorage", "w", 4)
        .raw(b"K\x00K\x01\x85K\x01\x85\x89}")
        .global("torch", "float32")
        .raw(b"tRs.");
    let classed = dict()
        .global("torch._tensor", "_rebuild_from_type_v2")
        .raw(b"(")
        .global("torch._utils", "_rebuild_parameter")
        .global("torch.nn.parameter", "Parameter")
        .raw(b"(")
        .view(&tensor)
        .raw(b"\x88}t}tRs.");
    for pickle in [parameter, typed, classed] {
        let (_kept, source) = open(&archive(&pickle.0, std::slice::from_ref(&tensor))).unwrap();
        assert_eq!(bytes(&source, "w"), 1f32.to_le_bytes());
    }
}

#[test]
fn a_pickle_that_names_anything_else_is_refused_by_that_name() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("posix", "spawnv"),
        ("subprocess", "Popen"),
        ("subprocess", "check_output"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("__builtin__", "eval"),
        ("__builtin__", "apply"),
        ("runpy", "run_path"),
        ("runpy", "_run_code"),
        ("importlib", "import_module"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("copyreg", "_reconstructor"),
        ("types", "CodeType"),
        ("types", "FunctionType"),
        ("marshal", "loads"),
        ("pickle", "loads"),
        ("socket", "create_connection"),
        ("webbrowser", "open"),
        ("pty", "spawn"),
        ("code", "InteractiveInterpreter"),
        ("asyncio.subprocess", "create_subprocess_shell"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch.jit", "load"),
        ("torch.utils.cpp_extension", "load"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch", "serialization.os.system"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.f2py.crackfortran", "getlincoef"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("", ""),
        ("os\u{1b}[2J", "system"),
    ] {
        let code = b"(X\x04\x00\x00\x00trueltR.";
        let by_line = Pickle::new().global(module, name).raw(code);
        let by_stack = Pickle::new().text(module).text(name).raw(b"\x93").raw(code);
        let inside = Pickle::new().raw(b"}").text("w").global(module, name).raw(b")\x81s.");
        let by_instance = Pickle::new().raw(format!("(i{module}\n{name}\n.").as_bytes());
        for pickle in [by_line, by_stack, inside, by_instance] {
            let error = refused(&archive(&pickle.0, &[]));
            let shown = engraft_diagnostic::escape(&format!("{module}.{name}"));
            assert!(error.to_string().contains(&format!("names `{shown}`")), "{error}");
            assert_eq!(error.code(), Code(133));
        }
    }
}

#[test]
fn names_of_tensors_can_be_used_for_tensors_only() {
    let rebuild = || Pickle::new().global("torch._utils", "_rebuild_tensor_v2");
    let ordered = || Pickle::new().global("collections", "OrderedDict");
    let nested = Pickle::new()
        .global("torch._tensor", "_rebuild_from_type_v2")
        .raw(b"(")
        .global("torch._tensor", "_rebuild_from_type_v2")
        .global("torch", "Tensor")
        .raw(b")NtR.");
    for (pickle, what) in [
        (rebuild().raw(b")R."), "calls RebuildTensor with what it does not take"),
        (rebuild().raw(b"(NK\x00))tR."), "calls RebuildTensor with what it does not take"),
        (rebuild().raw(b"N}b."), "sets the state of what is neither"),
        (rebuild().raw(b"]R."), "calls with what is no tuple"),
        (rebuild().raw(b")\x81."), "makes an instance of RebuildTensor"),
        (ordered().raw(b"X\x01\x00\x00\x00a\x85R."), "calls OrderedDict with what"),
        (ordered().raw(b"](K\x01e\x85R."), "calls OrderedDict with what"),
        (ordered().raw(b"}b."), "sets the state of what is neither"),
        (nested, "calls RebuildFromType with what it does not take"),
        (Pickle::new().global("torch", "FloatStorage").raw(b")R."), "calls Storage"),
        (Pickle::new().global("torch", "float32").raw(b")R."), "calls Element"),
        (Pickle::new().raw(b"N)R."), "calls what is no name"),
        (Pickle::new().raw(b"N)\x81."), "makes an instance of what is no name"),
        (Pickle::new().raw(b"N}b."), "sets the state of what is neither"),
        (Pickle::new().raw(b"NNa."), "appends to what is no list"),
        (Pickle::new().raw(b"N(NNu."), "sets an item of what is no dictionary"),
        (Pickle::new().raw(b"(co\nx\no."), "names `o.x`"),
        (Pickle::new().raw(b"(No."), "makes an object of a class on the stack"),
        (Pickle::new().raw(b"\x82\x01."), "asks for an extension by number"),
        (Pickle::new().raw(b"\x83\x01\x00."), "asks for an extension by number"),
        (Pickle::new().raw(b"\x84\x01\x00\x00\x00."), "asks for an extension by number"),
        (Pickle::new().raw(b"Pstorage\n."), "refers to an object by a line of text"),
        (Pickle::new().raw(b"NQ."), "refers to an object that is no storage"),
        (Pickle::new().raw(b"(NNNNNtQ."), "refers to an object that is no storage"),
        (Pickle::new().raw(b"\x97."), "asks for a buffer"),
    ] {
        let error = refused(&archive(&pickle.0, &[]));
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.code(), Code(133));
    }
}

#[test]
fn malformed_pickles_are_told() {
    let eight = |n: u64| [b"\x8d".as_slice(), &n.to_le_bytes()].concat();
    let four = |n: u32| [b"X".as_slice(), &n.to_le_bytes(), b"ab."].concat();
    for (pickle, what) in [
        (vec![], "ends too early"),
        (b"\x80\x06.".to_vec(), "protocol 6 is not known"),
        (b".".to_vec(), "takes more than there is"),
        (b"\xff.".to_vec(), "there is no opcode 0xff"),
        (b"(0.".to_vec(), "takes more than there is"),
        (b"N(.".to_vec(), "takes more than there is"),
        (b"Nt.".to_vec(), "there is none"),
        (b"h\x00.".to_vec(), "nothing was kept under 0"),
        (b"gx\n.".to_vec(), "`x` is no number"),
        (b"I1e3\n.".to_vec(), "`1e3` is no number"),
        (b"Sabc\n.".to_vec(), "text without quotes"),
        (b"}(Nu.".to_vec(), "a key without a value"),
        (b"U\x05ab.".to_vec(), "ends too early"),
        (four(u32::MAX), "the length of a value"),
        (four(1 << 20), "ends too early"),
        (eight(u64::MAX), "the length of a value"),
        (eight(1 << 62), "the length of a value"),
        (b"\x8b\xff\xff\xff\xff.".to_vec(), "the length of a value"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.".to_vec(), "the length of a value"),
        (b"X\x01\x00\x00\x00\xff.".to_vec(), "text that is not UTF-8"),
    ] {
        let error = refused(&archive(&pickle, &[]));
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!([134, 135].contains(&error.code().0), "{error:?}");
    }
}

#[test]
fn bombs_cost_no_more_than_their_bytes() {
    // Twenty-six dictionaries, each of which has the one before it twice: 2²⁶ values to walk.
    let mut doubled = Pickle::new().raw(b"}").text("w").raw(b"K\x00sq\x00");
    for level in 0..26u8 {
        doubled = doubled.raw(&[
            b'}',
            b'(',
            b'K',
            0,
            b'h',
            level,
            b'K',
            1,
            b'h',
            level,
            b'u',
            b'q',
            level + 1,
        ]);
    }
    let one = Tensor::new("w", DType::U8, &[1], &[1]);
    let mut wide = Pickle::new().raw(b"](").view(&one).raw(b"eq\x00");
    for level in 0..12u8 {
        wide = wide.raw(b"](").raw(&[b'h', level].repeat(8)).raw(&[b'e', b'q', level + 1]);
    }
    let endless = Pickle::new().raw(b"}q\x00X\x01\x00\x00\x00ah\x00s");
    let deep = Pickle::new().raw(&b"}K\x01".repeat(4000)).raw(b"}").raw(&b"s".repeat(4000));
    let flood = Pickle::new().raw(&vec![b'N'; 5 << 20]);
    let floods = Pickle::new().raw(&vec![b'('; 5 << 20]);
    let long_name = Pickle::new().raw(b"}").text(&"n".repeat(5000)).view(&one).raw(b"s");
    for (pickle, what) in [
        (doubled, "depth"),
        (wide, "count of a file's values"),
        (endless, "depth"),
        (deep, "depth"),
        (flood, "opcodes"),
        (floods, "opcodes"),
        (long_name, "length of a tensor's name"),
    ] {
        let error = refused(&archive(&pickle.raw(b".").0, std::slice::from_ref(&one)));
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.code(), Code(135));
    }
    // Arguments of a thousand calls that are one long tuple; a list that many dictionaries want.
    let many = Pickle::new().raw(b"(").raw(&vec![b'N'; 1 << 16]).raw(b"tq\x000");
    let sizes = many.clone().raw(b"(").raw(&b"ctorch\nSize\nh\x00R".repeat(1000)).raw(b"t.");
    assert_eq!(refused(&archive(&sizes.0, &[])).code(), Code(133));
    let data = many.raw(b"(").raw(&b"ctorch\ndevice\nh\x00R".repeat(1000)).raw(b"t.");
    assert_eq!(open(&archive(&data.0, &[])).unwrap().1.tensors().len(), 0);
    let pairs = Pickle::new().raw(b"](").raw(&b"NN\x86".repeat(1 << 16)).raw(b"eq\x000");
    let pairs =
        pairs.raw(b"(").raw(&b"ccollections\nOrderedDict\nh\x00\x85R".repeat(1000)).raw(b"t.");
    assert_eq!(open(&archive(&pairs.0, &[])).unwrap().1.tensors().len(), 0);
}

#[test]
fn tensors_that_are_not_in_their_storages_are_refused() {
    let tensor = Tensor::new("w", DType::F32, &[2], &[0; 8]);
    let view = |offset, shape: &[u64], strides: &[u64]| tensor.view("w", offset, shape, strides);
    let big = u64::from(u32::MAX >> 1);
    for (wrong, what) in [
        (view(1, &[2], &[1]), "ends past the end of its storage"),
        (view(0, &[3], &[1]), "ends past the end of its storage"),
        (view(0, &[2, 2], &[1, 1]), "ends past the end of its storage"),
        (view(0, &[big, big], &[0, 0]), "repeats elements"),
        (view(0, &[big; 3], &[big; 3]), "that cannot be"),
        (view(0, &[2], &[]), "not as many strides as axes"),
        (Tensor { elements: 3, ..tensor.clone() }, "should have 3 elements"),
        (Tensor { kind: "ComplexFloatStorage", elements: 1, ..tensor.clone() }, "of complex64"),
        (Tensor { kind: "UntypedStorage", ..tensor.clone() }, "bytes of no type"),
    ] {
        let pickle = Pickle::new().model(std::slice::from_ref(&wrong));
        let error = refused(&archive(&pickle, std::slice::from_ref(&tensor)));
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!(error.code(), Code(138));
    }
    let pickle = Pickle::new().model(std::slice::from_ref(&tensor));
    let error = refused(&archive(&pickle, &[])).to_string();
    assert_eq!(error, "tensor `w` is in storage `w`, which is not there");
    let twice = Pickle::new().model(&[tensor.clone(), tensor.clone()]);
    let error = refused(&archive(&twice, &[tensor])).to_string();
    assert_eq!(error, "tensor `w` is in the file twice");
}

#[test]
fn archives_that_are_not_torch_saves_are_refused() {
    let pickle = Pickle::new().model(&[]);
    let compressed = {
        let mut bytes = zip(&[("a/data.pkl", &pickle)]);
        let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        bytes[at + 10] = 8;
        bytes
    };
    let overlapping = {
        let mut bytes = zip(&[("a/data.pkl", &pickle), ("a/data/0", &pickle)]);
        let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        bytes[at + 42..at + 46].fill(0);
        bytes
    };
    let beyond = {
        let mut bytes = zip(&[("a/data.pkl", &pickle)]);
        let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        bytes[at + 20..at + 28].fill(0x7f);
        bytes
    };
    for (bytes, what) in [
        (zip(&[("a/data.bin", &pickle)]), "its archive has no data.pkl"),
        (zip(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)]), "two data.pkl"),
        (zip(&[("../data.pkl/data.pkl", &pickle)]), "has its data.pkl in"),
        (zip(&[("a/data.pkl", &pickle), ("a/constants.pkl", b"")]), "a TorchScript program"),
        (zip(&[("a/data.pkl", &pickle), ("a/byteorder", b"big")]), "big-endian"),
        (zip(&[("a/data.pkl", &pickle), ("a/data.pkl", &pickle)]), "`a/data.pkl` twice"),
        (compressed, "the compressed entry `a/data.pkl`"),
        (overlapping, "in one place"),
        (beyond, "ends past the end"),
        (b"PK\x03\x04 and no more".to_vec(), "has no directory"),
        (vec![], "no file that torch.save writes"),
        (vec![0; 1000], "no file that torch.save writes"),
        ([vec![0; 257], b"ustar".to_vec(), vec![0; 300]].concat(), "a tar archive"),
    ] {
        let error = refused(&bytes);
        assert!(error.to_string().contains(what), "{what}: {error}");
    }
    // Names lead nowhere: an entry is found by its name, and nothing is unpacked.
    let tensor = Tensor { key: "../../etc/passwd".to_owned(), ..tensors().remove(0) };
    let (_kept, source) = open(&model(&[tensor])).unwrap();
    assert_eq!(bytes(&source, "a.ids")[8], 2);
}

/// Opens what may be broken, in a directory that is used again; reads all that it says it has.
fn survives(directory: &TempDir, bytes: &[u8]) {
    let path = directory.path().join("pytorch_model.bin");
    // A new file each time: some file systems wait for the disk when one is written over.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let Ok(source) = Source::open(directory.path()) else {
        return;
    };
    for (name, info) in source.tensors() {
        assert!(info.stored_bytes() <= bytes.len() as u64, "{name} {info:?}");
        let rows = info.shape.first().copied().unwrap_or(1);
        let mut out = Vec::new();
        source.read(name, 0..rows, &mut out).unwrap();
        assert_eq!(out.len() as u64, info.stored_bytes());
    }
}

#[test]
fn a_file_that_is_cut_anywhere_or_has_any_byte_changed_is_read_or_refused() {
    for file in [model(&tensors()[..4]), old(&tensors()[..4])] {
        let directory = directory(&file);
        for length in 0..file.len() {
            survives(&directory, &file[..length]);
        }
        for at in 0..file.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut changed = file.clone();
                changed[at] ^= mask;
                survives(&directory, &changed);
            }
        }
    }
}
