//! Every golden, all the way: source, plugin, engine, runtime; against HuggingFace's numbers.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::BuildOptions;
use engraft_convert::Effort;
use engraft_convert::build::Checkpoint;
use engraft_files::OutputDir;
use engraft_ir::DType;
use engraft_runtime::{Isa, LoadOptions, evaluate};
use engraft_tests::{
    compile, copied, distance, engine, fixtures, floats, golden, goldens, greedy, load, logits,
    pipeline,
};
use std::fs;
use std::path::Path;

/// Files of a directory with their bytes.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn logits_and_greedy_continuations_are_huggingfaces_in_f32() {
    let mut wrong = Vec::new();
    for golden in goldens() {
        let name = golden.path.file_name().unwrap().display();
        let engine = engine(&golden.path, Some(DType::F32));
        let mut model = load(&engine, &LoadOptions::default());
        let got = evaluate::logits(&mut model, &golden.prompts).unwrap();
        for (k, (got, want)) in got.iter().zip(&golden.logits).enumerate() {
            let apart = distance(got, want);
            println!("{name} prompt {k}: {apart:.2e}");
            if apart.is_nan() || apart > 1e-4 {
                wrong.push(format!("{name} prompt {k}: relative L2 {apart:.2e}"));
            }
        }
        if greedy(&mut model, &golden.prompts, 16) != golden.greedy {
            wrong.push(format!("{name}: another greedy continuation"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Activations stay f32, so rounding the weights is all that costs. Goldens whose parameters are
/// all bf16 lose nothing; for the others the bound is what was measured, rounded up.
#[test]
fn weights_in_bf16_cost_what_their_rounding_costs() {
    let mut wrong = Vec::new();
    for golden in goldens() {
        let name = golden.path.file_name().unwrap().display();
        let whole = engine(&golden.path, Some(DType::F32));
        let lossless = whole.graph().weights.keys().all(|w| {
            floats(whole.weight(w)).iter().all(|v| half::bf16::from_f32(*v).to_f32() == *v)
        });
        let bound = if lossless { 1e-4 } else { 2e-2 };
        let engine = engine(&golden.path, Some(DType::BF16));
        let mut model = load(&engine, &LoadOptions::default());
        let got = evaluate::logits(&mut model, &golden.prompts).unwrap();
        for (k, (got, want)) in got.iter().zip(&golden.logits).enumerate() {
            let apart = distance(got, want);
            println!("{name} prompt {k}: {apart:.2e}");
            if apart.is_nan() || apart > bound {
                wrong.push(format!("{name} prompt {k}: relative L2 {apart:.2e}"));
            }
        }
        if lossless && greedy(&mut model, &golden.prompts, 16) != golden.greedy {
            wrong.push(format!("{name}: another greedy continuation"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_config_of_transformers_5_loads_alike() {
    let mut found = 0;
    for golden in goldens() {
        let newer = golden.path.join("config.v5.json");
        if !newer.exists() {
            continue;
        }
        found += 1;
        let folder = copied(&golden.path);
        fs::rename(folder.path().join("config.v5.json"), folder.path().join("config.json"))
            .unwrap();
        let old = pipeline(&golden.path, None);
        let new = pipeline(folder.path(), None);
        assert_eq!(old.graph().to_string(), new.graph().to_string(), "{}", golden.path.display());
        assert_eq!(old.config().to_json(), new.config().to_json(), "{}", golden.path.display());
        assert!(new.unread().is_empty(), "{:?}", new.unread());
    }
    assert!(found >= 3, "{found} goldens have a config of transformers 5");
}

#[test]
fn no_key_of_a_goldens_config_is_left_unread() {
    for golden in goldens() {
        let pipeline = pipeline(&golden.path, None);
        assert!(pipeline.unread().is_empty(), "{}: {:?}", golden.path.display(), pipeline.unread());
    }
}

#[test]
fn convert_and_build_give_the_bytes_of_compile_and_twice_gives_the_same() {
    for golden in goldens() {
        let folder = tempfile::tempdir().unwrap();
        let (once, twice) = (folder.path().join("once"), folder.path().join("twice"));
        compile(&golden.path, None, &once);
        compile(&golden.path, None, &twice);

        let (checkpoint, built) = (folder.path().join("checkpoint"), folder.path().join("built"));
        let dir = OutputDir::create(&checkpoint, false).unwrap();
        pipeline(&golden.path, None)
            .write_checkpoint(dir.path(), &Effort::default(), None)
            .unwrap();
        dir.commit().unwrap();
        let plugin = engraft_tests::plugin(&golden.path).to_string_lossy().into_owned();
        let opened = Checkpoint::open(&checkpoint, Some(&plugin)).unwrap();
        let dir = OutputDir::create(&built, false).unwrap();
        opened.build(BuildOptions::default(), dir.path(), &Effort::default()).unwrap();
        dir.commit().unwrap();

        let (once, twice, built) = (contents(&once), contents(&twice), contents(&built));
        assert!(once == twice, "{}: two builds differ", golden.path.display());
        assert!(once == built, "{}: convert + build differs from compile", golden.path.display());
    }
}

#[test]
fn every_graph_reads_back_as_it_was_written() {
    for golden in goldens() {
        let pipeline = pipeline(&golden.path, None);
        for graph in [pipeline.graph(), engine(&golden.path, None).graph()] {
            let text = graph.to_string();
            let again = engraft_ir::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(text, again.to_string());
        }
    }
}

#[test]
fn results_do_not_depend_on_batch_threads_or_chunks() {
    for name in ["llama-gqa", "llama-bias", "smollm3"] {
        let golden = golden(fixtures().join("golden").join(name));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let engine = engine(&golden.path, Some(dtype));
            let one = LoadOptions { threads: Some(1), ..LoadOptions::default() };
            let mut alone = load(&engine, &one);
            let want: Vec<Vec<f32>> =
                golden.prompts.iter().map(|prompt| logits(&mut alone, prompt)).collect();
            let continued: Vec<Vec<u32>> = golden
                .prompts
                .iter()
                .map(|prompt| greedy(&mut alone, std::slice::from_ref(prompt), 16).remove(0))
                .collect();
            for (threads, max_num_tokens, tokens_per_block) in
                [(1, 512, 32), (2, 512, 32), (2, 7, 32), (2, 20, 16), (3, 512, 64)]
            {
                let options = LoadOptions {
                    threads: Some(threads),
                    max_batch_size: Some(3),
                    max_num_tokens: Some(max_num_tokens),
                    tokens_per_block: Some(tokens_per_block),
                    ..LoadOptions::default()
                };
                let mut model = load(&engine, &options);
                let what = format!("{name} {dtype} {options:?}");
                let got = evaluate::logits(&mut model, &golden.prompts).unwrap();
                assert!(got == want, "{what}: logits are not the same bits");
                assert_eq!(greedy(&mut model, &golden.prompts, 16), continued, "{what}");
            }
        }
    }
}

#[test]
fn every_kind_of_kernel_gives_the_goldens() {
    let golden = golden(fixtures().join("golden/llama-gqa"));
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let engine = engine(&golden.path, Some(dtype));
        for isa in [Isa::Plain, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available())
        {
            let options = LoadOptions { isa: Some(isa), ..LoadOptions::default() };
            let got = evaluate::logits(&mut load(&engine, &options), &golden.prompts).unwrap();
            for (got, want) in got.iter().zip(&golden.logits) {
                let apart = distance(got, want);
                assert!(apart <= 5e-3, "{isa:?} {dtype}: {apart:.2e}");
            }
        }
    }
}
