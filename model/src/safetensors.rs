//! safetensors files: an own reader and writer.
//!
//! ```text
//! u64 LE header length │ JSON header, padded with spaces to a multiple of 8 │ tensors' bytes, back to back
//! ```
//!
//! The writer gives the same bytes for the same tensors: the header is sorted, and it has one metadata key, `format: pt`, which
//! transformers wants (the public crate writes metadata from a hash map, in an order of its own with two keys or more). It streams:
//! all names and shapes are known before the first byte, then tensors come one by one, a chunk at a time.
//! The reader maps the file; to open it is to validate it: every byte after the header belongs to exactly one tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Malformed, Result};
use crate::weights::{CHUNK, Digest, TensorDigester, Weight};

mod write;

pub use write::{Sink, Writer, save};

/// Element types that models are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Dtype {
    /// IEEE single precision.
    #[serde(rename = "f32")]
    F32,
    /// The upper half of a single.
    #[serde(rename = "bf16")]
    Bf16,
    /// IEEE half precision.
    #[serde(rename = "f16")]
    F16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// As the header of a file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// As `config.json` spells it.
    pub fn torch(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|dtype| dtype.name() == name)
    }

    /// Appends the elements as f32.
    pub(crate) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::Bf16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Self::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
        }
    }

    /// Appends the elements' bytes, rounded to nearest, ties to even.
    pub(crate) fn encode(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::Bf16 => out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
            Self::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        }
    }

    /// The index of the first element that is infinite or not a number.
    fn first_not_finite(self, bytes: &[u8]) -> Option<usize> {
        // All exponent bits set. First a branchless pass, which the compiler vectorises; the search only where it found something.
        fn search<const N: usize>(bytes: &[u8], bad: impl Fn(&[u8; N]) -> bool) -> Option<usize> {
            let (elements, _) = bytes.as_chunks::<N>();
            let any = elements.iter().fold(false, |any, element| any | bad(element));
            any.then(|| elements.iter().position(bad)).flatten()
        }
        match self {
            Self::F32 => search(bytes, |b| u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000),
            Self::Bf16 => search(bytes, |b| u16::from_le_bytes(*b) & 0x7f80 == 0x7f80),
            Self::F16 => search(bytes, |b| u16::from_le_bytes(*b) & 0x7c00 == 0x7c00),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type and sides of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Element type.
    pub dtype: Dtype,
    /// Sides, outermost first.
    pub shape: Vec<usize>,
}

impl Spec {
    /// Bytes of the tensor; `None` where they do not fit into 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1_u64, |n, side| n.checked_mul(*side as u64))?;
        elements.checked_mul(self.dtype.bytes() as u64)
    }
}

/// A header that is larger is refused: the largest real ones have some ten megabytes.
const HEADER_LIMIT: u64 = 100_000_000;

/// An open file.
#[derive(Debug)]
pub struct SafeTensors {
    path: PathBuf,
    handle: fs_err::File,
    map: Mmap,
    /// Where the tensors begin.
    data: usize,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    spec: Spec,
    begin: usize,
    end: usize,
}

impl SafeTensors {
    /// Maps a file and validates its header.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::SafeTensors`] with what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        flow_data::whole::size_of_file(path)?;
        let file = fs_err::File::open(path)?;
        // SAFETY: the map is read-only. Were another process to change the file meanwhile, bytes could change under a slice, or the
        // process be stopped by a signal where the file is cut; artifacts are immutable once made, and are replaced by renaming.
        let map = unsafe { Mmap::map(&file) }?;
        let (data, entries) = parse(&map).map_err(|source| Error::SafeTensors { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), handle: file, map, data, entries })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and specs, sorted by name.
    pub fn specs(&self) -> impl Iterator<Item = (&str, &Spec)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.spec))
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<View<'_>> {
        let (name, Entry { spec, begin, end }) = self.entries.get_key_value(name)?;
        Some(View { file: self, name, spec, begin: *begin, end: *end })
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = View<'_>> {
        self.entries.iter().map(|(name, Entry { spec, begin, end })| View {
            file: self,
            name,
            spec,
            begin: *begin,
            end: *end,
        })
    }
}

/// A tensor in a mapped file.
#[derive(Clone, Copy)]
pub struct View<'a> {
    file: &'a SafeTensors,
    name: &'a str,
    spec: &'a Spec,
    begin: usize,
    end: usize,
}

impl<'a> View<'a> {
    /// The name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Type and shape.
    pub fn spec(&self) -> &'a Spec {
        self.spec
    }

    /// The elements' bytes, little-endian, row-major.
    pub fn bytes(&self) -> &'a [u8] {
        &self.file.map[self.file.data + self.begin..self.file.data + self.end]
    }

    /// The tensor as f32.
    pub fn weight(&self) -> Weight {
        let mut data = Vec::with_capacity(self.bytes().len() / self.spec.dtype.bytes());
        for (i, piece) in self.bytes().chunks(PIECE).enumerate() {
            self.spec.dtype.decode(piece, &mut data);
            self.forget(i * PIECE, piece.len());
        }
        Weight { shape: self.spec.shape.clone(), data }
    }

    /// The digest (see [`crate::weights::tensor_digest`]), in one pass with the check that every element is finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub fn checked_digest(&self) -> Result<Digest> {
        let Spec { dtype, shape } = self.spec;
        let mut digester = TensorDigester::new(dtype.name(), shape);
        self.pieces(|at, piece| {
            for (i, chunk) in piece.chunks(CHUNK * 4).enumerate() {
                self.finite(at + i * CHUNK * 4, chunk)?;
                digester.update(chunk);
            }
            Ok(())
        })?;
        Ok(digester.finish())
    }

    /// Checks that all elements of a part of the tensor, which begins at byte `at`, are finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub(crate) fn finite(&self, at: usize, part: &[u8]) -> Result<()> {
        match self.spec.dtype.first_not_finite(part) {
            None => Ok(()),
            Some(index) => Err(Error::NotFinite {
                name: self.name.to_owned(),
                place: self.file.path.display().to_string(),
                index: at / self.spec.dtype.bytes() + index,
            }),
        }
    }

    /// Goes through the bytes in pieces of whole elements, each with its offset, and lets the system take back the pages of each piece
    /// afterwards: what was read once must not count as memory of a process that goes through files larger than the machine.
    ///
    /// # Errors
    /// Those of `each`.
    pub(crate) fn pieces(&self, mut each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        for (i, piece) in self.bytes().chunks(PIECE).enumerate() {
            each(i * PIECE, piece)?;
            self.forget(i * PIECE, piece.len());
        }
        Ok(())
    }

    /// Appends the bytes to a file without a way through this process, where the system can: whether they are there.
    ///
    /// # Errors
    /// [`Error::Io`], after which a part of them may be there.
    pub(crate) fn send(&self, to: &fs_err::File) -> Result<bool> {
        send(&self.file.handle, self.file.data + self.begin, self.bytes().len(), to).map_err(Error::Io)
    }

    /// Lets the system take back pages.
    pub(crate) fn forget(&self, at: usize, length: usize) {
        let begin = self.file.data + self.begin + at;
        if length > 0 {
            // SAFETY: the map is read-only and backed by a file, so dropped pages come back from there with the same content.
            // A failure changes nothing but memory.
            let _ = unsafe { self.file.map.unchecked_advise_range(UncheckedAdvice::DontNeed, begin, length) };
        }
    }
}

#[cfg(target_os = "linux")]
fn send(from: &fs_err::File, begin: usize, length: usize, to: &fs_err::File) -> std::io::Result<bool> {
    use rustix::io::Errno;
    let (mut at, end) = (begin as u64, (begin + length) as u64);
    while at < end {
        let left = (end - at) as usize;
        match rustix::fs::copy_file_range(from, Some(&mut at), to, None, left) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Another file system, or one that cannot: only ever the answer to the first call.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if at == begin as u64 => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn send(_: &fs_err::File, _: usize, _: usize, _: &fs_err::File) -> std::io::Result<bool> {
    Ok(false)
}

/// Bytes of a mapped tensor that are resident at a time and thread.
const PIECE: usize = 8 << 20;

/// Validates a file's bytes: where the tensors begin, and each one's place behind that.
fn parse(file: &[u8]) -> Result<(usize, BTreeMap<String, Entry>), Malformed> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Malformed::TooShort { bytes: file.len() as u64 });
    };
    let (length, available) = (u64::from_le_bytes(*length), rest.len() as u64);
    if length > HEADER_LIMIT {
        return Err(Malformed::HeaderTooLarge { bytes: length, limit: HEADER_LIMIT });
    }
    let Some((header, tensors)) = rest.split_at_checked(length as usize) else {
        return Err(Malformed::HeaderTruncated { bytes: length, available });
    };
    let header: Header =
        serde_json::from_slice(header).map_err(|error| Malformed::Header { reason: error.to_string() })?;
    if let Some(name) = header.twice {
        return Err(Malformed::Duplicate { name });
    }

    let mut entries = BTreeMap::new();
    for (name, RawEntry { dtype, shape, data_offsets: [begin, end] }) in header.tensors {
        let Some(dtype) = Dtype::parse(&dtype) else { return Err(Malformed::Dtype { name, dtype }) };
        let sides: Option<Vec<usize>> = shape.iter().map(|side| usize::try_from(*side).ok()).collect();
        let spec = sides.map(|shape| Spec { dtype, shape });
        let Some((spec, needed)) = spec.and_then(|spec| spec.bytes().map(|needed| (spec, needed))) else {
            return Err(Malformed::Overflow { name, shape });
        };
        if begin.checked_add(needed) != Some(end) {
            return Err(Malformed::Size { name, needed, begin, end });
        }
        entries.insert(name, (spec, begin, end));
    }

    // Every byte belongs to exactly one tensor.
    let mut order: Vec<_> = entries.iter().map(|(name, (_, begin, end))| (*begin, *end, name)).collect();
    order.sort_unstable();
    let (mut reached, mut last) = (0, None);
    for (begin, end, name) in order {
        if let Some(first) = last.filter(|_| begin < reached) {
            let first: &String = first;
            return Err(Malformed::Overlap { first: first.clone(), second: name.clone() });
        }
        if begin > reached {
            return Err(Malformed::Hole { name: name.clone(), bytes: begin - reached });
        }
        (reached, last) = (end, Some(name));
    }
    let available = tensors.len() as u64;
    if reached > available {
        return Err(Malformed::Truncated { needed: reached, available });
    }
    if reached < available {
        return Err(Malformed::Trailing { bytes: available - reached });
    }
    let place = |(name, (spec, begin, end))| (name, Entry { spec, begin: begin as usize, end: end as usize });
    Ok((8 + length as usize, entries.into_iter().map(place).collect()))
}

/// The header as JSON has it.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, RawEntry)>,
    /// The first name that came a second time; a map would have forgotten it.
    twice: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut names = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        header.twice.get_or_insert_with(|| name.clone());
                    }
                    if name == "__metadata__" {
                        // Free text of whoever wrote the file; read so that it is checked, and of no meaning here.
                        let _: BTreeMap<String, String> = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests;
