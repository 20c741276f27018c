//! The thread that a session's calls run on.
//!
//! A guest's stack is the host's, and one that is too small would end the process and not the
//! guest: so guests run on threads of ours, whose stacks have a known size. A session keeps its
//! thread, for what a call takes is less than what starting one does.

use crate::Limits;
use crate::error::Problem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does one thing after another, and ends with this.
#[derive(Debug)]
pub(crate) struct Thread {
    jobs: Option<Sender<Job>>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts one, with the stack that guests are given.
    ///
    /// # Errors
    /// [`Problem::NoThread`]
    pub(crate) fn start(limits: &Limits) -> Result<Thread, Problem> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let handle = Builder::new()
            .name("plugin".into())
            .stack_size(limits.host_stack)
            .spawn(move || waiting.into_iter().for_each(|job| job()))
            .map_err(|e| Problem::NoThread(e.to_string()))?;
        Ok(Thread { jobs: Some(jobs), handle: Some(handle) })
    }

    /// Does something there and waits for it. What panics there panics here.
    ///
    /// # Errors
    /// [`Problem::NoThread`]
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let ended = |_| Problem::NoThread("it has ended".into());
        let (answer, answered) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // Whoever asked waits for it.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(work)));
        });
        let jobs = self.jobs.as_ref().ok_or_else(|| ended(mpsc::RecvError))?;
        jobs.send(job).map_err(|_| ended(mpsc::RecvError))?;
        answered.recv().map_err(ended)?.or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(handle) = self.handle.take() {
            // No job's panic ends it.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_one_thread_whose_panics_are_ours() {
        let thread = Thread::start(&Limits::default()).expect("a thread");
        let id = || std::thread::current().id();
        let first = thread.run(id).expect("runs");
        assert_ne!(first, id());
        let panic = catch_unwind(AssertUnwindSafe(|| thread.run(|| panic!("as it should"))));
        assert!(panic.is_err());
        assert_eq!(thread.run(id).expect("still there"), first);
    }
}
