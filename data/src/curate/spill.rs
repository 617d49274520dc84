//! Texts that passed the filters, set aside on the disk until it is known which are duplicates and which split they belong to.
//! One unnamed temporary file, gone when the process is: memory holds only hashes.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use memmap2::Mmap;

use crate::{Result, document::Document};

/// Where a document lies in the spill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    at: u64,
    /// Bytes of id, source, provenance, text.
    lengths: [u32; 4],
}

impl Place {
    pub(super) fn text_bytes(&self) -> u64 {
        u64::from(self.lengths[3])
    }
}

/// The file while it grows.
pub(super) struct Spill {
    file: BufWriter<File>,
    at: u64,
}

impl Spill {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        Ok(Spill { file: BufWriter::with_capacity(1 << 18, tempfile::tempfile_in(folder)?), at: 0 })
    }

    /// Appends a document; its domain is not kept.
    pub(super) fn push(&mut self, document: &Document) -> Result<Place> {
        let parts = [&document.id, &document.source, &document.provenance, &document.text];
        let place = Place { at: self.at, lengths: parts.map(|part| part.len() as u32) };
        for part in parts {
            self.file.write_all(part.as_bytes())?;
            self.at += part.len() as u64;
        }
        Ok(place)
    }

    pub(super) fn finish(mut self) -> Result<Spilled> {
        self.file.flush()?;
        let file = self.file.get_ref();
        // SAFETY: the file has no name and this process holds its only handle, so that nobody can cut it while it is mapped.
        let map = if self.at == 0 { None } else { Some(unsafe { Mmap::map(file)? }) };
        Ok(Spilled { map })
    }
}

/// The file once it is whole.
pub(super) struct Spilled {
    map: Option<Mmap>,
}

impl Spilled {
    fn part(&self, place: Place, index: usize) -> &str {
        let start = place.at + place.lengths[..index].iter().map(|length| u64::from(*length)).sum::<u64>();
        let bytes = self.map.as_deref().unwrap_or_default();
        let bytes = &bytes[start as usize..start as usize + place.lengths[index] as usize];
        // Only `str`s were written, part by part; a disk that gives back other bytes is met with an empty text, not undefined ones.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    pub(super) fn id(&self, place: Place) -> &str {
        self.part(place, 0)
    }

    pub(super) fn source(&self, place: Place) -> &str {
        self.part(place, 1)
    }

    pub(super) fn provenance(&self, place: Place) -> &str {
        self.part(place, 2)
    }

    pub(super) fn text(&self, place: Place) -> &str {
        self.part(place, 3)
    }
}
