//! Plans over real files, held against arithmetic on indices.

mod errors;

use super::*;
use crate::origin::{Joint, Pile, Precision, Step};
use engraft_ir::{Meaning, Segment};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

/// A model directory that goes away with it.
struct Model {
    directory: tempfile::TempDir,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Model {
    fn new() -> Model {
        Model { directory: tempfile::tempdir().unwrap(), tensors: Vec::new() }
    }

    fn bytes(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Model {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    fn f32(self, name: &str, shape: &[usize], values: &[f32]) -> Model {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(name, Dtype::F32, shape, bytes)
    }

    fn open(&self) -> Source {
        let views: Vec<(&str, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
            })
            .collect();
        let path = self.directory.path();
        let config = r#"{"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32"}"#;
        std::fs::write(path.join("config.json"), config).unwrap();
        safetensors::serialize_to_file(views, None, &path.join("model.safetensors")).unwrap();
        Source::open(path).unwrap()
    }
}

/// Numbers that look alike nowhere.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
        })
        .collect()
}

fn segments(shape: &[u64]) -> Vec<Segment> {
    shape.iter().map(|&size| Segment { size, meaning: Meaning::Plain }).collect()
}

fn part(tensor: &str, steps: &[Step], shape: &[u64]) -> Part {
    Part { tensor: tensor.to_owned(), steps: steps.to_vec(), axes: segments(shape) }
}

fn head(name: &str, origin: Origin) -> (PlaceKind, Parameter) {
    let parameter = Parameter { name: name.to_owned(), origin, precision: Precision::Any };
    (PlaceKind::Head, parameter)
}

fn plan<'a>(source: &'a Source, origin: Origin, dtype: DType) -> Result<Plan<'a>, WeightError> {
    let all = [("*".to_owned(), "not asked for".to_owned())];
    Plan::new(source, &[head("w", origin)], dtype, &all)
}

fn stream(plan: &Plan<'_>, name: &str) -> Result<Vec<u8>, WeightError> {
    let mut out = Vec::new();
    plan.stream(name, &mut |bytes| {
        out.extend_from_slice(bytes);
        Ok(())
    })?;
    Ok(out)
}

/// The bytes of an origin, which no size of pieces may change.
fn made(source: &Source, origin: &Origin, dtype: DType) -> Vec<u8> {
    let whole = stream(&plan(source, origin.clone(), dtype).unwrap(), "transformer.w").unwrap();
    for piece in [1, 7, 24, 64, 1000] {
        let plan = plan(source, origin.clone(), dtype).unwrap().in_pieces_of(piece);
        assert_eq!(plan.get("transformer.w").unwrap().bytes(), whole.len() as u64);
        let pieced = stream(&plan, "transformer.w").unwrap();
        assert!(pieced == whole, "{origin:?} in pieces of {piece}");
    }
    whole
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A tensor in memory, with the steps done one index at a time.
#[derive(Clone, Debug)]
struct Naive {
    shape: Vec<u64>,
    values: Vec<f32>,
}

impl Naive {
    fn at(&self, index: &[u64]) -> f32 {
        let number = index.iter().zip(&self.shape).fold(0, |n, (i, size)| n * size + i);
        self.values[number as usize]
    }

    fn build(shape: &[u64], value: impl Fn(&[u64]) -> f32) -> Naive {
        let count: u64 = shape.iter().product();
        let values = (0..count).map(|n| value(&crate::finite::multi_index(n, shape))).collect();
        Naive { shape: shape.to_vec(), values }
    }

    fn step(&self, step: &Step, factor: &Naive) -> Naive {
        let last = self.shape.len() - 1;
        let each = |f: &dyn Fn(f32) -> f32| Naive {
            values: self.values.iter().map(|&v| f(v)).collect(),
            ..self.clone()
        };
        let times = |width: u64, factor: &dyn Fn(u64, u64) -> f32| {
            let mut shape = self.shape.clone();
            shape[last] = width;
            Naive::build(&shape, |index| {
                let mut from = index.to_vec();
                let mut sum = 0.0;
                for k in 0..self.shape[last] {
                    from[last] = k;
                    sum += self.at(&from) * factor(k, index[last]);
                }
                sum
            })
        };
        match step {
            Step::Reshape(shape) => Naive { shape: shape.clone(), values: self.values.clone() },
            Step::Permute(order) => {
                let shape: Vec<u64> = order.iter().map(|&i| self.shape[i as usize]).collect();
                Naive::build(&shape, |index| {
                    let mut from = vec![0; order.len()];
                    order.iter().zip(index).for_each(|(&o, &i)| from[o as usize] = i);
                    self.at(&from)
                })
            }
            Step::Slice { axis, start, end } => {
                let mut shape = self.shape.clone();
                shape[*axis as usize] = end - start;
                Naive::build(&shape, |index| {
                    let mut from = index.to_vec();
                    from[*axis as usize] += start;
                    self.at(&from)
                })
            }
            Step::Add(x) => each(&|v| v + x),
            Step::Scale(x) => each(&|v| v * x),
            Step::UnitRows => Naive::build(&self.shape, |index| {
                let mut from = index.to_vec();
                let mut sum = 0.0f64;
                for k in 0..self.shape[last] {
                    from[last] = k;
                    sum += f64::from(self.at(&from)).powi(2);
                }
                self.at(index) / sum.sqrt() as f32
            }),
            Step::Times(_) => times(factor.shape[1], &|k, j| factor.at(&[k, j])),
            Step::TimesTransposed(_) => times(factor.shape[0], &|k, j| factor.at(&[j, k])),
        }
    }
}

fn slice(axis: u32, start: u64, end: u64) -> Step {
    Step::Slice { axis, start, end }
}

#[test]
fn every_step_and_their_compositions_agree_with_the_definition() {
    let reshape = |shape: &[u64]| Step::Reshape(shape.to_vec());
    let permute = |order: &[u32]| Step::Permute(order.to_vec());
    let times = || Step::Times("factor".to_owned());
    let cases = [
        vec![],
        vec![reshape(&[4, 18])],
        vec![permute(&[1, 0])],
        vec![slice(0, 3, 11)],
        vec![slice(1, 2, 5)],
        vec![reshape(&[72]), slice(0, 5, 62), reshape(&[3, 19])],
        vec![slice(0, 2, 10), reshape(&[4, 2, 6]), slice(0, 1, 3)],
        vec![reshape(&[3, 2, 2, 6]), permute(&[0, 2, 1, 3]), reshape(&[12, 6])],
        vec![permute(&[1, 0]), reshape(&[8, 9]), permute(&[1, 0]), slice(1, 3, 8)],
        vec![slice(1, 0, 4), reshape(&[6, 8]), permute(&[1, 0])],
        vec![Step::Add(1.0)],
        vec![Step::Scale(-0.125)],
        vec![Step::UnitRows],
        vec![times()],
        vec![slice(1, 1, 5), permute(&[1, 0]), Step::TimesTransposed("factor".to_owned())],
        vec![permute(&[1, 0]), Step::Add(0.5), permute(&[1, 0]), times(), slice(1, 4, 9)],
        vec![reshape(&[2, 6, 6]), slice(0, 1, 2), times(), Step::UnitRows, permute(&[2, 0, 1])],
        vec![Step::Scale(2.0), reshape(&[72]), slice(0, 30, 42), Step::Add(1.0)],
    ];
    let tensor = Naive { shape: vec![12, 6], values: numbers(72, 1) };
    for steps in cases {
        let transposed = steps.iter().any(|s| matches!(s, Step::TimesTransposed(_)));
        let shape = if transposed { [10, 12] } else { [6, 10] };
        let factor =
            Naive { shape: shape.to_vec(), values: numbers((shape[0] * shape[1]) as usize, 2) };
        let source = Model::new()
            .f32("t", &[12, 6], &tensor.values)
            .f32("factor", &shape.map(|n| n as usize), &factor.values)
            .open();
        let expected = steps.iter().fold(tensor.clone(), |t, step| t.step(step, &factor));
        let origin = Origin::Tensor(part("t", &steps, &expected.shape));
        assert_eq!(floats(&made(&source, &origin, DType::F32)), expected.values, "{steps:?}");
    }
}

#[test]
fn halves_that_only_move_keep_every_bit() {
    // All finite patterns, subnormal ones and both zeros among them.
    let patterns: Vec<u16> = (0..=u16::MAX).filter(|b| bf16::from_bits(*b).is_finite()).collect();
    let bytes: Vec<u8> = patterns.iter().flat_map(|b| b.to_le_bytes()).collect();
    let rows = patterns.len() / 255;
    let source = Model::new().bytes("t", Dtype::BF16, &[rows, 255], bytes.clone()).open();
    let plain = Origin::Tensor(part("t", &[], &[rows as u64, 255]));
    let whole = stream(&plan(&source, plain, DType::BF16).unwrap(), "transformer.w").unwrap();
    assert!(whole == bytes);

    let turned = Origin::Tensor(part("t", &[Step::Permute(vec![1, 0])], &[255, rows as u64]));
    let out = stream(&plan(&source, turned, DType::BF16).unwrap(), "transformer.w").unwrap();
    for (number, element) in out.chunks_exact(2).enumerate() {
        let (column, row) = (number / rows, number % rows);
        let at = 2 * (row * 255 + column);
        assert_eq!(element, &bytes[at..at + 2]);
    }
}

#[test]
fn every_float_type_becomes_every_other() {
    let values = numbers(70, 3);
    let encode = |dtype: DType, v: f32| match dtype {
        DType::F64 => f64::from(v).to_le_bytes().to_vec(),
        DType::F32 => v.to_le_bytes().to_vec(),
        DType::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        _ => bf16::from_f32(v).to_le_bytes().to_vec(),
    };
    let decode = |dtype: DType, v: f32| cast_value(dtype, &encode(dtype, v));
    let types = [
        (DType::F64, Dtype::F64),
        (DType::F32, Dtype::F32),
        (DType::F16, Dtype::F16),
        (DType::BF16, Dtype::BF16),
    ];
    for (from, stored) in types {
        let bytes = values.iter().flat_map(|&v| encode(from, v)).collect();
        let source = Model::new().bytes("t", stored, &[7, 10], bytes).open();
        for (to, _) in types {
            let origin = Origin::Tensor(part("t", &[], &[7, 10]));
            let expected: Vec<u8> =
                values.iter().flat_map(|&v| encode(to, decode(from, v))).collect();
            assert_eq!(made(&source, &origin, to), expected, "{from} to {to}");
        }
    }
}

fn cast_value(dtype: DType, bytes: &[u8]) -> f32 {
    crate::cast::value(bytes, dtype) as f32
}

#[test]
fn parts_lie_side_by_side_along_any_axis_and_stack() {
    let (a, b) = (numbers(24, 4), numbers(36, 5));
    let source = Model::new().f32("a", &[2, 3, 4], &a).f32("b", &[2, 3, 6], &b).open();
    let naive =
        |values: &[f32], shape: &[u64]| Naive { shape: shape.to_vec(), values: values.to_vec() };
    let (na, nb) = (naive(&a, &[2, 3, 4]), naive(&b, &[2, 3, 6]));

    let joint = |axis, parts: Vec<Part>| Joint { axis, parts };
    let last = joint(2, vec![part("a", &[], &[2, 3, 4]), part("b", &[], &[2, 3, 6])]);
    let expected =
        Naive::build(
            &[2, 3, 10],
            |i| {
                if i[2] < 4 { na.at(i) } else { nb.at(&[i[0], i[1], i[2] - 4]) }
            },
        );
    assert_eq!(floats(&made(&source, &Origin::Concat(last), DType::F32)), expected.values);

    // With steps that hold a part, and with one source tensor in two parts.
    let turn = [Step::Permute(vec![0, 2, 1])];
    let middle = joint(1, vec![part("b", &turn, &[2, 6, 3]), part("a", &turn, &[2, 4, 3])]);
    let expected = Naive::build(&[2, 10, 3], |i| {
        if i[1] < 6 { nb.at(&[i[0], i[2], i[1]]) } else { na.at(&[i[0], i[2], i[1] - 6]) }
    });
    assert_eq!(floats(&made(&source, &Origin::Concat(middle), DType::F32)), expected.values);

    let halves = joint(
        0,
        vec![part("a", &[slice(0, 1, 2)], &[1, 3, 4]), part("a", &[slice(0, 0, 1)], &[1, 3, 4])],
    );
    let swapped: Vec<f32> = a[12..].iter().chain(&a[..12]).copied().collect();
    assert_eq!(floats(&made(&source, &Origin::Concat(halves.clone()), DType::F32)), swapped);

    let same = [0, 1].map(|i| part("a", &[slice(0, i, i + 1)], &[1, 3, 4]));
    let parts = vec![joint(0, same.to_vec()), halves];
    let pile = Pile { meaning: Meaning::Experts, parts };
    let stacked: Vec<f32> = a.iter().chain(&swapped).copied().collect();
    assert_eq!(floats(&made(&source, &Origin::Stack(pile), DType::F32)), stacked);
}

#[test]
fn threads_change_no_byte() {
    let (rows, columns) = (1500, 700);
    let source = Model::new().f32("t", &[rows, columns], &numbers(rows * columns, 6)).open();
    let steps = [Step::Permute(vec![1, 0]), Step::UnitRows, Step::Scale(3.0)];
    let origin = Origin::Tensor(part("t", &steps, &[columns as u64, rows as u64]));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            stream(&plan(&source, origin.clone(), DType::BF16).unwrap(), "transformer.w").unwrap()
        })
    };
    assert!(run(1) == run(3));
}

#[test]
fn a_parameter_of_single_precision_is_f32_in_a_checkpoint_of_fewer_bits() {
    let values = numbers(6, 7);
    let source = Model::new().f32("router", &[3, 2], &values).open();
    let origin = Origin::Tensor(part("router", &[], &[3, 2]));
    for (precision, dtype) in [
        (Precision::Any, DType::BF16),
        (Precision::Keep, DType::BF16),
        (Precision::Single, DType::F32),
    ] {
        let (place, parameter) = head("w", origin.clone());
        let parameters = [(place, Parameter { precision, ..parameter })];
        let plan = Plan::new(&source, &parameters, DType::BF16, &[]).unwrap();
        let supply = plan.get("transformer.w").unwrap();
        assert_eq!((supply.dtype, supply.shape()), (dtype, vec![3, 2]));
        assert_eq!(stream(&plan, "transformer.w").unwrap().len() as u64, supply.bytes());
        if precision == Precision::Single {
            assert_eq!(floats(&stream(&plan, "transformer.w").unwrap()), values);
        }
    }
}

#[test]
fn a_tied_parameter_streams_what_it_is_tied_to() {
    let values = numbers(6, 7);
    let source = Model::new().f32("e", &[3, 2], &values).open();
    let embedding = Parameter {
        name: "vocab_embedding.weight".to_owned(),
        origin: Origin::Tensor(part("e", &[], &[3, 2])),
        precision: Precision::Any,
    };
    let tied = Origin::Tied("vocab_embedding.weight".to_owned());
    let parameters = [(PlaceKind::Embed, embedding), head("lm_head.weight", tied)];
    let plan = Plan::new(&source, &parameters, DType::F32, &[]).unwrap();
    assert_eq!(plan.names(), ["transformer.vocab_embedding.weight", "lm_head.weight"]);
    let supply = plan.get("lm_head.weight").unwrap();
    assert_eq!(supply.tied.as_deref(), Some("transformer.vocab_embedding.weight"));
    assert_eq!(supply.shape(), [3, 2]);
    assert_eq!(floats(&stream(&plan, "lm_head.weight").unwrap()), values);
    assert!(matches!(stream(&plan, "x"), Err(WeightError::Unknown { .. })));

    let error = Plan::new(&source, &parameters[1..], DType::F32, &[]).err().unwrap();
    assert!(matches!(error, WeightError::TiedToNothing { .. }), "{error}");
}
