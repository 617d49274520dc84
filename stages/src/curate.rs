//! `curate`: sources in, a corpus out (filters, deduplication, held-out split, Parquet shards, statistics).

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use flow_data::{
    curate::{self, CurateParams, LongDocuments, MaxBroken, Phase, Progress},
    dedup::Dedup,
    filter::Filter,
    normalise::Normalise,
    source::{self, CargoSpec, FilesSpec, Patience, ResolvedSource, SourceSpec},
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Estimate, External, Forecast, Forecasts, Kind, ResolveContext, Role},
    units::{Bytes, Duration},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, go_on},
    facts, misfit,
};

/// The kind.
pub(crate) struct Curate;

/// What becomes of the sources.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Name of the domain, written into every row.
    pub domain: String,
    /// One spelling for texts that look the same.
    #[serde(default)]
    pub normalise: Normalise,
    /// Rules in their order; the first that finds something wrong drops the document.
    #[serde(default = "filters")]
    pub filters: Vec<Filter>,
    /// Duplicates.
    #[serde(default)]
    pub dedup: Dedup,
    /// Documents that training never sees.
    #[serde(default)]
    pub heldout: Heldout,
    /// Most bytes of text in `train`; documents are taken in the order of their hashes, so that a larger limit only adds.
    #[serde(default)]
    pub max_bytes: Option<Bytes>,
    /// Documents longer than this are long.
    #[serde(default = "max_document_bytes")]
    pub max_document_bytes: Bytes,
    /// What becomes of long documents.
    #[serde(default)]
    pub long_documents: LongDocuments,
    /// A shard is closed when it holds this much text.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: Bytes,
    /// How much of the sources may be broken.
    #[serde(default)]
    pub max_broken: MaxBroken,
}

/// The held-out split: the documents with the smallest hashes of their text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Heldout {
    /// Share of the documents, 0 for none.
    pub share: f64,
    /// At least so many.
    pub min_documents: u64,
    /// At most so many; the others are dropped, not trained on.
    pub max_documents: Option<u64>,
    /// At most so much text, likewise.
    pub max_bytes: Option<Bytes>,
}

impl Default for Heldout {
    fn default() -> Self {
        let curate::Heldout { share, min_documents, max_documents, max_bytes } = curate::Heldout::default();
        Self { share, min_documents, max_documents, max_bytes: max_bytes.map(Bytes) }
    }
}

fn filters() -> Vec<Filter> {
    CurateParams::default().filters
}

fn max_document_bytes() -> Bytes {
    Bytes(CurateParams::default().max_document_bytes)
}

fn shard_bytes() -> Bytes {
    Bytes(CurateParams::default().shard_bytes)
}

impl From<Params> for CurateParams {
    fn from(params: Params) -> Self {
        let Params {
            domain,
            normalise,
            filters,
            dedup,
            heldout: Heldout { share, min_documents, max_documents, max_bytes: heldout_bytes },
            max_bytes,
            max_document_bytes,
            long_documents,
            shard_bytes,
            max_broken,
        } = params;
        CurateParams {
            domain,
            normalise,
            filters,
            dedup,
            heldout: curate::Heldout {
                share,
                min_documents,
                max_documents,
                max_bytes: heldout_bytes.map(|bytes| bytes.0),
            },
            max_bytes: max_bytes.map(|bytes| bytes.0),
            max_document_bytes: max_document_bytes.0,
            long_documents,
            shard_bytes: shard_bytes.0,
            max_broken,
        }
    }
}

/// Where the documents come from. What they are enters the key by content; where they lie does not.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Places {
    /// Folders, patterns, object stores, or the sources of cargo packages, read in this order.
    #[serde(default)]
    pub sources: Vec<SourceSpec>,
    /// A folder with a sub-folder for each domain: read instead of `sources`, if it is given.
    #[serde(default)]
    pub data: Option<PathBuf>,
    /// How long and how often an object store is asked that sources lie on.
    #[serde(default)]
    pub remote: Remote,
}

/// How long and how often an object store is asked: of a network, calls fail and hang.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Remote {
    /// The longest that one call may take, or the next bytes of a file may be waited for; a call that moves few bytes or none has
    /// a twelfth of it, or 10s.
    pub timeout: Duration,
    /// How often a call is made in all before the stage fails.
    pub attempts: NonZeroU32,
    /// The pause before the second attempt; it doubles each time.
    pub backoff: Duration,
}

impl Default for Remote {
    fn default() -> Self {
        let Patience { timeout, attempts, backoff } = Patience::default();
        let time = |time: std::time::Duration| Duration(time.as_millis() as u64);
        let attempts = NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN);
        Self { timeout: time(timeout), attempts, backoff: time(backoff) }
    }
}

impl Remote {
    fn patience(&self) -> Patience {
        let Self { timeout, attempts, backoff } = self;
        Patience { timeout: timeout.as_std(), attempts: attempts.get(), backoff: backoff.as_std() }
    }
}

impl Places {
    /// The sources, each with the param that names it.
    fn specs(&self, domain: &str) -> Result<Vec<(String, SourceSpec)>, StageError> {
        if let Some(data) = &self.data {
            let spec = FilesSpec::folder(data.join(domain).to_string_lossy());
            return Ok(vec![("data".to_owned(), SourceSpec::Files(spec))]);
        }
        if self.sources.is_empty() {
            return Err(StageError::new(format!("no sources are named for the domain `{domain}`")).with_help(
                "give `sources`, such as `sources: [{ files: { path: my-folder } }]`, or `data`, a folder with a sub-folder a domain",
            ));
        }
        let named = |(at, spec): (usize, &SourceSpec)| {
            let form = match spec {
                SourceSpec::Files(_) => "files",
                SourceSpec::Cargo(_) => "cargo-sources",
            };
            (format!("sources[{at}].{form}"), spec.clone())
        };
        Ok(self.sources.iter().enumerate().map(named).collect())
    }
}

/// Where a source is, as the recipe says it.
fn place(spec: &SourceSpec) -> String {
    match spec {
        SourceSpec::Files(files) => files.path.clone(),
        SourceSpec::Cargo(CargoSpec { manifest, packages, .. }) => {
            format!("{} of {}", packages.join(", "), manifest.display())
        }
    }
}

/// Finds a source below the recipe's folder or, where nothing is there, below the current one: what is typed after `--set` is
/// meant from where one stands.
fn find(spec: &SourceSpec, patience: Patience, ctx: &ResolveContext<'_>) -> Result<ResolvedSource, StageError> {
    let hash = |path: &Path| Ok((ctx.hash)(path)?);
    let memo_dir = Some(ctx.memo);
    let look = |base: &Path| source::resolve(spec, &source::ResolveContext { base, hash: &hash, memo_dir, patience });
    match look(ctx.base) {
        Err(missing @ flow_data::Error::SourceMissing { .. }) => look(Path::new("")).map_err(|_| data(missing)),
        other => other.map_err(data),
    }
}

/// So many links of a circle say what is wrong.
const FEW_NOTES: usize = 4;

impl Kind for Curate {
    const NAME: &'static str = "curate";
    const VERSION: u32 = 2;
    const ABOUT: &'static str =
        "Read sources, filter and deduplicate their documents, hold some out, and write the corpus as Parquet shards.";
    const MAKES: &'static str = artifact::CORPUS;
    type Params = Params;
    type Places = Places;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn resolve(params: &Params, places: &Places, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        let as_json = |value: serde_json::Result<serde_json::Value>| {
            value.map_err(|e| StageError::new(format!("failed to write a source as JSON: {e}")))
        };
        let external = |(param, spec): &(String, SourceSpec)| {
            let source = find(spec, places.remote.patience(), ctx).map_err(|error| error.of_param(param))?;
            // One digest for all files: a corpus may have a million of them, and a plan shows every part of a key.
            let identity = serde_json::json!({
                "options": source.options, "files": source.files.len(), "digest": source.digest(),
            });
            Ok(External { identity, handle: as_json(serde_json::to_value(&source))?, place: place(spec) })
        };
        places.specs(&params.domain)?.iter().map(external).collect()
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        CurateParams::from(params.clone()).validate().map_err(|error| misfit::data(error, ""))
    }

    fn forecast(params: &Params, _: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        let mut disk = 0;
        for (fact, bytes) in [(facts::TRAIN_BYTES, params.max_bytes), (facts::HELDOUT_BYTES, params.heldout.max_bytes)]
        {
            if let Some(Bytes(bytes)) = bytes {
                forecast.facts.insert(fact.to_owned(), bytes.into());
                disk += bytes / 3;
            }
        }
        forecast.facts.insert(facts::HOLDS_OUT.to_owned(), (params.heldout.share > 0.0).into());
        let tokens = params.max_bytes.map(|bytes| facts::tokens_of(bytes.0));
        forecast.estimate = Estimate { tokens, disk: (disk > 0).then_some(disk), ..Estimate::default() };
        forecast
    }

    fn run(ctx: &Context, params: Params, places: Places) -> Result<(), StageError> {
        engine::start(ctx)?;
        let sources: Vec<ResolvedSource> = ctx
            .sources()
            .iter()
            .map(|external| {
                ResolvedSource::deserialize(&external.handle)
                    .map(|source| ResolvedSource { patience: places.remote.patience(), ..source })
                    .map_err(|e| StageError::new(format!("failed to read the sources of a job: {e}")))
            })
            .collect::<Result<_, _>>()?;
        let notes: Vec<&String> = sources.iter().flat_map(|source| &source.notes).collect();
        for note in notes.iter().take(FEW_NOTES) {
            ctx.note(*note);
        }
        if notes.len() > FEW_NOTES {
            ctx.note(format!("and {} more links back", notes.len() - FEW_NOTES));
        }
        let progress = |at: Progress| match at.phase {
            Phase::Read => go_on(ctx, at.documents, at.total_documents, "documents read"),
            Phase::Dedup => go_on(ctx, at.documents, at.total_documents, "documents compared"),
            Phase::Write => go_on(ctx, at.documents, at.total_documents, "documents written"),
        };
        let statistics = curate::curate(&sources, &params.into(), ctx.output(), &progress).map_err(data)?;
        if let Some((reason, documents)) = statistics.nearly_all() {
            let (read, kept) = (statistics.read.documents, statistics.kept.documents);
            ctx.note(format!(
                "nearly all was dropped: of {read} documents {documents} for `{reason}`, {kept} are kept; `statistics.json` has \
                 examples"
            ));
        }
        let broken = &statistics.broken;
        if broken.records + broken.streams > 0 {
            let first = broken.samples.first().map(|sample| format!("; the first: {sample}")).unwrap_or_default();
            let count = |n: u64, one: &str| format!("{n} broken {one}{}", if n == 1 { "" } else { "s" });
            let parts = [(broken.records, "record"), (broken.streams, "file")];
            let parts: Vec<String> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, one)| count(n, one)).collect();
            ctx.note(format!("{} left out{first}", parts.join(" and ")));
        }
        Ok(())
    }
}
