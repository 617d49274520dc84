//! What this machine has for stages to use.

use flow_pipeline::run::Capacity;
use fs_err as fs;

/// Cores (at most `threads`), memory and accelerators.
pub fn capacity(threads: Option<u32>, gpus: u32) -> Capacity {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Capacity { cores: threads.unwrap_or(cores).max(1), memory: memory().unwrap_or(u64::MAX), gpus }
}

/// Bytes of memory: what the kernel says, or the control group's limit where that is lower.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    Some(limit.map_or(total, |limit| limit.min(total)))
}
