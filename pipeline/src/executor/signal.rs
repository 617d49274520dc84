//! How a process ended that a signal ended, in words.

use crate::error::StageError;

/// What a person can do where a process had too little memory.
pub const OUT_OF_MEMORY: &str = "lower what the stage takes, such as its batch, or say what it takes with `resources.memory`, so \
                                 that less runs beside it; what it had done is kept";

/// The failure of a process that this signal ended, the last lines of whose log are these. The numbers are Linux's.
pub fn failure(signal: i32, log_tail: &[String]) -> StageError {
    if let Some(line) = log_tail.iter().rev().find(|line| is_out_of_memory(line)) {
        let help = format!("it may take no more memory, as with `ulimit -v` or in a container: {OUT_OF_MEMORY}");
        return StageError::new(format!("its process ran out of memory: {}", line.trim())).with_help(help);
    }
    let (name, help) = match signal {
        4 => ("SIGILL", Some("this processor may lack an instruction that this build of flow uses")),
        6 => ("SIGABRT", Some("the last lines of its log say why")),
        7 => ("SIGBUS", Some("a file that it used was cut off, or its disk failed")),
        9 => {
            let help = format!("most often the machine ran out of memory (`dmesg` tells): {OUT_OF_MEMORY}");
            return StageError::new("its process was killed (signal 9)").with_help(help);
        }
        8 | 11 => (
            if signal == 8 { "SIGFPE" } else { "SIGSEGV" },
            Some("this is a defect of flow, or of the machine's memory"),
        ),
        24 => ("SIGXCPU", Some("it may take no more time of the processor: `ulimit -t` says how much")),
        25 => ("SIGXFSZ", Some("it may write no larger file: `ulimit -f` says how large")),
        1 => ("SIGHUP", None),
        2 => ("SIGINT", None),
        3 => ("SIGQUIT", None),
        13 => ("SIGPIPE", None),
        _ => return StageError::new(format!("its process ended by signal {signal}")),
    };
    let failure = StageError::new(format!("its process ended by signal {signal} ({name})"));
    StageError { help: help.map(str::to_owned), ..failure }
}

/// What Rust's allocator, and C++'s, print before they end the process.
fn is_out_of_memory(line: &str) -> bool {
    (line.contains("memory allocation of ") && line.contains(" bytes failed")) || line.contains("std::bad_alloc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_what_ran_out_of_memory_says_so() {
        let tail = ["step 3".to_owned(), "memory allocation of 1048576 bytes failed".to_owned()];
        let out = failure(6, &tail);
        assert_eq!(out.message, "its process ran out of memory: memory allocation of 1048576 bytes failed");
        assert!(out.help.unwrap().contains("`resources.memory`"));
        for (signal, name) in [(6, "SIGABRT"), (11, "SIGSEGV"), (25, "SIGXFSZ"), (7, "SIGBUS"), (4, "SIGILL")] {
            let failure = failure(signal, &tail[..1]);
            assert_eq!(failure.message, format!("its process ended by signal {signal} ({name})"));
            assert!(failure.help.is_some());
        }
        assert!(failure(9, &[]).help.unwrap().contains("`dmesg`"));
        assert_eq!(failure(64, &[]).message, "its process ended by signal 64");
    }
}
