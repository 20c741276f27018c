//! Who else runs this command: the processes that `mpirun` started beside this one.
//!
//! All of them are given the same command line. Rank 0 speaks for all; the others compute.

use crate::error::{self, Usage};
use crate::output;
use anyhow::Result;
use engraft_runtime::ranks::Communicator;
use std::env;

#[cfg(feature = "mpi")]
use engraft_runtime::ranks::mpi::World as Processes;

#[cfg(not(feature = "mpi"))]
use without_mpi::World as Processes;

/// What starters of processes tell each: its number, and how many there are.
const LAUNCHERS: [[&str; 2]; 3] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ["MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"],
];

/// This process's number and how many there are, where it was started as one of several. MPI has
/// not begun yet: this is what the environment says.
fn launched() -> Option<[u32; 2]> {
    let number = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    let found = LAUNCHERS.iter().find_map(|[rank, size]| Some([number(rank)?, number(size)?]));
    found.filter(|[_, size]| *size > 1)
}

/// Leaves speaking to rank 0, from the first word on.
pub fn be_quiet() {
    if launched().is_some_and(|[rank, _]| rank != 0) {
        output::silence();
    }
}

/// The processes that run this command: mostly one.
pub struct World {
    processes: Option<Processes>,
}

impl World {
    /// Alone.
    pub fn alone() -> World {
        World { processes: None }
    }

    /// Joins the others, where there are any; a command that is none for several is refused.
    pub fn join(command: &str, for_several: bool) -> Result<World> {
        let Some([_, size]) = launched() else { return Ok(World::alone()) };
        if !for_several {
            return Err(Usage::new(format!(
                "`engraft {command}` is one process, and {size} were started"
            ))
            .help("run it without mpirun")
            .into());
        }
        if cfg!(not(feature = "mpi")) {
            return Err(Usage::new(format!(
                "{size} processes were started, and this engraft was built without MPI"
            ))
            .help(
                "build it with `--features mpi`, for which Debian has openmpi-bin, libopenmpi-dev \
                 and libclang-dev; or run it without mpirun and with --ranks_in_process",
            )
            .into());
        }
        let processes = Processes::join(say);
        if processes.as_ref().is_some_and(|processes| processes.rank() != 0) {
            output::silence();
        }
        Ok(World { processes })
    }

    /// Whether this process writes what the command is for.
    pub fn speaks(&self) -> bool {
        self.processes.as_ref().is_none_or(|processes| processes.rank() == 0)
    }

    /// How many processes there are.
    pub fn size(&self) -> u32 {
        self.processes.as_ref().map_or(1, Processes::size)
    }

    /// The line to the others, of several processes.
    pub fn line(&self) -> Option<Box<dyn Communicator>> {
        self.processes.as_ref().map(Processes::line)
    }

    /// Ends well, once all others do.
    pub fn finish(self) {
        if let Some(processes) = self.processes {
            processes.finish();
        }
    }

    /// Says what went wrong, and ends all others; returns the exit code where there are none.
    pub fn fail(self, error: &anyhow::Error) -> u8 {
        let (mut text, code) = error::explained(error);
        let Some(processes) = self.processes else {
            say(&text);
            return code;
        };
        if processes.rank() != 0 && !text.is_empty() {
            let whose = format!(" (rank {} of {})", processes.rank(), processes.size());
            text.insert_str(text.find('\n').unwrap_or(text.len()), &whose);
        }
        processes.fail(code, &text)
    }
}

/// Nothing to say is no empty line.
fn say(text: &str) {
    if !text.is_empty() {
        error::to_stderr(text);
    }
}

/// What stands for MPI where it is not built in: there are never others.
#[cfg(not(feature = "mpi"))]
mod without_mpi {
    use engraft_runtime::ranks::Communicator;

    pub enum World {}

    impl World {
        pub fn join(_: fn(&str)) -> Option<World> {
            None
        }
        pub fn rank(&self) -> u32 {
            match *self {}
        }
        pub fn size(&self) -> u32 {
            match *self {}
        }
        pub fn line(&self) -> Box<dyn Communicator> {
            match *self {}
        }
        pub fn finish(self) {
            match self {}
        }
        pub fn fail(self, _: u8, _: &str) -> ! {
            match self {}
        }
    }
}
