//! From a component's bytes to code, within bounds of time and memory.
//!
//! What it will cost is bounded before it begins ([`crate::bulk`]). It then runs on a thread of
//! its own, which is waited for no longer than [`Limits::compile_time`], and only while this
//! process has not grown by more than [`Limits::compile_memory`]. A compilation cannot be stopped
//! from outside; one that is given up ends by itself, since what it works on is bounded.

use crate::Limits;
use crate::error::Problem;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, OptLevel};

/// How often memory is looked at.
const WATCH: Duration = Duration::from_millis(10);

/// wasmtime, narrowed to what a plugin is: one thread, counted instructions, the same everywhere.
pub(crate) fn engine(limits: &Limits) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config.consume_fuel(true);
    // What the specification leaves open about floats must not reach a graph.
    config.cranelift_nan_canonicalization(true).wasm_relaxed_simd(false);
    config.concurrency_support(false);
    config.max_wasm_stack(limits.guest_stack);
    // What a plugin does takes milliseconds: compiling it is what costs, so that is made short. A
    // memory has the address space that makes checks of its bounds needless (the page tables do
    // them), for they are a third of the code.
    config.cranelift_opt_level(OptLevel::None);
    // Debuggers want these; what we say of a trap has the functions' names without them.
    config.generate_address_map(false).native_unwind_info(false);
    Engine::new(&config)
}

/// Compiles a component whose bulk has been checked.
pub(crate) fn compile(
    engine: &Engine,
    bytes: &[u8],
    limits: &Limits,
) -> Result<wasmtime::Result<Component>, Problem> {
    let (send, receive) = mpsc::channel();
    let (engine, bytes) = (engine.clone(), bytes.to_vec());
    let before = anonymous_memory();
    let started = Instant::now();
    std::thread::Builder::new()
        .name("plugin-compile".into())
        .stack_size(limits.host_stack)
        .spawn(move || {
            // Nobody listens any more where this took too long.
            let _ = send.send(Component::new(&engine, bytes));
        })
        .map_err(|e| Problem::NoThread(e.to_string()))?;
    loop {
        let left = limits.compile_time.saturating_sub(started.elapsed());
        match receive.recv_timeout(left.min(WATCH)) {
            Ok(component) => return Ok(component),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Problem::Invalid("the compiler gave up on it".into()));
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                return Err(Problem::SlowToCompile(limits.compile_time.as_secs()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let grown =
            anonymous_memory().zip(before).map_or(0, |(now, then)| now.saturating_sub(then));
        if grown > limits.compile_memory {
            return Err(Problem::LargeToCompile(limits.compile_memory));
        }
    }
}

/// Bytes of this process's memory that no file backs; none where the system does not say.
fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1024)
}
