//! The engine from sources to a corpus, on small folders.

use std::{cell::Cell, io::Write, path::Path};

use super::*;
use crate::{
    corpus::Corpus,
    filter::{Filter, length::Length},
    source::{FilesSpec, Patience, ResolveContext, SourceSpec, resolve},
};

fn hash(path: &Path) -> Result<String> {
    Ok(blake3::hash(&fs::read(path)?).to_hex().to_string())
}

fn files(base: &Path, path: &str) -> Result<ResolvedSource> {
    let spec: FilesSpec = serde_json::from_value(serde_json::json!({ "path": path })).unwrap();
    resolve(
        &SourceSpec::Files(spec),
        &ResolveContext { base, hash: &hash, memo_dir: None, patience: Patience::default() },
    )
}

fn params() -> CurateParams {
    CurateParams {
        domain: "tests".into(),
        filters: vec![Filter::Length(Length { min_bytes: 20, ..Length::default() })],
        heldout: Heldout { share: 0.2, ..Heldout::default() },
        ..CurateParams::default()
    }
}

/// Text that shares no run of five words with that of another number.
fn prose(number: u64) -> String {
    let word = |index: u64| format!("w{:x}", (number * 1000 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
    (0..60).map(word).collect::<Vec<_>>().join(" ")
}

fn folder(documents: impl Iterator<Item = String>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, text) in documents.enumerate() {
        fs::write(folder.path().join(format!("{index:05}.txt")), text).unwrap();
    }
    folder
}

fn run(sources: &[ResolvedSource], params: &CurateParams) -> Result<(Statistics, tempfile::TempDir)> {
    let out = tempfile::tempdir().unwrap();
    let tally = curate(sources, params, out.path(), &|_| ControlFlow::Continue(()))?;
    Ok((tally, out))
}

fn texts(out: &Path, split: Split) -> Vec<Document> {
    Corpus::open(out).unwrap().documents(split).unwrap().map(Result::unwrap).collect()
}

fn snapshot(folder: &Path) -> Vec<(String, blake3::Hash)> {
    let files = source::files::walk(folder, &mut |_| true).unwrap();
    files.files.into_iter().map(|(name, path)| (name, blake3::hash(&fs::read(path).unwrap()))).collect()
}

#[test]
fn every_document_is_accounted_for() {
    let near = |text: &str| text.replacen(' ', " edited ", 1);
    let mut texts_in: Vec<String> = (0..40).map(prose).collect();
    texts_in.push(prose(3) + "  \r\n");
    texts_in.push(prose(3));
    texts_in.push(near(&prose(5)));
    texts_in.push("short".into());
    let input = folder(texts_in.into_iter());
    let (tally, out) = run(&[files(input.path(), ".").unwrap()], &params()).unwrap();
    let dropped: Vec<(&str, u64)> = tally.dropped.iter().map(|(reason, d)| (reason.as_str(), d.documents)).collect();
    // The first copy differs by a newline at its end and so is a near-duplicate, the second is exact.
    assert_eq!(dropped, [("exact_duplicate", 1), ("near_duplicate", 2), ("too_short", 1)]);
    assert_eq!((tally.read.documents, tally.kept.documents), (44, 40));
    assert_eq!(tally.near_duplicates, GroupTally { groups: 2, largest: 2 });
    let (train, heldout) = (texts(out.path(), Split::Train), texts(out.path(), Split::Heldout));
    assert_eq!(train.len() + heldout.len(), 40);
    assert!(heldout.len() > 2, "{}", heldout.len());
    assert!(train.iter().chain(&heldout).all(|document| document.domain == "tests" && document.id.len() == 32));
    assert!(train.is_sorted_by_key(|document| &document.provenance));
    assert_eq!(Corpus::open(out.path()).unwrap().statistics, tally);
    let names: Vec<String> = snapshot(out.path()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["heldout/part-00000.parquet", "statistics.json", "train/part-00000.parquet"]);
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let input = folder((0..3000).map(|n| prose(n % 2500)));
    let source = files(input.path(), "*.txt").unwrap();
    let params = CurateParams { shard_bytes: 100_000, ..params() };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let out = tempfile::tempdir().unwrap();
        let continue_ = |_| ControlFlow::Continue(());
        // The progress callback stays on this thread, the pool is asked from inside.
        let tally = pool.install(|| curate(std::slice::from_ref(&source), &params, out.path(), &continue_).unwrap());
        assert!(tally.splits["train"].shards > 3);
        snapshot(out.path())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn a_document_stays_in_its_split_when_others_come() {
    let few = folder((0..100).map(prose));
    let many = folder((0..400).map(prose));
    let heldout = |input: &tempfile::TempDir| {
        let (_, out) = run(&[files(input.path(), ".").unwrap()], &params()).unwrap();
        (texts(out.path(), Split::Train), texts(out.path(), Split::Heldout))
    };
    let ((train, held), (more_train, more_held)) = (heldout(&few), heldout(&many));
    let inside = |all: &[Document], document: &Document| all.iter().any(|other| other.text == document.text);
    assert!(train.iter().all(|document| inside(&more_train, document)));
    assert!(held.iter().all(|document| inside(&more_held, document)));
    assert!((40..120).contains(&more_held.len()), "{}", more_held.len());
}

#[test]
fn limits_take_by_hash_and_name_their_reason() {
    let input = folder((0..200).map(prose));
    let source = [files(input.path(), ".").unwrap()];
    let capped = CurateParams {
        max_bytes: Some(20_000),
        heldout: Heldout { share: 0.2, max_documents: Some(5), ..Heldout::default() },
        ..params()
    };
    let (tally, out) = run(&source, &capped).unwrap();
    assert!(tally.splits["train"].bytes <= 20_000 && tally.splits["train"].bytes > 19_000);
    assert_eq!(tally.splits["heldout"].documents, 5);
    assert!(tally.dropped["over_max_bytes"].documents > 50 && tally.dropped["over_heldout"].documents > 5);
    let (_, larger) = run(&source, &CurateParams { max_bytes: Some(30_000), ..capped }).unwrap();
    let more = texts(larger.path(), Split::Train);
    assert!(texts(out.path(), Split::Train).iter().all(|document| more.contains(document)));
}

#[test]
fn long_documents_are_split_at_lines_cut_or_dropped() {
    let long = (0..50).map(|n| prose(n) + "\n").collect::<Vec<_>>().concat();
    let input = folder((100..110).map(prose).chain([long.clone()]));
    let source = [files(input.path(), ".").unwrap()];
    let with = |long_documents| CurateParams { max_document_bytes: 2000, long_documents, ..params() };
    let (tally, out) = run(&source, &with(LongDocuments::Split)).unwrap();
    assert_eq!(tally.kept.documents, 11);
    let all: Vec<Document> =
        [Split::Train, Split::Heldout].into_iter().flat_map(|split| texts(out.path(), split)).collect();
    let parts: Vec<&Document> = all.iter().filter(|document| document.id.contains('#')).collect();
    assert!(parts.len() > 10 && parts.iter().all(|part| part.text.len() <= 2000 && part.text.ends_with('\n')));
    assert_eq!(parts.iter().map(|part| part.text.as_str()).collect::<String>(), long);
    let (tally, _) = run(&source, &with(LongDocuments::Cut)).unwrap();
    assert_eq!((tally.kept.documents, tally.splits.values().map(|split| split.rows).sum()), (11, 11));
    let (tally, _) = run(&source, &with(LongDocuments::Drop)).unwrap();
    assert_eq!(tally.dropped["over_max_document_bytes"].documents, 1);
    let piece = CurateParams { max_document_bytes: 4, ..params() };
    let cut: Vec<&str> = pieces("aßßß\nß", &piece).map(|piece| piece.text).collect();
    assert_eq!(cut, ["aß", "ßß", "\nß"].map(|s| s), "never inside a character");
}

#[test]
fn broken_lines_are_told_and_fatal_beyond_the_limit() {
    let input = tempfile::tempdir().unwrap();
    let line = |n: u64| serde_json::json!({ "id": n, "text": prose(n) }).to_string();
    let mut lines: Vec<String> = (0..50).map(line).collect();
    lines[7] = "{".into();
    fs::write(input.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let (tally, _) = run(&[files(input.path(), "a.jsonl").unwrap()], &params()).unwrap();
    assert_eq!((tally.broken.records, tally.read.documents), (1, 49));
    assert!(tally.broken.samples[0].starts_with("a.jsonl:8: not a JSON record"), "{:?}", tally.broken.samples);

    for line in &mut lines[..20] {
        *line = r#"{"no":"text"}"#.into();
    }
    fs::write(input.path().join("a.jsonl"), lines.join("\n")).unwrap();
    let error = run(&[files(input.path(), "a.jsonl").unwrap()], &params()).err().unwrap();
    assert!(matches!(error, Error::TooManyBroken { broken: 20, allowed: 10, .. }), "{error}");
    assert!(error.to_string().contains("a.jsonl:1: no field `text`"), "{error}");

    let packed = zstd::encode_all((0..500).map(|n| line(n) + "\n").collect::<String>().as_bytes(), 3).unwrap();
    fs::write(input.path().join("b.jsonl.zst"), &packed[..packed.len() / 2]).unwrap();
    let error = run(&[files(input.path(), "*.zst").unwrap()], &params()).err().unwrap();
    assert!(matches!(&error, Error::BrokenStreams { samples, .. } if samples.contains("b.jsonl.zst:")), "{error}");
}

#[test]
fn packed_files_and_parquet_give_what_plain_lines_give() {
    let input = tempfile::tempdir().unwrap();
    let lines: String = (0..30).map(|n| serde_json::json!({ "id": n, "text": prose(n) }).to_string() + "\n").collect();
    let at = |name: &str| input.path().join(name);
    fs::write(at("plain.jsonl"), &lines).unwrap();
    fs::write(at("packed.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    fs::write(at("packed.json.gz"), gzip.finish().unwrap()).unwrap();
    let read = |path: &str| {
        let (_, out) = run(&[files(input.path(), path).unwrap()], &params()).unwrap();
        let documents = texts(out.path(), Split::Train);
        (documents.into_iter().map(|document| (document.id, document.text)).collect::<Vec<_>>(), out)
    };
    let (plain, out) = read("plain.jsonl");
    assert_eq!(read("packed.jsonl.zst").0, plain);
    assert_eq!(read("packed.json.gz").0, plain);
    fs::copy(out.path().join("train/part-00000.parquet"), at("rows.parquet")).unwrap();
    let (_, again) = run(
        &[files(input.path(), "rows.parquet").unwrap()],
        &CurateParams { heldout: Heldout { share: 0.0, ..Heldout::default() }, ..params() },
    )
    .unwrap();
    let again: Vec<_> = texts(again.path(), Split::Train).into_iter().map(|d| (d.id, d.text)).collect();
    assert_eq!(again, plain);
    fs::write(at("bad.parquet"), b"PAR1 this is none").unwrap();
    assert!(matches!(run(&[files(input.path(), "bad.parquet").unwrap()], &params()), Err(Error::Parquet { .. })));
}

#[test]
fn what_is_missing_changed_empty_or_stopped_is_an_error() {
    let input = folder((0..10).map(prose));
    for (path, says) in
        [("nowhere", "no such file"), ("nowhere/*.txt", "folder of this pattern"), ("*.csv", "no file matches")]
    {
        let error = files(input.path(), path).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(path), "{error}");
    }
    assert!(matches!(files(input.path(), "a[.txt"), Err(Error::Pattern { .. })));
    let source = files(input.path(), ".").unwrap();
    let strict =
        CurateParams { filters: vec![Filter::Length(Length { min_bytes: 1 << 20, ..Length::default() })], ..params() };
    let error = run(std::slice::from_ref(&source), &strict).err().unwrap();
    assert!(matches!(&error, Error::EmptyDomain { table, .. } if table.contains("too_short")), "{error}");
    // Every document is in the table, with its bytes.
    let little = CurateParams { max_bytes: Some(10), ..params() };
    let Some(Error::EmptyDomain { table, .. }) = run(std::slice::from_ref(&source), &little).err() else {
        panic!("10 bytes are enough")
    };
    let number = |name: &str, column: usize| -> u64 {
        let line = table.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(column).unwrap().parse().unwrap()
    };
    for column in [0, 1] {
        assert_eq!(number("read", column), number("over_max_bytes", column) + number("kept", column), "{table}");
    }
    assert!(number("kept", 1) > 0 && number("for heldout", 0) == number("kept", 1), "{table}");
    let one = folder([prose(1)].into_iter());
    let error = run(&[files(one.path(), ".").unwrap()], &params()).err().unwrap();
    assert!(matches!(&error, Error::EmptyDomain { .. }), "{error}");
    let out = tempfile::tempdir().unwrap();
    let calls = Cell::new(0);
    let stop = |_| {
        calls.set(calls.get() + 1);
        ControlFlow::Break(())
    };
    assert!(matches!(curate(std::slice::from_ref(&source), &params(), out.path(), &stop), Err(Error::Cancelled)));
    assert_eq!(calls.get(), 1);
    assert!(!out.path().join("statistics.json").exists());
    fs::write(input.path().join("00003.txt"), "changed").unwrap();
    assert!(matches!(run(&[source], &params()), Err(Error::SourceChanged { name, .. }) if name == "00003.txt"));
}

#[test]
fn places_on_the_disk_are_no_part_of_the_result() {
    let (a, b) = (folder((0..30).map(prose)), folder((0..30).map(prose)));
    let (source_a, source_b) = (files(a.path(), ".").unwrap(), files(b.path(), "*.txt").unwrap());
    assert_eq!(source_a.options, source_b.options);
    let identity = |source: &ResolvedSource| {
        source.files.iter().map(|file| (file.name.clone(), file.digest.clone())).collect::<Vec<_>>()
    };
    assert_eq!(identity(&source_a), identity(&source_b));
    let url = format!("file://{}", a.path().display());
    assert_eq!(identity(&files(Path::new("/"), &url).unwrap()), identity(&source_b));
    let (_, out_a) = run(&[source_a], &params()).unwrap();
    let (_, out_b) = run(&[source_b], &params()).unwrap();
    assert_eq!(snapshot(out_a.path()), snapshot(out_b.path()));
}

#[test]
fn params_have_defaults_and_refuse_what_they_do_not_know() {
    let params: CurateParams =
        serde_json::from_str(r#"{"domain":"x","dedup":{"minhash":null},"max_bytes":5}"#).unwrap();
    assert_eq!(params.dedup.minhash, None);
    assert_eq!(params.filters.len(), 4);
    let again: CurateParams = serde_json::from_value(serde_json::to_value(&params).unwrap()).unwrap();
    assert_eq!(again, params);
    assert!(serde_json::from_str::<CurateParams>(r#"{"domains":"x"}"#).is_err());
    assert!(matches!(run(&[], &CurateParams::default()), Err(Error::Parameter { .. })));
}
