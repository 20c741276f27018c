//! Streams parameters into the files of all ranks at once.
//!
//! ```text
//! provider ── parameter ──┬─ cut of rank 0 ──► rank0.safetensors, at its place
//!                         └─ cut of rank 1 ──► rank1.safetensors, at its place
//! ```
//! Every parameter is read once, by one of several workers, and each tensor goes to the place
//! that the file's layout gave it beforehand. So the bytes do not depend on how many workers
//! there are, or on which of them was faster; nor does the error that is reported, which is that
//! of the largest parameter that has one.

use crate::budget::{self, Queue};
use crate::deal::{Dealer, GATHERED};
use crate::{Cut, Provider, Share, Supply, WeightError};
use engraft_files::journal::Found;
use engraft_files::writer::{Declared, TensorWriter};
use engraft_files::{FileError, Journal, SafetensorsWriter, digest};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Finished tensors are made durable and noted in a journal once they are so many bytes: an
/// eighth of all, within these bounds.
const LEAST_BATCH: u64 = 4 << 20;
const MOST_BATCH: u64 = 256 << 20;

/// How hard to work, and whom to tell.
#[derive(Clone, Copy)]
pub struct Effort<'a> {
    /// Parameters at a time; as many as there are cores where nothing is said.
    pub workers: Option<NonZeroUsize>,
    /// The most memory that the process may take, in bytes. Where nothing is said, what streams
    /// hold is at most twice the largest output tensor and 64 MiB.
    pub max_ram: Option<u64>,
    /// Hears how many bytes of weights are written, and of how many.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Whether what is done outlives an interrupt.
    pub resume: Option<Resume<'a>>,
}

/// How to go on with what an interrupted run has done.
#[derive(Clone, Copy)]
pub struct Resume<'a> {
    /// What of the input is not written into the output all the same: when files were changed.
    pub inputs: &'a str,
    /// Hears, in a sentence, what becomes of an earlier run's work.
    pub say: &'a (dyn Fn(&str) + Sync),
}

impl Default for Effort<'_> {
    fn default() -> Self {
        Effort { workers: None, max_ram: None, progress: &|_, _| {}, resume: None }
    }
}

impl<'a> Effort<'a> {
    /// The same effort for these inputs ([`Resume::inputs`]).
    pub fn of(self, inputs: &'a str) -> Effort<'a> {
        let resume = self.resume.map(|resume| Resume { inputs, ..resume });
        Effort { resume, ..self }
    }

    /// The journal of an output in the making in `directory`, where work is to outlive an
    /// interrupt; `facts` are all that decides about the bytes beside the inputs, and `bytes` is
    /// about how many there will be.
    ///
    /// # Errors
    /// What the file system says.
    pub fn journal(
        &self,
        directory: &Path,
        facts: &[&str],
        bytes: u64,
    ) -> Result<Option<Journal>, FileError> {
        let Some(resume) = &self.resume else { return Ok(None) };
        let mut all = Vec::new();
        for fact in facts.iter().chain([&resume.inputs]) {
            all.extend((fact.len() as u64).to_le_bytes());
            all.extend(fact.as_bytes());
        }
        let batch = (bytes / 8).clamp(LEAST_BATCH, MOST_BATCH);
        let journal = Journal::open(directory, &digest::blake3_hex(&all), batch)?;
        match journal.found() {
            Found::Nothing | Found::Tensors(0) => {}
            Found::Tensors(count) => {
                (resume.say)(&format!("going on: {count} tensors are there from an earlier run"));
            }
            Found::Other => (resume.say)(
                "starting over: the earlier run that was interrupted had other inputs or flags",
            ),
        }
        Ok(Some(journal))
    }
}

/// A parameter and all the tensors that are made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name, as the provider has it.
    pub source: String,
    /// Where it goes.
    pub outlets: Vec<Outlet>,
}

/// A tensor of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// Which file.
    pub file: usize,
    /// Its name there.
    pub tensor: String,
    /// What of the parameter it is.
    pub cut: Cut,
}

/// The tensors of a rank's file, in the order of its shares.
///
/// # Errors
/// [`WeightError::Unknown`] for a source that the provider does not have.
pub fn layout(provider: &dyn Provider, shares: &[Share]) -> Result<Vec<Declared>, WeightError> {
    let declare = |share: &Share| {
        let supply = known(provider, &share.source)?;
        Ok((share.name.clone(), supply.dtype, share.cut.shape()))
    };
    shares.iter().map(declare).collect()
}

/// What is to be done for all ranks, file `i` being that of `ranks[i]`. What is tied is made of
/// the same stream as what it is tied to.
///
/// # Errors
/// [`WeightError::Unknown`] for a source that the provider does not have.
pub fn jobs(provider: &dyn Provider, ranks: &[&[Share]]) -> Result<Vec<Job>, WeightError> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, shares) in ranks.iter().enumerate() {
        for share in *shares {
            let supply = known(provider, &share.source)?;
            let source = supply.tied.as_deref().unwrap_or(&share.source);
            let number = *numbers.entry(source).or_insert_with(|| {
                jobs.push(Job { source: source.to_owned(), outlets: Vec::new() });
                jobs.len() - 1
            });
            let (tensor, cut) = (share.name.clone(), share.cut.clone());
            jobs[number].outlets.push(Outlet { file, tensor, cut });
        }
    }
    Ok(jobs)
}

fn known<'p>(provider: &'p dyn Provider, name: &str) -> Result<&'p Supply, WeightError> {
    let unknown = || WeightError::Unknown { parameter: name.to_owned() };
    provider.get(name).ok_or_else(unknown)
}

/// Bytes of a cut of a parameter.
fn bytes_of(supply: &Supply, cut: &Cut) -> u64 {
    cut.shape().iter().fold(supply.dtype.size() as u64, |n, &d| n.saturating_mul(d))
}

/// How many bytes the tensors of all jobs have.
pub fn total(provider: &dyn Provider, jobs: &[Job]) -> u64 {
    in_order(provider, jobs).map_or(0, |order| order.total)
}

/// Jobs as they are begun, and what they take.
struct Order<'a> {
    order: Vec<&'a Job>,
    /// What each of them holds at a time, in the same order.
    needs: Vec<(&'a str, u64)>,
    /// Bytes of the largest output tensor, and of all.
    largest: u64,
    total: u64,
}

fn in_order<'a>(provider: &dyn Provider, jobs: &'a [Job]) -> Result<Order<'a>, WeightError> {
    let mut order: Vec<(&Job, u64)> = Vec::with_capacity(jobs.len());
    let mut largest = 0;
    let mut total = 0u64;
    for job in jobs {
        let supply = known(provider, &job.source)?;
        for outlet in &job.outlets {
            let bytes = bytes_of(supply, &outlet.cut);
            largest = largest.max(bytes);
            total = total.saturating_add(bytes);
        }
        order.push((job, supply.bytes()));
    }
    // Large ones first: at the end no worker is left alone with one.
    order.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let needs = order.iter().map(|(job, bytes)| {
        let gathered = (*bytes).min(GATHERED as u64).saturating_mul(job.outlets.len() as u64);
        (job.source.as_str(), provider.held(&job.source).saturating_add(gathered))
    });
    let needs = needs.collect();
    Ok(Order { order: order.into_iter().map(|(job, _)| job).collect(), needs, largest, total })
}

fn workers(effort: &Effort<'_>, jobs: &[Job]) -> usize {
    let workers = effort.workers.or_else(|| std::thread::available_parallelism().ok());
    workers.map_or(1, NonZeroUsize::get).min(jobs.len()).max(1)
}

/// About how many bytes [`execute`] would hold of these at a time.
///
/// # Errors
/// [`WeightError::Memory`] where one parameter needs more than all that there is.
pub fn held(
    provider: &dyn Provider,
    jobs: &[Job],
    effort: &Effort<'_>,
) -> Result<u64, WeightError> {
    let Order { needs, largest, .. } = in_order(provider, jobs)?;
    let budget = budget::of(effort.max_ram, &needs, largest)?;
    let mut needs: Vec<u64> = needs.into_iter().map(|(_, need)| need).collect();
    needs.sort_unstable();
    let most = needs.iter().rev().take(workers(effort, jobs));
    Ok(most.fold(0u64, |sum, need| sum.saturating_add(*need)).min(budget))
}

/// Does all jobs; `files` have the layouts that the jobs speak of. Tensors that are done by a
/// `journal`, and whose bytes still say so, are kept.
///
/// # Errors
/// Before anything is written: [`WeightError::Memory`] where one parameter needs more than all
/// that there is. Then whatever the provider finds wrong, a full disk, an interrupt; a provider
/// that gives more or fewer bytes than it says is [`FileError::Misuse`].
pub fn execute(
    provider: &dyn Provider,
    jobs: &[Job],
    files: &[SafetensorsWriter],
    effort: &Effort<'_>,
    journal: Option<&Journal>,
) -> Result<(), WeightError> {
    let Order { order, needs, largest, total } = in_order(provider, jobs)?;
    let budget = budget::of(effort.max_ram, &needs, largest)?;
    let workers = workers(effort, jobs);

    let run = Run {
        provider,
        files,
        journal,
        progress: effort.progress,
        total,
        done: Mutex::new(0),
        failed: AtomicUsize::new(usize::MAX),
        error: Mutex::new(None),
    };
    (effort.progress)(0, total);
    let queue = Queue::new(&needs, budget);
    let work = || {
        while let Some(begun) = queue.begin() {
            if let Err(error) = run.job(begun.job, order[begun.job]) {
                queue.close();
                run.fail(begun.job, error);
            }
        }
    };
    if workers == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
    }
    let error = run.error.into_inner().unwrap_or_else(PoisonError::into_inner);
    match (error, journal) {
        (None, _) => Ok(()),
        (Some((_, WeightError::File(FileError::Interrupted))), Some(journal)) => {
            journal.flush(files)?;
            Err(FileError::Paused.into())
        }
        (Some((_, error)), _) => Err(error),
    }
}

/// What the workers share.
struct Run<'a> {
    provider: &'a dyn Provider,
    files: &'a [SafetensorsWriter],
    journal: Option<&'a Journal>,
    progress: &'a (dyn Fn(u64, u64) + Sync),
    total: u64,
    done: Mutex<u64>,
    /// The first job that failed; those after it stop, those before it may fail as well.
    failed: AtomicUsize,
    error: Mutex<Option<(usize, WeightError)>>,
}

impl Run<'_> {
    fn job(&self, number: usize, job: &Job) -> Result<(), WeightError> {
        let supply = known(self.provider, &job.source)?;
        let shape = supply.shape();
        let mut outlets = Vec::with_capacity(job.outlets.len());
        let mut missing = Vec::with_capacity(job.outlets.len());
        let mut bytes = 0;
        for outlet in &job.outlets {
            let file = &self.files[outlet.file];
            let own = bytes_of(supply, &outlet.cut);
            let digest = self.journal.and_then(|journal| journal.done(file, &outlet.tensor));
            if let Some(digest) = digest
                && file.keep(&outlet.tensor, digest)?
            {
                self.advance(own);
                continue;
            }
            bytes += own;
            missing.push((outlet.file, outlet.tensor.as_str()));
            let dealer = Dealer::new(&outlet.cut, &shape, supply.dtype.size()).map_err(|what| {
                let what = format!("`{}`: {what}", outlet.tensor);
                FileError::Misuse { path: file.path().to_owned(), what }
            })?;
            outlets.push((dealer, file.tensor(&outlet.tensor)?));
        }
        if outlets.is_empty() {
            return Ok(());
        }
        let mut past = 0;
        self.provider.stream(&job.source, &mut |bytes| {
            past += bytes.len() as u64;
            if self.failed.load(Ordering::Relaxed) < number {
                return Err(FileError::Interrupted);
            }
            for (dealer, tensor) in &mut outlets {
                dealer.take(bytes, &mut |bytes| self.write(tensor, bytes))?;
            }
            Ok(())
        })?;
        let expected = supply.bytes();
        if let Some((_, tensor)) = outlets.first().filter(|_| past != expected) {
            let what = format!("`{}` came with {past} bytes, not {expected}", job.source);
            return Err(FileError::Misuse { path: tensor.path().to_owned(), what }.into());
        }
        for (dealer, mut tensor) in outlets {
            dealer.finish(&mut |bytes| self.write(&mut tensor, bytes))?;
            tensor.finish()?;
        }
        if let Some(journal) = self.journal {
            journal.note(self.files, missing.into_iter(), bytes)?;
        }
        Ok(())
    }

    fn write(&self, tensor: &mut TensorWriter<'_>, bytes: &[u8]) -> Result<(), FileError> {
        if bytes.is_empty() {
            return Ok(());
        }
        tensor.write(bytes)?;
        self.advance(bytes.len() as u64);
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += bytes;
        (self.progress)(*done, self.total);
    }

    fn fail(&self, number: usize, error: WeightError) {
        self.failed.fetch_min(number, Ordering::Relaxed);
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(other, _)| number < *other) {
            *first = Some((number, error));
        }
    }
}

#[cfg(test)]
mod tests;
