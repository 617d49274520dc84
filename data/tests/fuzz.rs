//! Token shards from strangers.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::collections::BTreeMap;

use flow_data::shard::{FORMAT, Manifest, SplitWriter, TokenShards, documents_file, manifest_file, parse, tokens_file};
use flow_fuzz::{Meter, Target};

#[global_allocator]
static METER: Meter = Meter;

/// The files of a split in one input: each with its length before it.
fn pack(files: &[Vec<u8>]) -> Vec<u8> {
    files.iter().flat_map(|file| [&(file.len() as u32).to_le_bytes()[..], file].concat()).collect()
}

fn unpack(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (file, rest) = rest.split_at((u32::from_le_bytes(*length) as usize).min(rest.len()));
        files.push(file);
        bytes = rest;
    }
    files
}

fn seed(lengths: &[usize], shard_tokens: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut writer = SplitWriter::create(folder, "train", shard_tokens).unwrap();
    for (document, &length) in lengths.iter().enumerate() {
        let mut tokens = vec![document as u32 + 1; length];
        tokens.push(0);
        writer.push(&tokens, length as u64).unwrap();
    }
    let splits = BTreeMap::from([("train".to_owned(), writer.finish().unwrap())]);
    let shards = splits["train"].shards;
    Manifest { eos: 0, format: FORMAT, splits, tokenizer: "0".repeat(64), vocab_size: 100 }.write(folder).unwrap();
    let mut files = vec![fs_err::read(manifest_file(folder)).unwrap()];
    for part in 0..shards {
        files.push(fs_err::read(tokens_file(folder, "train", part)).unwrap());
        files.push(fs_err::read(documents_file(folder, "train", part)).unwrap());
    }
    pack(&files)
}

#[test]
fn shards() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs_err::create_dir(folder.join("train")).unwrap();
    let target = Target::new("shards").seed(seed(&[2, 1, 4], 6)).seed(seed(&[9], 100)).seed(seed(&[], 6)).words(&[
        "\"shards\": 4294967295",
        "\"tokens\": 18446744073709551615",
        "\"vocab_size\": 0",
        "\"format\": 2",
    ]);
    target.run(|bytes| {
        let files = unpack(bytes);
        let Some((manifest, parts)) = files.split_first() else { return };
        // Nothing of the input before this one is left.
        fs_err::remove_dir_all(folder.join("train")).unwrap();
        fs_err::create_dir(folder.join("train")).unwrap();
        fs_err::write(manifest_file(folder), manifest).unwrap();
        for (part, pair) in parts.chunks_exact(2).enumerate() {
            let _ = parse(pair[0], pair[1]);
            fs_err::write(tokens_file(folder, "train", part as u32), pair[0]).unwrap();
            fs_err::write(documents_file(folder, "train", part as u32), pair[1]).unwrap();
        }
        let Ok(shards) = TokenShards::open(folder, "train") else { return };
        let stored: usize = parts.iter().map(|part| part.len()).sum();
        assert!(shards.len_tokens() <= stored as u64, "more tokens than bytes");
        let vocabulary = shards.manifest().vocab_size;
        let mut next = 0;
        for document in 0..shards.len_documents() {
            let range = shards.document(document).unwrap();
            assert_eq!(range.start, next, "documents follow each other");
            assert_eq!(shards.document_of(range.start), Some(document));
            assert_eq!(shards.document_of(range.end - 1), Some(document));
            next = range.end;
            if let Ok(tokens) = shards.slice(range) {
                assert!(tokens.iter().all(|token| *token < vocabulary));
            }
        }
        assert_eq!(next, shards.len_tokens());
        for range in [0..u64::MAX, u64::MAX - 1..u64::MAX, next..next + 1, next + 1..next] {
            assert!(shards.slice(range).is_err());
        }
        assert!(shards.document(u64::MAX).is_none() && shards.document_of(u64::MAX).is_none());
    });
}
