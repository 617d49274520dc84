//! Named places at which a test ends, holds or fails this process: before and after every step that another process sees.
//!
//! Without the feature `suite` (or `cfg(test)`) each is nothing. With it the environment says what happens:
//!
//! ```text
//! FLOW_FAILPOINT=records.create#2=kill     the second time that this process is there, SIGKILL
//! FLOW_FAILPOINT=*#17=full                 the 17th place, whichever it is, fails as on a full disk
//! FLOW_FAILPOINT=work.remove=stall         the first time, never goes on
//! FLOW_FAILPOINT_MARK=FILE                 only the process that makes this file does it, so that it happens once in a tree
//! FLOW_FAILPOINT_TRACE=FILE                every place is appended as a line `NAME PROCESS`
//! ```

use std::{io, path::Path};

/// A place. On a full disk, as a test has it, this is an error.
#[inline]
pub fn at(name: &str) -> io::Result<()> {
    reached(|| name.to_owned())
}

/// A place that is named by the file that is worked on, without its ending, and by what is done: `job.rename`.
#[inline]
pub fn on_file(file: &Path, step: &str) -> io::Result<()> {
    reached(|| format!("{}.{step}", file.file_stem().unwrap_or_default().to_string_lossy()))
}

/// A place that is named by the folder of the store that is worked on: `records.create`.
#[inline]
pub(crate) fn on_object(path: &object_store::path::Path, step: &str) -> io::Result<()> {
    reached(|| {
        let folder = path.parts().nth(1).map(|part| part.as_ref().to_owned()).unwrap_or_default();
        format!("{folder}.{step}")
    })
}

#[cfg(not(any(test, feature = "suite")))]
#[inline]
#[expect(clippy::unnecessary_wraps, reason = "in a build for tests it may fail")]
fn reached(_: impl FnOnce() -> String) -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "suite"))]
fn reached(name: impl FnOnce() -> String) -> io::Result<()> {
    use std::sync::OnceLock;
    static ORDERS: OnceLock<Option<armed::Orders>> = OnceLock::new();
    match ORDERS.get_or_init(armed::Orders::from_environment) {
        Some(orders) => orders.reached(&name()),
        None => Ok(()),
    }
}

#[cfg(any(test, feature = "suite"))]
mod armed {
    use std::{
        env, io,
        io::Write,
        sync::atomic::{AtomicU64, Ordering},
    };

    use fs_err as fs;

    #[derive(Debug, PartialEq)]
    enum Action {
        Kill,
        Stall,
        Full,
    }

    /// What the environment asks for.
    #[derive(Debug)]
    pub(super) struct Orders {
        /// `None` for every name.
        name: Option<String>,
        at: u64,
        /// `None` where places are only traced.
        action: Option<Action>,
        mark: Option<String>,
        trace: Option<String>,
        seen: AtomicU64,
    }

    impl Orders {
        pub(super) fn from_environment() -> Option<Self> {
            let order = env::var("FLOW_FAILPOINT").ok();
            let trace = env::var("FLOW_FAILPOINT_TRACE").ok();
            if order.is_none() && trace.is_none() {
                return None;
            }
            let mark = env::var("FLOW_FAILPOINT_MARK").ok();
            Some(Self { mark, trace, ..Self::read(order.as_deref().unwrap_or("")) })
        }

        /// What cannot be read is no order: a test that gives one notices that nothing happened.
        pub(super) fn read(text: &str) -> Self {
            let (place, action) = text.rsplit_once('=').unwrap_or((text, ""));
            let (name, at) = place.split_once('#').unwrap_or((place, "1"));
            let action = match action {
                "kill" => Some(Action::Kill),
                "stall" => Some(Action::Stall),
                "full" => Some(Action::Full),
                _ => None,
            };
            Self {
                name: (name != "*").then(|| name.to_owned()),
                at: at.parse().unwrap_or(1),
                action,
                mark: None,
                trace: None,
                seen: AtomicU64::new(0),
            }
        }

        pub(super) fn reached(&self, name: &str) -> io::Result<()> {
            if let Some(trace) = &self.trace {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(trace)?;
                file.write_all(format!("{name} {}\n", std::process::id()).as_bytes())?;
            }
            let Some(action) = &self.action else { return Ok(()) };
            if self.name.as_deref().is_some_and(|wanted| wanted != name) {
                return Ok(());
            }
            let first = || self.mark.as_ref().is_none_or(|mark| fs::File::create_new(mark).is_ok());
            if self.seen.fetch_add(1, Ordering::SeqCst) + 1 != self.at || !first() {
                return Ok(());
            }
            match action {
                Action::Full => Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
                Action::Kill => {
                    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                    std::process::abort()
                }
                Action::Stall => loop {
                    std::thread::park();
                },
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_order_is_carried_out_at_its_place_and_once() {
            let orders = Orders::read("blobs.rename#2=full");
            orders.reached("blobs.rename").unwrap();
            orders.reached("blobs.stage").unwrap();
            assert_eq!(orders.reached("blobs.rename").unwrap_err().kind(), io::ErrorKind::StorageFull);
            orders.reached("blobs.rename").unwrap();
            let orders = Orders::read("*#2=full");
            orders.reached("a").unwrap();
            orders.reached("b").unwrap_err();
            Orders::read("").reached("a").unwrap();
        }

        #[test]
        fn of_several_processes_the_one_that_makes_the_mark_does_it() {
            let dir = tempfile::tempdir().unwrap();
            let mark = Some(dir.path().join("mark").display().to_string());
            let order = || Orders { mark: mark.clone(), ..Orders::read("a=full") };
            order().reached("a").unwrap_err();
            order().reached("a").unwrap();
        }
    }
}
