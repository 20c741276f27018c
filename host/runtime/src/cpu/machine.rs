//! What the machine has: cores and free memory.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::thread::available_parallelism;

/// One thread for each physical core, as far as this process may use them: a second thread on a
/// core only competes for what a matrix product needs. Of the machine's cores, processes that
/// work together on it have a share each; `mpirun` may have bound them to theirs already.
pub(crate) fn default_threads(processes: usize) -> usize {
    let allowed = available_parallelism().map_or(1, usize::from);
    let info = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = physical_cores(&info).unwrap_or(allowed);
    (cores / processes.max(1)).min(allowed).max(1)
}

/// Distinct pairs of package and core.
fn physical_cores(info: &str) -> Option<usize> {
    let mut cores = BTreeSet::new();
    let mut package = "";
    for line in info.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        match key.trim() {
            "physical id" => package = value.trim(),
            "core id" => {
                cores.insert((package, value.trim()));
            }
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Bytes that can be had without swapping; as many as there can be where nobody says.
pub(crate) fn free_memory() -> u64 {
    let info = read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = available(&info).unwrap_or(isize::MAX as u64);
    machine.min(group_memory().unwrap_or(u64::MAX))
}

fn available(info: &str) -> Option<u64> {
    let line = info.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What the control group (a container) leaves.
fn group_memory() -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok()
    };
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_core_count_once() {
        let info = "processor : 0\nphysical id\t: 0\ncore id\t\t: 0\n\nprocessor : 1\n\
                    physical id\t: 0\ncore id\t\t: 0\n\nphysical id\t: 1\ncore id\t\t: 0\n";
        assert_eq!(physical_cores(info), Some(2));
        assert_eq!(physical_cores("processor : 0\n"), None);
        assert!(default_threads(1) >= 1);
        assert_eq!(default_threads(1 << 20), 1);
    }

    #[test]
    fn free_memory_is_read_in_kibibytes() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    3 kB\n"), Some(3072));
        assert_eq!(available(""), None);
        assert!(free_memory() > 0);
    }
}
