//! Every golden on several ranks: what it says is what it says on one; and what happens where
//! ranks do not fit together, or fail.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use engraft_compile::{BuildOptions, CompileError};
use engraft_convert::{ConvertError, Effort, Options, Pipeline};
use engraft_engine::Engine;
use engraft_files::OutputDir;
use engraft_ir::{DType, Mapping};
use engraft_runtime::{LoadOptions, Model, evaluate};
use engraft_tests::command::{fails, mpirun, processes, stderr, stdout, works};
use engraft_tests::{distance, fixtures, golden, goldens, greedy, plugin};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Compiles a model for several ranks; none where its sizes do not divide.
fn compiled(
    model: &Path,
    out: &Path,
    mapping: Mapping,
    parallel_embedding: Option<u8>,
) -> Option<()> {
    let plugin = Some(plugin(model).to_string_lossy().into_owned());
    let (model, dtype) = (model.to_path_buf(), Some(DType::F32));
    let options =
        Options { model, plugin, dtype, mapping, parallel_embedding, ..Options::default() };
    let pipeline = Pipeline::open(&options).unwrap();
    let dir = OutputDir::create(out, false).unwrap();
    match pipeline.compile(BuildOptions::default(), dir.path(), &Effort::default(), None) {
        Ok(_) => dir.commit().unwrap(),
        Err(ConvertError::Compile(CompileError::Partition(_))) => return None,
        Err(other) => panic!("{} by {mapping}: {other}", options.model.display()),
    }
    Some(())
}

fn load(directory: &Path) -> Model {
    let engines: Vec<_> = Engine::open_all(directory).unwrap().into_iter().map(Arc::new).collect();
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    Model::load_in_process(engines, &options).unwrap()
}

#[test]
fn every_golden_says_the_same_on_any_number_of_ranks() {
    let experts =
        |tp, pp, ep| Mapping { moe_tp_size: tp / ep, moe_ep_size: ep, ..Mapping::new(tp, pp) };
    let ways = [
        (Mapping::new(2, 1), None),
        (Mapping::new(1, 2), None),
        (Mapping::new(2, 2), None),
        (Mapping::new(2, 1), Some(0)),
        (Mapping::new(2, 2), Some(1)),
        (Mapping::new(4, 1), Some(0)),
        (experts(2, 1, 2), None),
        (experts(4, 2, 2), None),
    ];
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for golden in goldens() {
        let name = golden.path.file_name().unwrap().to_string_lossy().into_owned();
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("one");
        compiled(&golden.path, &one, Mapping::default(), None).unwrap();
        let mut model = load(&one);
        let want = evaluate::logits(&mut model, &golden.prompts).unwrap();
        let continued = greedy(&mut model, &golden.prompts, 16);
        for (at, (mapping, parallel)) in ways.into_iter().enumerate() {
            let out = folder.path().join(at.to_string());
            if compiled(&golden.path, &out, mapping, parallel).is_none() {
                continue;
            }
            compared += 1;
            let what = format!("{name} by {mapping}, embedding {parallel:?}");
            let mut model = load(&out);
            let got = evaluate::logits(&mut model, &golden.prompts).unwrap();
            for (k, (got, want)) in got.iter().zip(&want).enumerate() {
                let apart = distance(got, want);
                if apart.is_nan() || apart > 1e-5 {
                    wrong.push(format!("{what}, prompt {k}: relative L2 {apart:.2e}"));
                }
            }
            if greedy(&mut model, &golden.prompts, 16) != continued {
                wrong.push(format!("{what}: another greedy continuation"));
            }
        }
    }
    println!("{compared} compared");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > 300, "only {compared} compared");
}

/// A golden compiled for some ranks by the command, and its folder.
fn by_command(golden: &str, flags: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("engine").to_string_lossy().into_owned();
    let model = fixtures().join("golden").join(golden);
    let plugin = plugin(&model).to_string_lossy().into_owned();
    let model = model.to_string_lossy().into_owned();
    let always = ["compile", "--plugin", &plugin, "--model_dir", &model, "--output_dir", &out];
    works(&[&always, flags].concat());
    (folder, out)
}

/// Prompts of a golden as `--input_ids`.
fn ids(golden_name: &str) -> Vec<String> {
    let golden = golden(fixtures().join("golden").join(golden_name));
    let text = |prompt: &Vec<u32>| prompt.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    golden.prompts.iter().map(text).collect()
}

fn run_arguments(engine: &str, length: usize, prompts: &[String]) -> Vec<String> {
    let mut arguments: Vec<String> = ["run", "--engine_dir", engine, "--output_ids"]
        .into_iter()
        .chain(["--ignore_eos", "--max_output_len", &length.to_string()])
        .map(str::to_owned)
        .collect();
    for prompt in prompts {
        arguments.extend(["--input_ids".to_owned(), prompt.clone()]);
    }
    arguments
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs what must fail as several processes: with one error, said once.
fn fails_once(output: &Output, code: &str, words: &[&str]) {
    let text = stderr(output);
    assert!(!output.status.success(), "{text}");
    assert_eq!(text.matches("error[").count(), 1, "{text}");
    assert!(text.contains(&format!("error[{code}]: ")), "{text}");
    assert_eq!(stdout(output), "", "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn processes_say_what_one_process_says() {
    let Some(mpirun) = mpirun() else {
        println!("engraft is built without MPI here");
        return;
    };
    for (name, ways) in [
        ("opt-125m", [("2", "1"), ("1", "2"), ("2", "2")]),
        ("llama-gqa", [("2", "1"), ("2", "2"), ("4", "1")]),
    ] {
        let prompts = ids(name);
        let (_folder, one) = by_command(name, &[]);
        let want = works(&strs(&run_arguments(&one, 16, &prompts)));
        assert_eq!(want.lines().count(), prompts.len());
        for (tp, pp) in ways {
            let (_folder, engine) = by_command(name, &["--tp_size", tp, "--pp_size", pp]);
            let mut arguments = run_arguments(&engine, 16, &prompts);
            let count = tp.parse::<usize>().unwrap() * pp.parse::<usize>().unwrap();
            let output = processes(&mpirun, count, &strs(&arguments)).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            assert_eq!(stdout(&output), want, "{name}, tp {tp}, pp {pp}");
            assert_eq!(stderr(&output).matches("loaded in").count(), 1, "{}", stderr(&output));
            arguments.push("--ranks-in-process".to_owned());
            assert_eq!(works(&strs(&arguments)), want, "{name}, tp {tp}, pp {pp}");
        }
    }
}

#[test]
fn the_wrong_number_of_ranks_is_one_error_that_says_what_to_do() {
    let (_folder, engine) = by_command("llama-gqa", &["--tp_size", "2"]);
    let arguments = run_arguments(&engine, 16, &["1,2,3".to_owned()]);
    let said = ["2 ranks", "mpirun -n 2 engraft run", "--ranks_in_process"];
    fails(&strs(&arguments), 2, "EG0619", &said);
    let Some(mpirun) = mpirun() else { return };
    let three = processes(&mpirun, 3, &strs(&arguments)).output().unwrap();
    fails_once(&three, "EG0619", &["there are 3", "mpirun -n 2"]);
    let (_folder, one) = by_command("llama-gqa", &[]);
    let arguments = run_arguments(&one, 16, &["1,2,3".to_owned()]);
    let two = processes(&mpirun, 2, &strs(&arguments)).output().unwrap();
    fails_once(&two, "EG0619", &["the engine has 1 rank", "without mpirun"]);
    let other = processes(&mpirun, 2, &["inspect", &one]).output().unwrap();
    fails_once(&other, "EG0090", &["one process, and 2 were started"]);
    let unknown = processes(&mpirun, 2, &["run", "--nonsense"]).output().unwrap();
    assert_eq!(stderr(&unknown).matches("--nonsense").count(), 1, "{}", stderr(&unknown));
}

#[test]
fn what_is_wrong_with_one_ranks_engine_ends_all_with_its_error() {
    let (_folder, engine) = by_command("llama-gqa", &["--tp_size", "2"]);
    let second = Path::new(&engine).join("rank1.engine");
    let whole = fs::read(&second).unwrap();
    let mut arguments = run_arguments(&engine, 16, &["1,2,3".to_owned()]);
    let mpirun = mpirun();
    let mut check = |code: &str, word: &str| {
        if let Some(mpirun) = &mpirun {
            let output = processes(mpirun, 2, &strs(&arguments)).output().unwrap();
            fails_once(&output, code, &[word, "(rank 1 of 2)", "rank1.engine"]);
        }
        arguments.push("--ranks_in_process".to_owned());
        fails(&strs(&arguments), 3, code, &[word, "rank1.engine"]);
        arguments.pop();
    };
    fs::write(&second, &whole[..whole.len() - 100]).unwrap();
    check("EG0036", "but the file ends at byte");
    fs::copy(Path::new(&engine).join("rank0.engine"), &second).unwrap();
    check("EG0516", "should be of rank 1");
    fs::remove_file(&second).unwrap();
    check("EG0515", "rank 1 is missing");
}

/// Starts two processes with work for a while, sends one of them or `mpirun` a signal once they are
/// at it, and sees that all end soon.
fn signalled(mpirun: &Path, signal: Signal, to_rank: bool) -> String {
    let (_folder, engine) = by_command("llama-gqa", &["--tp_size", "2"]);
    let mut arguments = run_arguments(&engine, 200, &["1,2,3".to_owned()]);
    // `mpirun` hands the command line on in one variable, which may have 128 KiB.
    let prompt = vec!["5"; 20].join(",");
    arguments.extend((0..1_500).flat_map(|_| ["--input_ids".to_owned(), prompt.clone()]));
    let mut run = processes(mpirun, 2, &strs(&arguments));
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    let children = |parent: u32| -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
        let text: String = threads.filter_map(|thread| of(thread).ok()).collect();
        text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    let ranks = loop {
        let ranks = children(child.id());
        let at_work = |id: &u32| {
            let map = fs::read_to_string(format!("/proc/{id}/maps")).unwrap_or_default();
            map.contains(".engine")
        };
        if ranks.len() == 2 && ranks.iter().all(at_work) {
            break ranks;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "they did not start");
        std::thread::sleep(Duration::from_millis(10));
    };
    let victim = if to_rank { ranks[1] } else { child.id() };
    let victim = Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
    kill_process(victim, signal).unwrap();
    let sent = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(sent.elapsed() < Duration::from_secs(30), "{:?}", sent.elapsed());
    // One that has ended may wait for somebody to ask how.
    let runs = |id: &u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        state.is_some_and(|state| state != 'Z' && state != 'X')
    };
    while ranks.iter().any(runs) {
        assert!(sent.elapsed() < Duration::from_secs(30), "a process goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    stderr(&output)
}

#[test]
fn a_process_that_is_killed_ends_the_others() {
    let Some(mpirun) = mpirun() else { return };
    let said = signalled(&mpirun, Signal::KILL, true);
    assert!(said.matches("error[").count() <= 1, "{said}");
}

#[test]
fn ctrl_c_ends_all_processes() {
    let Some(mpirun) = mpirun() else { return };
    let said = signalled(&mpirun, Signal::INT, false);
    assert!(said.matches("error[").count() <= 1, "{said}");
}
