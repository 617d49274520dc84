//! Sources in, a corpus out.
//!
//! ```text
//! read ─▶ normalise ─▶ filters ─▶ exact dedup ─▶ spill ─▶ near-dedup ─▶ split by hash ─▶ limits ─▶ shards
//! └ one thread ┘└─ all threads, in batches ─┘└── in the order of reading ──────────────────────────────┘
//! ```
//!
//! Batches are fixed by bytes and documents, results are taken up in the order of reading, ties go to the first: the same sources
//! and parameters give the same bytes on any number of threads. Memory holds the batches under way and some 200 bytes a document.

mod params;
mod spill;

use std::{
    ops::ControlFlow,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
};

use fs_err as fs;
use rayon::prelude::*;

pub use params::{CurateParams, Heldout, LongDocuments, MaxBroken};
use spill::{Place, Spill, Spilled};

use crate::{
    Error, Result,
    corpus::{self, Split, SplitWriter},
    dedup::{
        exact::{Seen, fingerprint},
        minhash::{self, Sketcher},
    },
    document::Document,
    filter,
    source::{self, Item, ResolvedSource},
    tally::{GroupTally, OVER_HELDOUT, OVER_MAX_BYTES, SplitTally, Statistics},
};

/// Which part of the work is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading and filtering.
    Read,
    /// Finding near-duplicates.
    Dedup,
    /// Writing shards.
    Write,
}

/// How far the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The part.
    pub phase: Phase,
    /// Documents done in this part.
    pub documents: u64,
    /// Bytes of text done in this part.
    pub bytes: u64,
    /// Documents of this part; not known while reading.
    pub total_documents: Option<u64>,
}

/// A batch is handed on when it holds so much.
const BATCH_DOCUMENTS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;

/// Curates `sources` into the folder `out`, which is made if it is not there and must not hold a corpus yet.
///
/// `progress` is asked now and then; `Break` stops the work with [`Error::Cancelled`].
///
/// # Errors
/// Sources that changed or are broken beyond `max_broken`; nothing kept; files that cannot be written. The folder is then incomplete,
/// and has no `statistics.json`.
pub fn curate(
    sources: &[ResolvedSource],
    params: &CurateParams,
    out: &Path,
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
) -> Result<Statistics> {
    params.validate()?;
    fs::create_dir_all(out)?;
    let mut tally = Statistics::new(&params.domain, sources.iter().map(|source| source.files.len()));
    let (mut kept, spilled) = read_all(sources, params, out, &mut tally, progress)?;
    drop_near_duplicates(&mut kept, &spilled, params, &mut tally, progress)?;
    let splits = choose_splits(&kept, params);
    refuse_empty(&kept, &splits, params, &tally)?;
    write_splits(&kept, &splits, &spilled, params, out, &mut tally, progress)?;
    tally.check()?;
    corpus::write_statistics(out, &tally)?;
    Ok(tally)
}

/// A document that passed the filters.
struct Candidate {
    source: usize,
    fingerprint: u128,
    place: Place,
    /// Bytes as read.
    bytes: u64,
    keys: Option<Vec<u64>>,
}

impl Candidate {
    fn drop(&self, reason: &str, spilled: &Spilled, tally: &mut Statistics) {
        tally.drop(reason, self.bytes, spilled.provenance(self.place));
    }
}

type Batch = Vec<(usize, Item)>;

/// Gives the sources' items in batches until all are read or nobody listens.
fn read_into(sources: &[ResolvedSource], batches: &SyncSender<Result<Batch>>) {
    let mut batch = Batch::new();
    let mut bytes = 0;
    let outcome = sources.iter().enumerate().try_for_each(|(index, source)| {
        source::read(source, &mut |item| {
            if let Item::Document(document) = &item {
                bytes += document.text.len();
            }
            batch.push((index, item));
            if batch.len() >= BATCH_DOCUMENTS || bytes >= BATCH_BYTES {
                bytes = 0;
                return batches.send(Ok(std::mem::take(&mut batch))).map_err(|_| Error::Cancelled);
            }
            Ok(())
        })
    });
    // Whoever stopped listening knows why.
    let _ = batches.send(Ok(batch));
    if let Err(error) = outcome {
        let _ = batches.send(Err(error));
    }
}

/// What the filters say of one item.
enum Outcome {
    Passed { document: Document, bytes: u64, fingerprint: u128, keys: Option<Vec<u64>> },
    Dropped { reason: &'static str, bytes: u64, place: String },
    Broken(source::Broken),
}

fn judge(item: Item, params: &CurateParams, sketcher: Option<&Sketcher>, scratch: &mut minhash::Scratch) -> Outcome {
    let mut document = match item {
        Item::Document(document) => document,
        Item::Broken(broken) => return Outcome::Broken(broken),
    };
    let bytes = document.text.len() as u64;
    let dropped = |reason, place| Outcome::Dropped { reason, bytes, place };
    // Word spans and spill lengths are 32 bits wide.
    if bytes >= u64::from(u32::MAX) / 4 {
        return dropped("too_long", document.provenance);
    }
    let text = params.normalise.apply(std::mem::take(&mut document.text));
    match filter::apply(&params.filters, text) {
        Err(reason) => dropped(reason, document.provenance),
        Ok(text) => {
            let long = text.len() as u64 > params.max_document_bytes;
            if long && params.long_documents == LongDocuments::Drop {
                return dropped("over_max_document_bytes", document.provenance);
            }
            let keys = sketcher.and_then(|sketcher| sketcher.keys(&text, scratch));
            let fingerprint = fingerprint(&text);
            document.text = text;
            Outcome::Passed { document, bytes, fingerprint, keys }
        }
    }
}

fn read_all(
    sources: &[ResolvedSource],
    params: &CurateParams,
    out: &Path,
    tally: &mut Statistics,
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
) -> Result<(Vec<Candidate>, Spilled)> {
    let sketcher = params.dedup.minhash.as_ref().map(Sketcher::new);
    let mut spill = Spill::create(out)?;
    let mut seen = Seen::default();
    let mut kept = Vec::new();
    std::thread::scope(|scope| {
        // Two batches wait at most: reading never runs far ahead.
        let (sender, receiver) = sync_channel(2);
        scope.spawn(move || read_into(sources, &sender));
        for batch in &receiver {
            let outcomes: Vec<(usize, Outcome)> = batch?
                .into_par_iter()
                .map_init(minhash::Scratch::default, |scratch, (source, item)| {
                    (source, judge(item, params, sketcher.as_ref(), scratch))
                })
                .collect();
            for (source, outcome) in outcomes {
                match outcome {
                    Outcome::Broken(broken) => tally.broken(source, &broken),
                    Outcome::Dropped { reason, bytes, place } => {
                        tally.read(source, bytes);
                        tally.drop(reason, bytes, &place);
                    }
                    Outcome::Passed { document, bytes, fingerprint, keys } => {
                        tally.read(source, bytes);
                        if params.dedup.exact && !seen.insert(fingerprint) {
                            tally.drop("exact_duplicate", bytes, &document.provenance);
                        } else {
                            let place = spill.push(&document)?;
                            kept.push(Candidate { source, fingerprint, place, bytes, keys });
                        }
                    }
                }
            }
            refuse_broken(params, tally, false)?;
            report(progress, Phase::Read, tally.read.documents, tally.read.bytes, None)?;
        }
        Ok::<(), Error>(())
    })?;
    refuse_broken(params, tally, true)?;
    Ok((kept, spill.finish()?))
}

fn report(
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
    phase: Phase,
    documents: u64,
    bytes: u64,
    total_documents: Option<u64>,
) -> Result<()> {
    match progress(Progress { phase, documents, bytes, total_documents }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// A share of little says little: before the end it is asked only of many records.
fn refuse_broken(params: &CurateParams, tally: &Statistics, ended: bool) -> Result<()> {
    let records = tally.read.documents + tally.broken.records;
    let limit = &params.max_broken;
    let allowed = limit.allowed(records);
    let too_many = (ended || records >= 100_000) && tally.broken.records > allowed;
    let streams = tally.broken.streams > limit.streams;
    if !too_many && !streams {
        return Ok(());
    }
    let samples = tally.broken.samples.iter().map(|sample| format!("  {sample}")).collect::<Vec<_>>().join("\n");
    let domain = params.domain.clone();
    if streams {
        let (streams, allowed) = (tally.broken.streams, limit.streams);
        return Err(Error::BrokenStreams { domain, streams, allowed, samples });
    }
    Err(Error::TooManyBroken { domain, broken: tally.broken.records, records, allowed, samples })
}

fn drop_near_duplicates(
    kept: &mut Vec<Candidate>,
    spilled: &Spilled,
    params: &CurateParams,
    tally: &mut Statistics,
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
) -> Result<()> {
    let Some(minhash) = &params.dedup.minhash else { return Ok(()) };
    let total = kept.len() as u64;
    report(progress, Phase::Dedup, 0, 0, Some(total))?;
    let keys: Vec<Option<Vec<u64>>> = kept.iter_mut().map(|candidate| candidate.keys.take()).collect();
    let places: Vec<Place> = kept.iter().map(|candidate| candidate.place).collect();
    let text = |index: u32| spilled.text(places[index as usize]);
    let same =
        |a: u32, b: u32| minhash.verify.is_none_or(|least| minhash::jaccard(text(a), text(b), minhash.words) >= least);
    let roots = minhash::groups(&keys, minhash.bands, &same);
    let mut sizes = vec![0u64; roots.len()];
    for root in &roots {
        sizes[*root as usize] += 1;
    }
    tally.near_duplicates = GroupTally {
        groups: sizes.iter().filter(|size| **size > 1).count() as u64,
        largest: sizes.iter().copied().filter(|size| *size > 1).max().unwrap_or(0),
    };
    let mut index = 0u32;
    kept.retain(|candidate| {
        let first = roots[index as usize] == index;
        index += 1;
        if !first {
            candidate.drop("near_duplicate", spilled, tally);
        }
        first
    });
    report(progress, Phase::Dedup, total, 0, Some(total))
}

/// Where a document goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes(Split),
    Stays(&'static str),
}

/// The position of a text between 0 and 1 that decides on its split.
fn lot(fingerprint: u128) -> f64 {
    ((fingerprint >> 75) as f64) / (1u64 << 53) as f64
}

fn choose_splits(kept: &[Candidate], params: &CurateParams) -> Vec<Fate> {
    let mut order: Vec<usize> = (0..kept.len()).collect();
    order.sort_by_key(|&index| (kept[index].fingerprint, index));
    let heldout = &params.heldout;
    let by_share = order.partition_point(|&index| lot(kept[index].fingerprint) < heldout.share);
    let wanted = if heldout.share > 0.0 { heldout.min_documents as usize } else { 0 };
    let count = by_share.max(wanted.min(kept.len().saturating_sub(1)));
    let mut fates = vec![Fate::Goes(Split::Train); kept.len()];
    let mut bytes = 0;
    let mut documents = 0;
    for &index in &order[..count] {
        // One that is too long makes room for the next, or a single long document could leave the split nearly empty.
        let own = kept[index].place.text_bytes();
        let fits = heldout.max_documents.is_none_or(|most| documents < most)
            && heldout.max_bytes.is_none_or(|most| bytes + own <= most);
        if fits {
            documents += 1;
            bytes += own;
        }
        fates[index] = if fits { Fate::Goes(Split::Heldout) } else { Fate::Stays(OVER_HELDOUT) };
    }
    if let Some(most) = params.max_bytes {
        let mut bytes = 0;
        for &index in &order[count..] {
            bytes += kept[index].place.text_bytes();
            if bytes > most {
                fates[index] = Fate::Stays(OVER_MAX_BYTES);
            }
        }
    }
    fates
}

fn refuse_empty(kept: &[Candidate], fates: &[Fate], params: &CurateParams, tally: &Statistics) -> Result<()> {
    let none = |split| !fates.contains(&Fate::Goes(split));
    let (what, advice) = if fates.is_empty() {
        ("no document is left", "look at what was dropped, and loosen those filters or name more sources")
    } else if none(Split::Train) {
        ("no document is left to train on", "name more sources, or raise `max_bytes` or lower `heldout.share`")
    } else if params.heldout.share > 0.0 && none(Split::Heldout) {
        ("no document is held out", "name more sources, raise `heldout.share` or its limits, or set the share to 0")
    } else {
        return Ok(());
    };
    let mut tally = tally.clone();
    for (candidate, fate) in kept.iter().zip(fates) {
        match fate {
            Fate::Stays(reason) => tally.drop(reason, candidate.bytes, ""),
            Fate::Goes(split) => {
                tally.keep(candidate.source, candidate.bytes);
                tally.splits.entry(split.name().to_owned()).or_default().documents += 1;
            }
        }
    }
    let table = tally.table();
    Err(Error::EmptyDomain { domain: params.domain.clone(), what, advice, table })
}

fn write_splits(
    kept: &[Candidate],
    fates: &[Fate],
    spilled: &Spilled,
    params: &CurateParams,
    out: &Path,
    tally: &mut Statistics,
    progress: &dyn Fn(Progress) -> ControlFlow<()>,
) -> Result<()> {
    let with_heldout = params.heldout.share > 0.0;
    let (mut done, mut bytes) = (0, 0);
    for split in [Split::Train, Split::Heldout] {
        if split == Split::Heldout && !with_heldout {
            continue;
        }
        let mut writer = SplitWriter::create(out, split, params.shard_bytes)?;
        let mut written = SplitTally::default();
        for (candidate, _) in kept.iter().zip(fates).filter(|(_, fate)| **fate == Fate::Goes(split)) {
            let place = candidate.place;
            written.documents += 1;
            for piece in pieces(spilled.text(place), params) {
                let (id, provenance) = match piece.number {
                    None => (spilled.id(place).to_string(), spilled.provenance(place).to_string()),
                    Some(number) => {
                        (format!("{}#{number}", spilled.id(place)), format!("{}#{number}", spilled.provenance(place)))
                    }
                };
                writer.push([&id, piece.text, spilled.source(place), &params.domain, &provenance])?;
                written.rows += 1;
                written.bytes += piece.text.len() as u64;
            }
            tally.keep(candidate.source, candidate.bytes);
            done += 1;
            bytes += place.text_bytes();
            if done % 512 == 0 {
                report(progress, Phase::Write, done, bytes, Some(kept.len() as u64))?;
            }
        }
        written.shards = writer.finish()?;
        tally.splits.insert(split.name().to_string(), written);
    }
    for (candidate, fate) in kept.iter().zip(fates) {
        if let Fate::Stays(reason) = fate {
            candidate.drop(reason, spilled, tally);
        }
    }
    report(progress, Phase::Write, done, bytes, Some(kept.len() as u64))
}

/// A row's text; the number tells the pieces of one document apart.
struct Piece<'t> {
    text: &'t str,
    number: Option<usize>,
}

fn pieces<'t>(text: &'t str, params: &CurateParams) -> impl Iterator<Item = Piece<'t>> {
    let most = params.max_document_bytes as usize;
    let whole = text.len() <= most;
    let only_first = params.long_documents == LongDocuments::Cut;
    let mut rest = text;
    let mut number = 0;
    std::iter::from_fn(move || {
        if number > 0 && (only_first || rest.is_empty()) {
            return None;
        }
        number += 1;
        let (piece, after) = rest.split_at(cut(rest, most));
        rest = after;
        Some(Piece { text: piece, number: (!whole && !only_first).then_some(number) })
    })
}

/// Where to end a piece of at most `most` bytes: behind the last line's end, else behind the last whole character.
fn cut(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let end = text.floor_char_boundary(most);
    text[..end].rfind('\n').map_or(end, |newline| newline + 1)
}

#[cfg(test)]
mod tests;
