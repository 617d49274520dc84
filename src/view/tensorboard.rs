//! A run's metrics for `TensorBoard`: `tensorboard --logdir .flow/runs/RUN/tensorboard`, while it runs or afterwards.
//!
//! ```text
//!   file    = record*                       tensorboard/STAGE/events.out.tfevents.RUN
//!   record  = length u64 · crc(length) u32 · event · crc(event) u32        little-endian; CRC-32C, masked
//!   event   = wall_time 1: double, step 2: int64, file_version 3: string | summary 5     protobuf, tensorflow/event.proto
//!   summary = (value 1: tag 1: string, simple_value 2: float)*
//! ```

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use flow_pipeline::{
    event::{Event, Stamped},
    names::StageId,
};
use fs_err as fs;
use serde_json::Value;

const FOLDER: &str = "tensorboard";
const VERSION: &str = "brain.Event:2";

/// Writes what stages measure. A disk that is full costs the curves, not the run.
pub struct TensorBoard {
    folder: PathBuf,
    run: String,
    files: BTreeMap<StageId, Option<fs::File>>,
}

impl TensorBoard {
    /// Below a run's folder, `run` being its name.
    pub fn new(folder: &Path, run: &str) -> Self {
        Self { folder: folder.join(FOLDER), run: run.to_owned(), files: BTreeMap::new() }
    }

    /// Takes one event in.
    pub fn see(&mut self, event: &Stamped) {
        let Event::StageMetrics { stage, metrics } = &event.what else { return };
        let Some(step) = metrics.get("step").and_then(Value::as_u64) else { return };
        let time: Result<jiff::Timestamp, _> = event.time.parse();
        let seconds = time.map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0);
        let (folder, run) = (&self.folder, &self.run);
        let file = self.files.entry(stage.clone()).or_insert_with(|| {
            let opened = open(&folder.join(stage.label()), run, seconds);
            opened.inspect_err(|error| tracing::warn!(%error, %stage, "no curves for TensorBoard")).ok()
        });
        let written = file.as_mut().map(|file| file.write_all(&record(&scalars(seconds, step, metrics))));
        if let Some(Err(error)) = written {
            tracing::warn!(%error, %stage, "no more curves for TensorBoard");
            *file = None;
        }
    }
}

fn open(folder: &Path, run: &str, seconds: f64) -> std::io::Result<fs::File> {
    fs::create_dir_all(folder)?;
    let mut file = fs::File::create(folder.join(format!("events.out.tfevents.{run}")))?;
    let mut version = wall_time(seconds);
    bytes(&mut version, 3, VERSION.as_bytes());
    file.write_all(&record(&version))?;
    Ok(file)
}

/// The event of one step: every number among the metrics.
fn scalars(seconds: f64, step: u64, metrics: &Value) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in metrics.as_object().into_iter().flatten() {
        if name == "step" {
            continue;
        }
        let Some(number) = value.as_f64() else { continue };
        let mut entry = Vec::new();
        bytes(&mut entry, 1, name.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((number as f32).to_le_bytes());
        bytes(&mut summary, 1, &entry);
    }
    let mut event = wall_time(seconds);
    event.push(2 << 3);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    event
}

fn wall_time(seconds: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds.to_le_bytes());
    event
}

/// A field with a length: text, or a message.
fn bytes(into: &mut Vec<u8>, field: u8, value: &[u8]) {
    into.push(field << 3 | 2);
    varint(into, value.len() as u64);
    into.extend(value);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted as the format wants it.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_framed_with_its_checksums() {
        let mut version = wall_time(1.0);
        bytes(&mut version, 3, VERSION.as_bytes());
        let record = record(&version);
        assert_eq!(record[..8], 24u64.to_le_bytes());
        assert_eq!(record.len(), 8 + 4 + 24 + 4);
        assert_eq!(record[12..21], [0x09, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F]);
        assert_eq!(&record[23..36], VERSION.as_bytes());
        // CRC-32C of "123456789" is E3069283 (RFC 3720's polynomial; the check value of the catalogue).
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn numbers_become_scalars_and_the_rest_is_left() {
        let event = scalars(0.0, 300, &json!({ "step": 300, "loss": 1.5, "note": "x" }));
        let loss = [0x0A, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0xC0, 0x3F];
        let mut want = vec![0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0xAC, 0x02, 0x2A, 13, 0x0A, 11];
        want.extend(loss);
        assert_eq!(event, want);
    }
}
