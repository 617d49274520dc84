//! A large artifact: hashed beside `b3sum`, published and materialised by link, and the memory that it takes.
//!
//! `cargo bench -p flow-cache --bench artifact -- FOLDER [GIB] [FILES]` makes random files in FOLDER (8 GiB in 2,000 files), and
//! removes them afterwards; `b3sum` on PATH adds the comparison.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark: whatever goes wrong ends it")]

use std::{
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use flow_cache::{Cache, StageKey, hash_folder};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hash", folder] => {
            let clock = Instant::now();
            let manifest = hash_folder(Path::new(folder)).unwrap();
            println!("{} {} {}", clock.elapsed().as_secs_f64(), peak_mib(), manifest.digest());
        }
        ["store", folder] => store(Path::new(folder)),
        [folder, ref sizes @ ..] => {
            let number = |at: usize, default: u64| sizes.get(at).map_or(default, |text| text.parse().unwrap());
            table(Path::new(folder), number(0, 8), number(1, 2_000));
        }
        // `cargo test --benches` only wants to see that it builds.
        [] => {}
    }
}

fn table(folder: &Path, gib: u64, files: u64) {
    let place = tempfile::Builder::new().prefix("flow-artifact-").tempdir_in(folder).unwrap();
    let root = place.path().join("store");
    let cache = Cache::open_local(&root).unwrap();
    // In a work dir, as a stage writes it: what a stage made is the store's own and need not be copied.
    let output = cache.work_dir(&StageKey::of(b"artifact")).unwrap().output();
    let bytes = (gib << 30) / files;
    let clock = Instant::now();
    make(&output, files, bytes);
    println!("{files} files of {bytes} random bytes made in {:.1} s", clock.elapsed().as_secs_f64());
    let gib = (files * bytes) as f64 / f64::from(1 << 30);

    // In turn, so that a busy moment of the machine meets both; of each the best of three.
    let (mut ours, mut theirs, mut mib) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..3 {
        let said = ourselves("hash", &output);
        ours.push(said[0]);
        mib = said[1];
        theirs.extend(b3sum(&output));
    }
    let best = |times: &[f64]| times.iter().copied().min_by(f64::total_cmp);
    let ours = best(&ours).unwrap();
    println!("hash: {ours:.2} s, {:.2} GiB/s, peak {mib:.0} MiB", gib / ours);
    match best(&theirs) {
        Some(theirs) => {
            println!(
                "b3sum: {theirs:.2} s, {:.2} GiB/s; flow hashes at {:.0} % of it",
                gib / theirs,
                100.0 * theirs / ours
            );
        }
        None => println!("b3sum is not on PATH: no comparison"),
    }
    drop(cache);
    let said = ourselves("store", place.path());
    println!("publish: {:.2} s; materialise: {:.2} s; peak {:.0} MiB", said[0], said[1], said[2]);
    println!("after both the disk holds {:.3} times the files' bytes", said[3]);
}

/// Publishes what lies in the store's work dir, and materialises it.
fn store(place: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = Cache::open_local(&place.join("store")).unwrap();
        let output = cache.work_dir(&StageKey::of(b"artifact")).unwrap().output();
        let clock = Instant::now();
        let published = cache.publish(&output).await.unwrap();
        cache.flush().await;
        let publishing = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        cache.materialize(&published.digest, &place.join("out")).await.unwrap();
        let materializing = clock.elapsed().as_secs_f64();
        let share = on_disk(place) as f64 / published.manifest.total_bytes() as f64;
        println!("{publishing} {materializing} {} {share}", peak_mib());
    });
}

/// Runs a phase in a process of its own, so that its peak of memory is its own.
fn ourselves(phase: &str, folder: &Path) -> Vec<f64> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).arg(phase).arg(folder).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{phase} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn b3sum(folder: &Path) -> Option<f64> {
    let mut files: Vec<PathBuf> = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let clock = Instant::now();
    let status = Command::new("b3sum").args(files).stdout(Stdio::null()).status().ok()?;
    status.success().then(|| clock.elapsed().as_secs_f64())
}

/// Bytes that no file system can leave out.
fn make(folder: &Path, files: u64, bytes: u64) {
    let mut part = vec![0; 1 << 20];
    for file in 0..files {
        let mut to = std::fs::File::create(folder.join(format!("part-{file:05}"))).unwrap();
        let mut stream = blake3::Hasher::new().update(&file.to_le_bytes()).finalize_xof();
        let mut left = bytes as usize;
        while left > 0 {
            let now = left.min(part.len());
            stream.fill(&mut part[..now]);
            to.write_all(&part[..now]).unwrap();
            left -= now;
        }
    }
}

/// Bytes below a folder, each inode once.
fn on_disk(folder: &Path) -> u64 {
    let (mut open, mut seen, mut sum) = (vec![folder.to_owned()], std::collections::BTreeSet::new(), 0);
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                open.push(entry.path());
            } else if seen.insert(meta.ino()) {
                sum += meta.len();
            }
        }
    }
    sum
}

fn peak_mib() -> f64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    peak.unwrap_or(f64::NAN) / 1024.0
}
