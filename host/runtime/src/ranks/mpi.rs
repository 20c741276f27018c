//! Ranks as processes that `mpirun` started, over MPI. The only place that names the crate `mpi`.
//!
//! All is sent from one rank to another, and waiting is looking again and again: so rank 0, which
//! alone speaks, hears of it when another fails, says what that one has to say, and ends all. A
//! process that dies without a word is `mpirun`'s to notice, which ends the others too.

use super::Communicator;
use crate::error::RuntimeError;
use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::request::{multiple_scope, scope};
use mpi::topology::{Communicator as _, SimpleCommunicator};
use std::thread;
use std::time::{Duration, Instant};

/// What is sent while all is well.
const VALUES: i32 = 1;

/// A last word: a byte that is the exit code, then what to say.
const FAILURE: i32 = 2;

/// How often a rank looks before it lets other threads have the processor.
const LOOKS: usize = 500;

/// Looks at values between two looks for failures, while it is in no hurry.
const PATIENCE: usize = 64;

/// How long a rank that failed waits for rank 0 to say so; past that, it says so itself.
const LAST_WORD: Duration = Duration::from_secs(20);

/// Time for what was written last to reach the terminal, before all ends.
const FLUSH: Duration = Duration::from_millis(100);

/// How a text reaches a person.
pub type Speak = fn(&str);

/// All processes that `mpirun` started together. MPI ends when it is dropped, which waits for the
/// others.
pub struct World {
    universe: Universe,
    /// Ranks on this machine.
    neighbours: u32,
    speak: Speak,
}

impl World {
    /// Joins the others; `None` where this process has done so already.
    pub fn join(speak: Speak) -> Option<World> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Serialized)?;
        let world = universe.world();
        let neighbours = number(world.split_shared(world.rank()).size());
        Some(World { universe, neighbours, speak })
    }

    /// Which rank this is.
    pub fn rank(&self) -> u32 {
        number(self.universe.world().rank())
    }

    /// How many there are.
    pub fn size(&self) -> u32 {
        number(self.universe.world().size())
    }

    /// The line of this rank, for as long as the world is there.
    pub fn line(&self) -> Box<dyn Communicator> {
        let (rank, size) = (self.rank(), self.size());
        Box::new(Line { rank, size, neighbours: self.neighbours, speak: self.speak })
    }

    /// Waits until all ranks are done; where one fails after all, rank 0 says so.
    pub fn finish(self) {
        let mut line = self.line();
        let others = || (0..self.size()).filter(|&rank| rank != self.rank());
        let done = [0.0];
        let mut heard = vec![0.0; others().count()];
        let sends: Vec<(u32, &[f32])> = others().map(|to| (to, &done[..])).collect();
        let mut receives: Vec<(u32, &mut [f32])> = others().zip(heard.chunks_mut(1)).collect();
        // It has no errors: where a rank fails, all end.
        let _ = line.exchange(&sends, &mut receives);
    }

    /// Ends all ranks with an exit code, after rank 0 said why.
    pub fn fail(&self, code: u8, why: &str) -> ! {
        if self.rank() == 0 {
            (self.speak)(why);
            end(code);
        }
        let mut word = vec![code];
        word.extend_from_slice(why.as_bytes());
        let since = Instant::now();
        scope(|scope| {
            let world = self.universe.world();
            let first = world.process_at_rank(0);
            let mut request = Some(first.immediate_send_with_tag(scope, &word[..], FAILURE));
            // Rank 0 ends this process, soon.
            while since.elapsed() < LAST_WORD {
                request = request.and_then(|request| request.test().err());
                thread::sleep(Duration::from_millis(5));
            }
            (self.speak)(why);
            end(code)
        })
    }
}

/// Ends all processes.
fn end(code: u8) -> ! {
    thread::sleep(FLUSH);
    SimpleCommunicator::world().abort(i32::from(code))
}

fn number(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// One rank's end.
struct Line {
    rank: u32,
    size: u32,
    neighbours: u32,
    speak: Speak,
}

impl Line {
    /// Ends all where another rank failed.
    fn listen(&self) {
        if self.rank != 0 {
            return;
        }
        let world = SimpleCommunicator::world();
        let Some(word) = world.any_process().immediate_matched_probe_with_tag(FAILURE) else {
            return;
        };
        let (bytes, _) = word.matched_receive_vec::<u8>();
        let (code, why) = bytes.split_first().unwrap_or((&1, &[]));
        (self.speak)(&String::from_utf8_lossy(why));
        end(*code)
    }
}

impl Communicator for Line {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn neighbours(&self) -> u32 {
        self.neighbours
    }

    fn exchange(
        &mut self,
        sends: &[(u32, &[f32])],
        receives: &mut [(u32, &mut [f32])],
    ) -> Result<(), RuntimeError> {
        let world = SimpleCommunicator::world();
        multiple_scope(sends.len() + receives.len(), |scope, requests| {
            for (from, values) in receives {
                let from = world.process_at_rank(*from as i32);
                requests.add(from.immediate_receive_into_with_tag(scope, &mut **values, VALUES));
            }
            for (to, values) in sends {
                let to = world.process_at_rank(*to as i32);
                requests.add(to.immediate_send_with_tag(scope, *values, VALUES));
            }
            let mut looks = 0;
            while requests.incomplete() > 0 {
                if requests.test_any().is_some() {
                    continue;
                }
                looks += 1;
                if looks % PATIENCE == 0 {
                    self.listen();
                }
                if looks > LOOKS {
                    thread::yield_now();
                }
            }
        });
        Ok(())
    }
}
