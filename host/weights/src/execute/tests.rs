//! Parameters in memory, dealt out to files.

use super::*;
use crate::Piece;
use engraft_ir::{Axis, DType, Meaning};
use std::path::Path;
use std::sync::atomic::AtomicU64;

/// Parameters of bytes that look alike nowhere, handed out in small pieces.
struct Memory {
    names: Vec<String>,
    supplies: BTreeMap<String, Supply>,
    bytes: BTreeMap<String, Vec<u8>>,
    /// A parameter that turns out wrong.
    bad: Vec<&'static str>,
    streamed: AtomicU64,
}

impl Memory {
    fn new() -> Memory {
        let mut memory = Memory {
            names: Vec::new(),
            supplies: BTreeMap::new(),
            bytes: BTreeMap::new(),
            bad: Vec::new(),
            streamed: AtomicU64::new(0),
        };
        let mut state = 1u64;
        for i in 0..40u64 {
            let shape = [4 + i % 8 * 2, 6 + i];
            let axes = shape.map(|n| Axis::new(n, Meaning::Plain)).to_vec();
            let supply = Supply { dtype: DType::BF16, axes, tied: None };
            let bytes = (0..supply.bytes()).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as u8
            });
            memory.bytes.insert(format!("w{i}"), bytes.collect());
            memory.supplies.insert(format!("w{i}"), supply);
            memory.names.push(format!("w{i}"));
        }
        let tied = Supply { tied: Some("w3".to_owned()), ..memory.supplies["w3"].clone() };
        memory.supplies.insert("head".to_owned(), tied);
        memory.names.push("head".to_owned());
        memory
    }

    /// Halves of all rows, and a row of zeros at the end of the second.
    fn shares(&self, rank: u64) -> Vec<Share> {
        let share = |name: &String| {
            let [rows, columns] = self.supplies[name].shape()[..] else { panic!("two axes") };
            let half = rows / 2;
            let mut first = vec![Piece::Keep(rank * half..(rank + 1) * half)];
            if rank == 1 {
                first.push(Piece::Zeros(1));
            }
            let cut = Cut { axes: vec![first, vec![Piece::Keep(0..columns)]] };
            Share { name: format!("own.{name}"), source: name.clone(), cut }
        };
        self.names.iter().map(share).collect()
    }
}

impl Provider for Memory {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn get(&self, name: &str) -> Option<&Supply> {
        self.supplies.get(name)
    }

    fn stream(
        &self,
        name: &str,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), WeightError> {
        self.streamed.fetch_add(1, Ordering::Relaxed);
        if self.bad.contains(&name) {
            std::thread::yield_now();
            return Err(WeightError::Unknown { parameter: name.to_owned() });
        }
        for piece in self.bytes[name].chunks(13) {
            sink(piece)?;
        }
        Ok(())
    }
}

/// The bytes of the files of both ranks.
fn run(memory: &Memory, effort: &Effort<'_>) -> Result<Vec<Vec<u8>>, WeightError> {
    let directory = tempfile::tempdir().unwrap();
    let ranks = [memory.shares(0), memory.shares(1)];
    let paths = ["0", "1"].map(|name| directory.path().join(name));
    let files: Vec<SafetensorsWriter> = ranks
        .iter()
        .zip(&paths)
        .map(|(shares, path)| {
            let tensors = layout(memory, shares).unwrap();
            SafetensorsWriter::create(path, BTreeMap::new(), tensors, 64).unwrap()
        })
        .collect();
    let jobs = jobs(memory, &[&ranks[0], &ranks[1]]).unwrap();
    execute(memory, &jobs, &files, effort, None)?;
    for file in files {
        file.finish().unwrap();
    }
    Ok(paths.iter().map(|path| std::fs::read(path).unwrap()).collect())
}

#[test]
fn files_hold_what_ranks_keep_whatever_the_number_of_workers() {
    let memory = Memory::new();
    let one = run(&memory, &Effort { workers: NonZeroUsize::new(1), ..Effort::default() }).unwrap();
    assert_eq!(memory.streamed.load(Ordering::Relaxed), 40, "once each, ties included");
    for workers in [2, 5, 16] {
        let workers = NonZeroUsize::new(workers);
        let many = run(&memory, &Effort { workers, ..Effort::default() }).unwrap();
        assert!(many == one, "{workers:?}");
    }
    let header = engraft_files::header::read_bytes(Path::new("0"), &one[1]).unwrap();
    for name in memory.names.iter().filter(|name| *name != "head") {
        let tensor = &header.tensors[&format!("own.{name}")];
        let found = &one[1][tensor.start as usize..tensor.end as usize];
        let whole = &memory.bytes[name];
        let row = whole.len() / memory.supplies[name].shape()[0] as usize;
        let (kept, zeros) = found.split_at(whole.len() / 2);
        assert_eq!(kept, &whole[whole.len() / 2..], "{name}");
        assert_eq!(zeros, vec![0; row], "{name}");
    }
    let of = |name: &str| {
        let tensor = &header.tensors[name];
        &one[1][tensor.start as usize..tensor.end as usize]
    };
    assert_eq!(of("own.head"), of("own.w3"));
}

#[test]
fn the_error_is_that_of_the_first_bad_parameter() {
    let mut memory = Memory::new();
    // Larger ones come first.
    memory.bad = vec!["w5", "w31", "w38", "w12"];
    for workers in [1, 2, 7] {
        for _ in 0..20 {
            let workers = NonZeroUsize::new(workers);
            let error = run(&memory, &Effort { workers, ..Effort::default() }).unwrap_err();
            assert!(matches!(&error, WeightError::Unknown { parameter } if parameter == "w38"));
        }
    }
}

#[test]
fn progress_comes_to_all_bytes() {
    let memory = Memory::new();
    let last = Mutex::new((0, 0));
    let note = |done, total| {
        let mut last = last.lock().unwrap();
        assert!(done >= last.0 && done <= total);
        *last = (done, total);
    };
    let files = run(&memory, &Effort { progress: &note, ..Effort::default() }).unwrap();
    let (done, total) = *last.lock().unwrap();
    assert_eq!(done, total);
    assert!(total > 0 && total < files.iter().map(Vec::len).sum::<usize>() as u64);
}

#[test]
fn a_provider_that_gives_other_than_it_says_is_a_mistake() {
    let mut memory = Memory::new();
    memory.bytes.get_mut("w7").unwrap().pop();
    let error = run(&memory, &Effort::default()).unwrap_err().to_string();
    assert!(error.contains("`w7` came with 467 bytes, not 468"), "{error}");
    memory.bytes.get_mut("w7").unwrap().extend([0; 9]);
    assert!(run(&memory, &Effort::default()).is_err());
}
