//! The writing side: announced first, then streamed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::{Dtype, Spec, View};
use crate::error::{Error, Result};
use crate::json::temporary_name;
use crate::weights::{CHUNK, Weight};

/// Writes one file under another name and gives it its own at the end.
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    file: fs_err::File,
    flusher: Option<Flusher>,
    /// Bytes since the flusher was last told.
    unflushed: u64,
    /// What is still to come, last one first.
    due: Vec<(String, Spec)>,
    finished: bool,
}

/// Bytes that are written before the disk is set to work on them.
const FLUSH: u64 = 128 << 20;

/// Brings a file to the disk while more of it is written: else the disk would have nothing to do until the end, and then everything.
struct Flusher {
    due: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(file: &fs_err::File) -> std::io::Result<Self> {
        let file = file.try_clone()?;
        let (due, asked) = sync_channel::<()>(1);
        let work = move || {
            // A failure will show again when the file is synchronised at its end.
            while asked.recv().is_ok() && file.sync_data().is_ok() {}
        };
        let thread = std::thread::Builder::new().name("flush".to_owned()).spawn(work)?;
        Ok(Self { due: Some(due), thread: Some(thread) })
    }

    /// Asks for what was written so far, unless it is asked for already.
    fn ask(&self) {
        if let Some(due) = &self.due {
            let _ = due.try_send(());
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.due = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Begins a file of these tensors: writes its header.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::WriterMisused`] for a shape whose size overflows.
    pub fn create(path: &Path, tensors: &BTreeMap<String, Spec>) -> Result<Self> {
        let mut due: Vec<(String, Spec)> = tensors.iter().map(|(name, spec)| (name.clone(), spec.clone())).collect();
        // Wide elements first, so that each tensor is aligned to its own element in a file of mixed types.
        due.sort_by(|(a, x), (b, y)| y.dtype.bytes().cmp(&x.dtype.bytes()).then_with(|| a.cmp(b)));
        let misused = |reason: String| Error::WriterMisused { path: path.to_owned(), reason };

        let mut header: BTreeMap<&str, Value> = BTreeMap::from([("__metadata__", json!({ "format": "pt" }))]);
        let mut offset = 0_u64;
        for (name, spec) in &due {
            let end = spec.bytes().and_then(|bytes| offset.checked_add(bytes));
            let end = end.ok_or_else(|| misused(format!("the size of `{name}` overflows")))?;
            // Inserted in sorted order, so it does not matter whether a build's maps sort or keep the order.
            let mut entry = Map::new();
            entry.insert("data_offsets".into(), json!([offset, end]));
            entry.insert("dtype".into(), json!(spec.dtype.name()));
            entry.insert("shape".into(), json!(spec.shape));
            header.insert(name, Value::Object(entry));
            offset = end;
        }
        let mut header = serde_json::to_vec(&header).map_err(|error| misused(error.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');

        due.reverse();
        let temporary = temporary_name(path);
        let file = fs_err::File::create(&temporary)?;
        let path = path.to_owned();
        let mut writer = Self { path, temporary, file, flusher: None, unflushed: 0, due, finished: false };
        writer.file.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.file.write_all(&header)?;
        Ok(writer)
    }

    /// The tensor that has to come next.
    pub fn next(&self) -> Option<(&str, &Spec)> {
        self.due.last().map(|(name, spec)| (name.as_str(), spec))
    }

    /// Writes the next tensor, which must be `name`, by what `fill` puts into the sink.
    ///
    /// # Errors
    /// Those of `fill`; [`Error::WriterMisused`] for another name, or for more or fewer bytes than announced.
    pub fn tensor(&mut self, name: &str, fill: impl FnOnce(&mut Sink<'_>) -> Result<()>) -> Result<()> {
        let due = self.due.pop();
        let Some((_, spec)) = due.filter(|(next, _)| next == name) else {
            return Err(self.misused(format!("tensor `{name}` is not the one that is due")));
        };
        let left = spec.bytes().unwrap_or_default();
        let mut sink = Sink { file: &mut self.file, dtype: spec.dtype, left, overrun: false, buffer: vec![] };
        fill(&mut sink)?;
        if sink.overrun {
            return Err(self.misused(format!("tensor `{name}` got more bytes than its shape has")));
        }
        if sink.left > 0 {
            let left = sink.left;
            return Err(self.misused(format!("{left} bytes of tensor `{name}` did not come")));
        }
        self.unflushed += left;
        if self.unflushed >= FLUSH {
            self.unflushed = 0;
            if self.flusher.is_none() {
                self.flusher = Some(Flusher::start(&self.file)?);
            }
            self.flusher.as_ref().inspect(|flusher| flusher.ask());
        }
        Ok(())
    }

    /// Ends the file: everything on the disk, then its name.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::WriterMisused`] where tensors did not come.
    pub fn finish(mut self) -> Result<()> {
        if let Some((name, _)) = self.due.last() {
            return Err(self.misused(format!("tensor `{name}` did not come")));
        }
        drop(self.flusher.take());
        self.file.sync_all()?;
        fs_err::rename(&self.temporary, &self.path)?;
        self.finished = true;
        Ok(())
    }

    fn misused(&self, reason: String) -> Error {
        Error::WriterMisused { path: self.path.clone(), reason }
    }
}

impl Drop for Writer {
    /// An unfinished file helps nobody.
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs_err::remove_file(&self.temporary);
        }
    }
}

/// Takes the bytes of one tensor.
pub struct Sink<'a> {
    file: &'a mut fs_err::File,
    dtype: Dtype,
    left: u64,
    overrun: bool,
    buffer: Vec<u8>,
}

impl Sink<'_> {
    /// The next elements' bytes, as they are.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.overrun = true;
            return Ok(());
        };
        self.left = left;
        self.file.write_all(bytes)?;
        Ok(())
    }

    /// The next elements, rounded to the tensor's type.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn values(&mut self, values: &[f32]) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for chunk in values.chunks(CHUNK) {
            buffer.clear();
            self.dtype.encode(chunk, &mut buffer);
            self.bytes(&buffer)?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// A whole tensor of another file: its bytes where the types are equal, else its elements, rounded.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn copy(&mut self, view: View<'_>) -> Result<()> {
        let from = view.spec().dtype;
        let length = view.bytes().len() as u64;
        // The system need not show us what we do not change.
        if from == self.dtype && length <= self.left && view.send(self.file)? {
            self.left -= length;
            return Ok(());
        }
        let mut values = Vec::new();
        view.pieces(|_, piece| {
            if from == self.dtype {
                return self.bytes(piece);
            }
            values.clear();
            from.decode(piece, &mut values);
            self.values(&values)
        })
    }
}

/// Writes tensors to a file, in memory as a whole.
///
/// # Errors
/// [`Error::Io`].
pub fn save<'a>(path: &Path, dtype: Dtype, weights: impl IntoIterator<Item = (&'a str, &'a Weight)>) -> Result<()> {
    let weights: BTreeMap<&str, &Weight> = weights.into_iter().collect();
    let spec = |weight: &Weight| Spec { dtype, shape: weight.shape.clone() };
    let specs = weights.iter().map(|(name, weight)| ((*name).to_owned(), spec(weight))).collect();
    let mut writer = Writer::create(path, &specs)?;
    for (name, weight) in weights {
        writer.tensor(name, |sink| sink.values(&weight.data))?;
    }
    writer.finish()
}
