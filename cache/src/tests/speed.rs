//! Bounds far above what is measured, to catch a change of order and not of a few per cent.

use std::time::{Duration, Instant};

use crate::{
    Cache, StageKey,
    suite::{record, write_files},
};

#[tokio::test]
async fn a_hundred_hits_and_thousands_of_small_files() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_local(&dir.path().join("store")).unwrap();
    let keys: Vec<StageKey> = (0u32..100).map(|i| StageKey::of(&i.to_le_bytes())).collect();
    let names: Vec<String> = (0..20).map(|i| format!("part-{i:05}")).collect();
    for (i, key) in keys.iter().enumerate() {
        let input = dir.path().join(i.to_string());
        let texts: Vec<String> = names.iter().map(|name| format!("{name} of {}", i % 5)).collect();
        let files: Vec<(&str, &[u8])> =
            names.iter().zip(&texts).map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        write_files(&input, &files);
        let artifact = cache.publish(&input).await.unwrap().digest;
        cache.put_record(&record(*key, artifact)).await.unwrap();
    }
    let start = Instant::now();
    for key in &keys {
        assert!(cache.hit(key).await.unwrap().is_some());
    }
    let hits = start.elapsed();
    assert!(hits < Duration::from_secs(1), "100 hits took {hits:?}");

    let input = dir.path().join("many");
    let texts: Vec<String> = (0..3000).map(|i| format!("small file {i}")).collect();
    let files: Vec<(&str, &[u8])> = texts.iter().map(|text| (text.as_str(), text.as_bytes())).collect();
    write_files(&input, &files);
    let start = Instant::now();
    let artifact = cache.publish(&input).await.unwrap().digest;
    let published = start.elapsed();
    let start = Instant::now();
    cache.materialize(&artifact, &dir.path().join("out")).await.unwrap();
    let materialized = start.elapsed();
    assert!(published < Duration::from_secs(30), "3000 files took {published:?}");
    println!("100 hits {hits:?}, 3000 files published {published:?}, materialized {materialized:?}");
}
