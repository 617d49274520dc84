//! The append-only log of a run: one JSON event a line, flushed line by line, so that a killed run loses at most the line
//! that was being written.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use flow_cache::{failpoint, plain};
use fs_err as fs;

use super::Stamped;
use crate::error::{Error, Result};

/// Writes a run's events.
#[derive(Debug)]
pub struct EventLog {
    file: fs::File,
    /// Bytes of the whole lines in it.
    length: u64,
    /// Lines that could not be written yet.
    behind: Vec<u8>,
}

impl EventLog {
    /// Opens the log for appending.
    pub fn append_to(path: &Path) -> Result<Self> {
        let file = plain::append(path).map_err(Error::io("open the run's event log"))?;
        let length = file.metadata().map_err(Error::io("open the run's event log"))?.len();
        Ok(Self { file, length, behind: Vec::new() })
    }

    /// Whether some events are not in the file.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Writes one event as one write, so that readers never see half a line that later gets longer. An event that cannot be
    /// written, as on a full disk, is kept and written before the next one.
    pub fn write(&mut self, event: &Stamped) -> Result<()> {
        self.write_all(std::slice::from_ref(event))
    }

    /// Writes events that are known at once as one write.
    pub fn write_all(&mut self, events: &[Stamped]) -> Result<()> {
        let may_be_torn = self.is_behind();
        for event in events {
            serde_json::to_writer(&mut self.behind, event).map_err(|source| Error::Format {
                what: "event",
                path: self.file.path().to_path_buf(),
                source,
            })?;
            self.behind.push(b'\n');
        }
        let mut write = || {
            failpoint::at("event.write")?;
            if may_be_torn {
                self.file.set_len(self.length)?;
            }
            self.file.write_all(&self.behind)?;
            failpoint::at("event.written")
        };
        write().map_err(|source| Error::EventLog { path: self.file.path().to_path_buf(), source })?;
        self.length += self.behind.len() as u64;
        self.behind.clear();
        Ok(())
    }
}

/// Reads a log from its start. A last line without its end, as a killed run leaves it, is passed over.
pub fn read(path: &Path) -> Result<Vec<Stamped>> {
    let mut events = Vec::new();
    each_line(path, |event| {
        events.push(event.map_err(|source| Error::Format {
            what: "log of events",
            path: PathBuf::from(path),
            source,
        })?);
        Ok(())
    })?;
    Ok(events)
}

/// What can be read of a log that may be damaged: every line that is an event.
pub fn salvage(path: &Path) -> Result<Vec<Stamped>> {
    let mut events = Vec::new();
    each_line(path, |event| {
        events.extend(event);
        Ok(())
    })?;
    Ok(events)
}

/// Gives `each` every line that has its end. A damaged byte may be no UTF-8 either, which is the parser's to say.
fn each_line(path: &Path, mut each: impl FnMut(Result<Stamped, serde_json::Error>) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(plain::open(path).map_err(Error::io("open a run's event log"))?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(Error::io("read a run's event log"))?;
        if read == 0 || !line.ends_with(b"\n") {
            return Ok(());
        }
        each(serde_json::from_slice(&line))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Outcome};

    #[test]
    fn a_torn_last_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let event = Stamped {
            time: "2026-01-01T00:00:00Z".into(),
            what: Event::RunFinished { outcome: Outcome::Done, seconds: 1.5 },
        };
        let mut log = EventLog::append_to(&path).unwrap();
        log.write(&event).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(br#"{"time":"20"#).unwrap();
        assert_eq!(read(&path).unwrap(), [event]);
    }

    #[test]
    fn a_damaged_line_is_told_and_hides_no_other_from_who_salvages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let event = |seconds| Stamped {
            time: "2026-01-01T00:00:00Z".into(),
            what: Event::RunFinished { outcome: Outcome::Done, seconds },
        };
        let mut log = EventLog::append_to(&path).unwrap();
        for seconds in [1.0, 2.0, 3.0] {
            log.write(&event(seconds)).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for damage in [0xff, b'x'] {
            let mut bytes = whole.clone();
            bytes[whole.len() / 2] = damage;
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::Format { .. }) && error.to_string().contains("events.jsonl"), "{error}");
            assert_eq!(salvage(&path).unwrap(), [event(1.0), event(3.0)]);
        }
    }

    #[test]
    fn the_format_of_a_line_does_not_drift() {
        for line in [
            r#"{"time":"2026-01-01T00:00:00Z","what":{"event":"stage-skipped","stage":"merge","because":"expert[c]"}}"#,
            r#"{"time":"2026-01-01T00:00:00Z","what":{"event":"stage-retrying","stage":"a","attempt":2,"of":3,"wait":0.5,"error":{"message":"no","help":null,"cancelled":false}}}"#,
        ] {
            let event: Stamped = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
    }
}
