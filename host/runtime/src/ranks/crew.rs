//! All ranks of a model in one process, as one device: a thread a rank, of which the caller's is
//! rank 0.

use super::Communicator;
use super::in_process::Exchange;
use crate::cpu::Cpu;
use crate::device::{Batch, Device, Program};
use crate::error::RuntimeError;
use crate::model::Settled;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// Makes a rank's device out of its program and its line to the others.
pub(crate) type Prepare = dyn Fn(Arc<dyn Program>, Box<dyn Communicator>) -> Result<(Cpu, Settled), RuntimeError>
    + Send
    + Sync;

/// All ranks.
pub(crate) struct Crew {
    own: Cpu,
    others: Vec<Other>,
    exchange: Arc<Exchange>,
}

/// A rank on a thread of its own. Its first report is that it is prepared, then there is one for
/// each order.
struct Other {
    orders: Option<Sender<Arc<Batch>>>,
    reports: Receiver<Result<(), RuntimeError>>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the other ranks where one of them panics.
struct Alarm<'a> {
    exchange: &'a Exchange,
    rank: u32,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.exchange.fail(self.rank);
        }
    }
}

/// Does a rank's work; where it fails, the others are told.
fn watched<T>(
    exchange: &Exchange,
    rank: u32,
    work: impl FnOnce() -> Result<T, RuntimeError>,
) -> Result<T, RuntimeError> {
    let _alarm = Alarm { exchange, rank };
    work().inspect_err(|_| exchange.fail(rank))
}

impl Crew {
    /// Starts all ranks, the programs being theirs in order.
    ///
    /// # Errors
    /// That of the first rank that could not be prepared.
    pub(crate) fn start(
        programs: Vec<Arc<dyn Program>>,
        prepare: Arc<Prepare>,
    ) -> Result<(Crew, Settled), RuntimeError> {
        let exchange = Exchange::new(programs.len() as u32);
        let mut programs = programs.into_iter();
        let Some(first) = programs.next() else {
            return Err(RuntimeError::RankCount { engine: 0, running: 1 });
        };
        let mut others = Others { crew: Vec::new(), exchange: exchange.clone() };
        for (program, rank) in programs.zip(1..) {
            others.crew.push(Other::start(program, rank, &exchange, &prepare)?);
        }
        let own = watched(&exchange, 0, || prepare(first, exchange.line(0)));
        let (own, settled) = first_cause(own, &others.crew)?;
        let crew = std::mem::take(&mut others.crew);
        Ok((Crew { own, others: crew, exchange }, settled))
    }
}

/// Ranks that end where the rest cannot be started.
struct Others {
    crew: Vec<Other>,
    exchange: Arc<Exchange>,
}

impl Drop for Others {
    fn drop(&mut self) {
        end(&mut self.crew, &self.exchange);
    }
}

/// Ends ranks, whatever they wait for.
fn end(others: &mut Vec<Other>, exchange: &Exchange) {
    if others.is_empty() {
        return;
    }
    exchange.close();
    others.iter_mut().for_each(|other| other.orders = None);
    for thread in others.drain(..).filter_map(|other| other.thread) {
        // A panic has told its story and was reported where it mattered.
        let _ = thread.join();
    }
}

impl Other {
    fn start(
        program: Arc<dyn Program>,
        rank: u32,
        exchange: &Arc<Exchange>,
        prepare: &Arc<Prepare>,
    ) -> Result<Other, RuntimeError> {
        let (orders, to_do) = channel::<Arc<Batch>>();
        let (done, reports) = channel();
        let (exchange, prepare) = (exchange.clone(), prepare.clone());
        let work = move || {
            let prepared = watched(&exchange, rank, || prepare(program, exchange.line(rank)));
            let mut device = match prepared {
                Ok((device, _)) => device,
                Err(e) => return drop(done.send(Err(e))),
            };
            let mut report = Ok(());
            // Nobody listens any more where the model is gone.
            while done.send(report).is_ok() {
                let Ok(batch) = to_do.recv() else { return };
                report = watched(&exchange, rank, || device.run(&batch));
            }
        };
        let thread = thread::Builder::new()
            .name(format!("rank-{rank}"))
            .spawn(work)
            .map_err(|e| RuntimeError::NoThreads { threads: 1, reason: e.to_string() })?;
        Ok(Other { orders: Some(orders), reports, thread: Some(thread) })
    }

    /// What it says next; where it has ended, it panicked.
    fn report(&self, rank: u32) -> Result<(), RuntimeError> {
        self.reports.recv().unwrap_or_else(|_| {
            Err(RuntimeError::Bug { reason: format!("rank {rank} ended without a word") })
        })
    }
}

/// What rank 0 made, unless a rank failed: then the error of the first that failed by itself.
fn first_cause<T>(own: Result<T, RuntimeError>, others: &[Other]) -> Result<T, RuntimeError> {
    let ranks = others.len() as u32 + 1;
    let reports = others.iter().zip(1..).map(|(other, rank)| (rank, other.report(rank).err()));
    let reports: Vec<(u32, RuntimeError)> =
        reports.filter_map(|(rank, error)| Some((rank, error?))).collect();
    let (own, mut errors) = match own {
        Ok(own) if reports.is_empty() => return Ok(own),
        Ok(_) => (None, reports),
        Err(e) => (Some(e), reports),
    };
    if let Some(e) = own {
        errors.insert(0, (0, e));
    }
    let by_itself = |(_, e): &(u32, RuntimeError)| !matches!(e, RuntimeError::RankFailed { .. });
    let first = errors.iter().position(by_itself).unwrap_or(0);
    let everywhere = errors.iter().filter(|error| by_itself(error)).count() == ranks as usize;
    let (rank, error) = errors.swap_remove(first);
    match everywhere {
        true => Err(error),
        false => Err(RuntimeError::OfRank { rank, ranks, error: Box::new(error) }),
    }
}

impl Device for Crew {
    fn step(&mut self, batch: &Batch) -> Result<&[f32], RuntimeError> {
        let order = Arc::new(batch.clone());
        for orders in self.others.iter().filter_map(|other| other.orders.as_ref()) {
            // Where it has ended, its report will be missing.
            let _ = orders.send(order.clone());
        }
        let own = watched(&self.exchange, 0, || self.own.run(batch));
        first_cause(own, &self.others)?;
        Ok(self.own.logits(batch))
    }

    fn interrupted(&mut self) -> Result<bool, RuntimeError> {
        Ok(engraft_files::interrupt::requested())
    }

    fn describe(&self) -> String {
        format!("{} ranks in this process, each {}", self.others.len() + 1, self.own.describe())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        end(&mut self.others, &self.exchange);
    }
}
