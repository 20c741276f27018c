//! Ranks in one process against one rank, and what happens where one of them fails.

use super::in_process::Exchange;
use super::*;
use crate::device::Program;
use crate::evaluate::logits;
use crate::model::{LoadOptions, Model};
use crate::testing;
use engraft_ir::{Graph, Mapping, Weight, parse, verify};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Every rank of a mapping on a thread of its own; what each returns, in their order.
fn all<T: Send>(mapping: Mapping, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    let exchange = Exchange::new(mapping.world_size());
    thread::scope(|scope| {
        let start = |rank: Rank| {
            let (exchange, work) = (&exchange, &work);
            scope.spawn(move || {
                let ranks = Ranks::new(rank, exchange.line(rank.number)).expect("its rank");
                work(ranks)
            })
        };
        let threads: Vec<_> = mapping.ranks().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn values(rank: u32, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((rank as usize + 1) * (i * 7919 % 997)) as f32 / 31.0 - 7.0).collect()
}

#[test]
fn sums_go_by_the_order_of_ranks_and_are_the_same_bits_everywhere() {
    for (tp, pp) in [(1, 1), (2, 1), (3, 2), (5, 1)] {
        let mapping = Mapping::new(tp, pp);
        for n in [0, 1, 1000] {
            let sums = all(mapping, |mut ranks| {
                let mut mine = values(ranks.rank.number, n);
                for _ in 0..3 {
                    mine = values(ranks.rank.number, n);
                    ranks.all_reduce(&mut mine).expect("all are there");
                }
                mine
            });
            for (rank, sum) in mapping.ranks().zip(sums) {
                let parts: Vec<Vec<f32>> = rank.peers().map(|peer| values(peer, n)).collect();
                let expected = |i: usize| parts[1..].iter().fold(parts[0][i], |s, p| s + p[i]);
                assert!((0..n).all(|i| sum[i].to_bits() == expected(i).to_bits()), "{rank}");
            }
        }
    }
}

#[test]
fn parts_come_in_the_order_of_ranks_and_stages_hand_on() {
    let mapping = Mapping::new(2, 3);
    let found = all(mapping, |mut ranks| {
        let number = ranks.rank.number;
        let mut gathered = Vec::new();
        ranks.all_gather(&values(number, 5), &mut gathered).expect("all are there");
        let [mut a, mut b] = [vec![0.0; 3], vec![0.0; 1]];
        if !ranks.rank.is_first() {
            ranks.receive(&mut [&mut a, &mut b]).expect("sent");
        }
        if !ranks.rank.is_last() {
            ranks.send(&[&values(number, 3), &[number as f32]]).expect("received");
        }
        let mut last = [if ranks.rank.is_last() { number as f32 } else { 0.0 }];
        ranks.take_from_last(&mut last).expect("there is one");
        let said = ranks.share(&[u64::from(number), u64::MAX - 3]).expect("all are there");
        (gathered, a, b, last, said)
    });
    for (rank, (gathered, a, b, last, said)) in mapping.ranks().zip(found) {
        let peers: Vec<f32> = rank.peers().flat_map(|peer| values(peer, 5)).collect();
        assert_eq!(gathered, peers);
        if !rank.is_first() {
            let before = rank.number - 2;
            assert_eq!((a, b), (values(before, 3), vec![before as f32]));
        }
        assert_eq!(last, [(4 + rank.tp()) as f32]);
        assert_eq!(said, (0..6).map(|rank| vec![rank, u64::MAX - 3]).collect::<Vec<_>>());
    }
}

#[test]
fn one_that_is_interrupted_interrupts_all() {
    let told = |culprit| all(Mapping::new(2, 2), |mut r| r.any(r.rank.number == culprit).unwrap());
    assert_eq!(told(3), [true; 4]);
    assert_eq!(told(9), [false; 4]);
}

#[test]
fn a_rank_that_fails_frees_those_that_wait_and_those_that_will() {
    let exchange = Exchange::new(3);
    let wait = |rank: u32| {
        let mut line = exchange.line(rank);
        move || line.exchange(&[], &mut [(2, &mut [0.0])])
    };
    thread::scope(|scope| {
        let (early, mut late) = (scope.spawn(wait(0)), wait(1));
        thread::sleep(std::time::Duration::from_millis(30));
        exchange.fail(2);
        let early = early.join().expect("no panic");
        for found in [early, late()] {
            assert!(matches!(found, Err(RuntimeError::RankFailed { rank: 2 })), "{found:?}");
        }
    });
}

/// What a rank has of a model with every meeting in it. Weights are made from their names and
/// from where they lie in the whole.
struct Part {
    graph: Graph,
    words: Vec<Vec<f32>>,
    steps: AtomicUsize,
    /// In which reading of weights it panics.
    panics_at: usize,
}

impl Program for Part {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn weight(&self, weight: Weight) -> &[u8] {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        assert!(step < self.panics_at, "as it was told");
        bytemuck::cast_slice(&self.words[weight.as_u32() as usize])
    }
}

/// `[rows, columns]` of a matrix, from a row and a column on.
type Cut = (&'static str, [usize; 2], [usize; 2]);

fn part(rank: Rank, panics_at: usize) -> Part {
    let tp = rank.mapping.tp_size as usize;
    let own = rank.tp() as usize;
    let (table, inner, vocabulary) = (12 / tp, 12 / tp, 18 / tp);
    let whole = tp == 1;
    let reduce = |from: &str, to: &str| match whole {
        true => format!("    {to} = scale {from}, factor=1.0\n"),
        false => format!("    {to} = all_reduce {from}\n"),
    };
    let mut text = String::from("graph 1");
    if rank.mapping.is_split() {
        let Mapping { tp_size, pp_size, .. } = rank.mapping;
        text += &format!(" rank={} tp={tp_size} pp={pp_size}", rank.number);
    }
    let mut cuts: Vec<Cut> = Vec::new();
    text += "\n\n";
    let (mut w, first) = (0, rank.is_first());
    if first {
        cuts.push(("table", [table, 8], [own * table, 0]));
        text += &format!("place embed {{\n    w0 = weight \"table\" f32 [{table} vocabulary, 8]\n");
        let stretch = if whole { String::new() } else { format!(", first={} of=12", own * table) };
        text += &format!("    v0 = tokens\n    v1 = embedding v0, w0{stretch}\n");
        text += &reduce("v1", "v2");
        text += "    return v2\n}\n\n";
        w = 1;
    }
    let mut v = if first { 3 } else { 0 };
    let mut block = |text: &mut String, number: usize, name: [&'static str; 2]| {
        cuts.push((name[0], [inner, 8], [own * inner, 0]));
        cuts.push((name[1], [8, inner], [0, own * inner]));
        *text += &format!(
            "place block {number} {{\n    w{w} = weight \"{}\" f32 [{inner} feed_forward, 8]\n    w{} = weight \"{}\" f32 [8, {inner} feed_forward]\n",
            name[0],
            w + 1,
            name[1]
        );
        if v == 0 {
            *text += "    v0 = receive [8]\n";
            v = 1;
        }
        let (input, up) = (v - 1, v);
        *text += &format!(
            "    v{up} = linear v{input}, w{w}\n    v{} = activate v{up}, silu\n    v{} = linear v{}, w{}\n",
            up + 1,
            up + 2,
            up + 1,
            w + 1
        );
        *text += &reduce(&format!("v{}", up + 2), &format!("v{}", up + 3));
        *text +=
            &format!("    v{} = add v{input}, v{}\n    return v{}\n}}\n\n", up + 4, up + 3, up + 4);
        v += 5;
        w += 2;
    };
    let blocks: &[[&str; 2]] = &[["up0", "down0"], ["up1", "down1"]];
    let mine = rank.blocks(2);
    for (number, at) in mine.enumerate() {
        block(&mut text, number, blocks[at as usize]);
    }
    if rank.is_last() {
        text += &format!(
            "place head {{\n    w{w} = weight \"head\" f32 [{vocabulary} vocabulary, 8]\n"
        );
        text += &format!("    v{v} = outputs v{}\n    v{} = linear v{v}, w{w}\n", v - 1, v + 1);
        text += &match whole {
            true => format!("    v{}, v{} = split v{}, [17, 1]\n", v + 2, v + 3, v + 1),
            false => format!(
                "    v{} = all_gather v{}\n    v{}, v{} = split v{}, [17, 1]\n",
                v + 2,
                v + 1,
                v + 3,
                v + 4,
                v + 2
            ),
        };
        text += &format!("    return v{}\n}}\n", if whole { v + 2 } else { v + 3 });
        cuts.push(("head", [vocabulary, 8], [own * vocabulary, 0]));
    }
    let graph = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    verify(&graph).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let element = |name: &str, row: usize, column: usize| {
        let name: usize = name.bytes().map(usize::from).sum();
        ((name * 31 + row * 17 + column * 5 + row * column) % 23) as f32 / 23.0 - 0.45
    };
    let words = cuts.into_iter().map(|(name, [rows, columns], [row, column])| {
        let at = |i: usize| element(name, row + i / columns, column + i % columns);
        (0..rows * columns).map(at).collect()
    });
    Part { words: words.collect(), graph, steps: AtomicUsize::new(0), panics_at }
}

fn programs(mapping: Mapping, culprit: Option<(u32, usize)>) -> Vec<Arc<dyn Program>> {
    let panics_at = |rank: Rank| match culprit {
        Some((number, step)) if number == rank.number => step,
        _ => usize::MAX,
    };
    mapping.ranks().map(|rank| Arc::new(part(rank, panics_at(rank))) as Arc<dyn Program>).collect()
}

fn load(mapping: Mapping, culprit: Option<(u32, usize)>) -> Result<Model, RuntimeError> {
    let programs = programs(mapping, culprit);
    let stamps = vec![1; programs.len()];
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    Model::prepare_in_process(programs, &testing::build(), &stamps, &options)
}

#[test]
fn however_many_ranks_the_logits_are_those_of_one() {
    let prompts = vec![vec![0, 5, 11, 3, 7, 2], vec![9; 100], vec![4]];
    let run = |mapping| {
        let mut model = load(mapping, None).expect("it loads");
        assert_eq!((model.vocabulary(), model.token_limit()), (17, 12));
        logits(&mut model, &prompts).expect("it runs")
    };
    let one = run(Mapping::new(1, 1));
    assert!(one.iter().flatten().any(|&x| x.abs() > 0.1));
    for (tp, pp) in [(2, 1), (1, 2), (2, 2), (3, 1), (3, 2), (6, 2)] {
        for (found, expected) in run(Mapping::new(tp, pp)).iter().zip(&one) {
            assert_eq!(found.len(), expected.len());
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5;
            assert!(found.iter().zip(expected).all(near), "tp {tp}, pp {pp}");
        }
    }
}

#[test]
fn a_rank_that_panics_ends_all_with_one_error_that_says_which() {
    for (culprit, tp, pp) in [(1, 2, 1), (0, 2, 1), (1, 1, 2), (3, 2, 2)] {
        let mapping = Mapping::new(tp, pp);
        let count = |program: &Arc<dyn Program>| program.graph().weights.len();
        let weights = count(&programs(mapping, None)[culprit as usize]);
        // While it loads, and in its second step.
        for step in [0, weights + weights / 2 + 1] {
            let run = || {
                let mut model = load(mapping, Some((culprit, step)))?;
                logits(&mut model, &[vec![3; 100]])
            };
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            match found {
                Err(_) => assert_eq!(culprit, 0, "the caller's own panic goes on"),
                Ok(found) => {
                    let error = found.expect_err("a rank failed").to_string();
                    let ranks = mapping.world_size();
                    assert!(error.contains(&format!("(rank {culprit} of {ranks})")), "{error}");
                }
            }
        }
    }
}

#[test]
fn engines_that_do_not_belong_together_are_refused() {
    let mapping = Mapping::new(2, 1);
    let options = LoadOptions::default();
    let build = testing::build();
    let load = |programs, stamps: &[u64]| {
        let found = Model::prepare_in_process(programs, &build, stamps, &options);
        found.err().expect("refused").to_string()
    };
    let error = load(programs(mapping, None), &[1, 2]);
    assert_eq!(error, "rank 1 has another model than rank 0");
    let one = programs(mapping, None).remove(0);
    assert_eq!(load(vec![one], &[1]), "the engine has 2 ranks, and there is 1 to run it");
    let mut swapped = programs(mapping, None);
    swapped.swap(0, 1);
    assert!(load(swapped, &[1, 1]).contains("was given the engine of rank"));
}

#[test]
fn what_is_wrong_on_every_rank_is_said_as_of_one() {
    let build = testing::build();
    let options = LoadOptions { max_batch_size: Some(0), ..LoadOptions::default() };
    let programs = programs(Mapping::new(2, 2), None);
    let error = Model::prepare_in_process(programs, &build, &[1; 4], &options);
    let error = error.err().expect("refused").to_string();
    assert_eq!(error, "--max_batch_size is 0: it must be at least 1");
}
