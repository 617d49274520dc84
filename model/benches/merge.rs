//! A merge of models of 1 GB beside the floor under it: a plain copy of what it writes, on the same disk, both until the
//! bytes are on the disk.
//!
//! ```text
//! cargo bench --workspace --bench merge              needs some 5 GB in the folder for temporaries (TMPDIR)
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use divan::{Bencher, counter::BytesCount};
use flow_model::bundle::{self, Bundle, Expert, Provenance};
use flow_model::config::ModelConfig;
use flow_model::hf::{self, Layout, ModelFolder};
use flow_model::init::initial_weights;
use flow_model::merge::merge;
use flow_model::weights::Weight;
use serde_json::Value;

/// 268 million parameters: 1.07 GB in f32.
fn config() -> ModelConfig {
    ModelConfig {
        vocab_size: 32_768,
        hidden_size: 1024,
        num_layers: 12,
        num_heads: 16,
        head_dim: 64,
        ffn_hidden: 4096,
        rope_theta: 500_000.0,
        norm_eps: 1e-6,
        max_positions: 4096,
        eos_token_id: 0,
        pad_token_id: None,
        experts: None,
    }
}

fn row() -> Weight {
    let d = config().hidden_size;
    Weight { shape: vec![d], data: (0..d).map(|i| (i as f32).sin() * 0.02).collect() }
}

/// A public model, and an expert that was trained beside it.
fn inputs(folder: &Path) -> (ModelFolder, Bundle) {
    let (public, expert) = (folder.join("public"), folder.join("expert"));
    for folder in [&public, &expert] {
        fs_err::create_dir(folder).unwrap();
    }
    let config = config();
    let mut weights = initial_weights(&config, 1);
    hf::write(&public, &config, &weights, None, Layout::default()).unwrap();
    weights.retain(|name, _| name.contains(".mlp."));
    let rows =
        Weight { shape: vec![config.num_layers, config.hidden_size], data: row().data.repeat(config.num_layers) };
    let expert_weights = Expert { ffn: weights, row: rows, bias: Weight { shape: vec![12], data: vec![0.0; 12] } };
    let public = ModelFolder::open(&public).unwrap();
    let identity = public.identity().unwrap();
    let provenance = Provenance {
        name: "news",
        public: &identity,
        config: &config,
        dtype: public.dtype().unwrap(),
        public_row: &row(),
        training: Value::Null,
    };
    bundle::write(&expert, &provenance, &expert_weights).unwrap();
    (public, Bundle::open(&expert).unwrap())
}

/// What is merged, and once merged.
struct Work {
    folder: tempfile::TempDir,
    public: ModelFolder,
    bundles: [Bundle; 1],
    files: Vec<PathBuf>,
}

impl Work {
    /// Made once for both benchmarks.
    fn get() -> &'static Self {
        static WORK: OnceLock<Work> = OnceLock::new();
        WORK.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let (public, bundle) = inputs(folder.path());
            let mut work = Self { folder, public, bundles: [bundle], files: Vec::new() };
            let merged = work.empty("merged");
            work.merge(&merged);
            work.files = fs_err::read_dir(&merged).unwrap().map(|entry| entry.unwrap().path()).collect();
            work
        })
    }

    fn empty(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        if folder.exists() {
            fs_err::remove_dir_all(&folder).unwrap();
        }
        fs_err::create_dir(&folder).unwrap();
        folder
    }

    fn merge(&self, out: &Path) {
        merge(&self.public, &row(), &self.bundles, 2, out, 5_000_000_000).unwrap();
    }

    fn copy(&self, out: &Path) {
        for file in &self.files {
            let to = out.join(file.file_name().unwrap());
            fs_err::copy(file, &to).unwrap();
            fs_err::File::open(&to).unwrap().sync_all().unwrap();
        }
    }

    fn bytes(&self) -> BytesCount {
        BytesCount::new(self.files.iter().map(|file| file.metadata().unwrap().len()).sum::<u64>())
    }
}

#[divan::bench(sample_count = 9, sample_size = 1)]
fn merge_of_two_models(bencher: Bencher<'_, '_>) {
    let work = Work::get();
    bencher.counter(work.bytes()).with_inputs(|| work.empty("out")).bench_local_values(|out| work.merge(&out));
}

#[divan::bench(sample_count = 9, sample_size = 1)]
fn copy_of_the_result(bencher: Bencher<'_, '_>) {
    let work = Work::get();
    bencher.counter(work.bytes()).with_inputs(|| work.empty("out")).bench_local_values(|out| work.copy(&out));
}

/// Largest resident memory since it was last reset, in MB.
fn peak() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kilobytes.trim().parse::<u64>().ok()? / 1024)
}

fn main() {
    divan::main();
    let work = Work::get();
    let out = work.empty("out");
    // Sets the mark back to what is resident now.
    if fs_err::write("/proc/self/clear_refs", "5").is_ok() {
        let before = peak();
        work.merge(&out);
        println!("resident memory: {before:?} MB before a merge, at most {:?} MB in it", peak());
    }
    // A static is never dropped.
    let _ = fs_err::remove_dir_all(Work::get().folder.path());
}
