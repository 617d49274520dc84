//! The last run of a command that found every stage in the cache, remembered: the same command need not read ten thousand stages
//! again to find that there is nothing to do.
//!
//! What is remembered is never believed. The texts of the recipe are hashed, the sources outside of flow looked at, and every
//! artifact looked up, as a plan does it; where anything differs there is no answer, and a plan is made. Only what follows
//! from these alone is taken from the file: the stages, their keys, and the plan that the run of then wrote down.

use std::{
    fmt::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};

use flow_cache::{ArtifactDigest, BlobDigest, Cache, Seal, StageKey, plain};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{attempt::rounded, folder::RunFolder};
use crate::{
    error::{Error, Result},
    event::{Event, Outcome, Stamped, log::EventLog, now, state::RunState},
    key::Numerics,
    names::StageId,
    plan::{Plan, Verdict, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    registry::Registry,
    stage::{Decoded, ResolveContext},
};

const FORMAT: u32 = 1;
/// So many commands are remembered.
const KEPT: usize = 16;

/// What was asked for: the same program, in the same folder, with the same words.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The program.
    pub program: &'a Path,
    /// The recipe.
    pub recipe: &'a Path,
    /// What is laid over it.
    pub options: &'a LoadOptions,
    /// The stages that were named.
    pub stages: &'a [String],
    /// The device that was named.
    pub device: Option<&'a str>,
}

impl Asked<'_> {
    /// A name for it. A program that was built anew is another one: its stages may have other defaults.
    fn id(&self) -> Option<BlobDigest> {
        let program = fs::metadata(self.program).ok()?;
        let program = (program.dev(), program.ino(), program.len(), program.mtime(), program.mtime_nsec());
        let (profiles, set) = (&self.options.profiles, &self.options.set);
        let words = (FORMAT, program, std::env::current_dir().ok()?, self.recipe);
        let words = serde_json::to_vec(&(words, profiles, set, self.stages, self.device)).ok()?;
        Some(BlobDigest::of(&words))
    }

    fn file(&self, cache: &Cache) -> Option<PathBuf> {
        Some(folder(cache).join(self.id()?.to_string()))
    }
}

fn folder(cache: &Cache) -> PathBuf {
    cache.root().join("memo").join("unchanged")
}

/// A run in which every stage was in the cache.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unchanged {
    /// The recipe's name.
    recipe: String,
    /// The compute device, and what it has to do with bytes.
    device: String,
    numerics: Numerics,
    /// The folder from which sources are looked for.
    root: PathBuf,
    /// Name and digest of every text that the recipe was read from.
    texts: Vec<(String, BlobDigest)>,
    sources: Vec<Sources>,
    /// The run that wrote its plan down.
    run: String,
    /// How the file of its last keys looked, which are then these.
    latest: Option<(u64, i64, i64)>,
    /// In an order in which each follows its inputs.
    #[serde(skip)]
    stages: Vec<(StageKey, ArtifactDigest, StageId)>,
}

/// The sources of a stage, as they were.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sources {
    kind: String,
    kind_version: u32,
    decoded: Decoded,
    identities: Vec<Value>,
}

impl Unchanged {
    /// What is remembered of the command, if the texts and sources are those of then. `numerics` tells what a device has to do
    /// with bytes here and now.
    pub fn recall(
        asked: &Asked<'_>,
        cache: &Cache,
        registry: &Registry,
        surroundings: &Surroundings<'_>,
        numerics: &dyn Fn(&str) -> Option<Numerics>,
    ) -> Option<Self> {
        let known = parse(&plain::read(&asked.file(cache)?).ok()?)?;
        let same_texts = || {
            let is_same = |(name, digest): &(String, BlobDigest)| {
                recipe::text_of_file(Path::new(name)).is_some_and(|text| BlobDigest::of(text.as_bytes()) == *digest)
            };
            known.texts.iter().all(is_same)
        };
        let context = ResolveContext { base: &known.root, memo: surroundings.memo, hash: surroundings.hash };
        let same_sources = || {
            known.sources.iter().all(|of| {
                let kind = registry.get(&of.kind).filter(|kind| kind.version() == of.kind_version);
                let found = kind.and_then(|kind| kind.resolve(&of.decoded, &context).ok());
                found.is_some_and(|found| found.iter().map(|source| &source.identity).eq(&of.identities))
            })
        };
        let is_same = same_texts() && numerics(&known.device).as_ref() == Some(&known.numerics) && same_sources();
        is_same.then_some(known)
    }

    /// Whether every artifact is still the one of its key, with all its bytes.
    pub async fn is_all_there(&self, cache: &Cache) -> Result<bool> {
        let wanted: Vec<_> = self.stages.iter().map(|(key, artifact, _)| (*key, *artifact)).collect();
        Ok(cache.are_hits(&wanted).await?)
    }

    /// The run that has nothing to do, with all that such a run leaves behind; nothing if the one of then was removed.
    pub fn run(
        &self,
        cache: &Cache,
        runs: &Path,
        cores: u32,
        watcher: &mut (dyn FnMut(&Stamped, &RunState) + Send),
    ) -> Result<Option<RunState>> {
        let clock = Instant::now();
        let then = runs.join(&self.run);
        let frozen = ["recipe.json", "plan.json"].map(|name| then.join(name));
        if !frozen.iter().all(|file| file.is_file()) {
            return Ok(None);
        }
        let folder = RunFolder::create(runs)?;
        for file in &frozen {
            let to = folder.path().join(file.file_name().unwrap_or_default());
            // Neither is written to again.
            let placed = std::fs::hard_link(file, &to).or_else(|_| fs::copy(file, &to).map(drop));
            placed.map_err(Error::io("write down the plan of a run"))?;
        }
        let started = Event::RunStarted {
            run: folder.id().to_owned(),
            recipe: self.recipe.clone(),
            stages: self.stages.iter().map(|(_, _, stage)| stage.clone()).collect(),
            cores,
        };
        let is_latest = self.latest.is_some() && cache.latest_stamp(&self.recipe) == self.latest;
        let cached = self.stages.iter().map(|(key, artifact, stage)| {
            if !is_latest && let Err(error) = cache.set_latest(&self.recipe, &stage.to_string(), key) {
                tracing::warn!(%error, "the last key of a stage could not be remembered");
            }
            Event::StageCached { stage: stage.clone(), key: *key, artifact: *artifact }
        });
        let time = now();
        let mut events: Vec<Stamped> =
            std::iter::once(started).chain(cached).map(|what| Stamped { time: time.clone(), what }).collect();
        let finished = Event::RunFinished { outcome: Outcome::Done, seconds: rounded(clock.elapsed()) };
        events.push(Stamped { time: now(), what: finished });
        let logged = EventLog::append_to(&folder.events())?.write_all(&events);
        let mut state = RunState::default();
        for event in &events {
            state.apply(event);
            watcher(event, &state);
        }
        logged.map(|()| Some(state))
    }

    /// Remembers a run that found all of `plan` in the cache. Advisory: what cannot be written costs time and nothing else.
    pub fn remember(asked: &Asked<'_>, cache: &Cache, recipe: &Recipe, plan: &Plan, device: &str, run: &RunFolder) {
        let remembered = Self::of(asked, cache, recipe, plan, device, run).zip(asked.file(cache));
        let Some((known, file)) = remembered else { return };
        let written = || -> std::io::Result<()> {
            let folder = folder(cache);
            fs::create_dir_all(&folder)?;
            let aside = file.with_extension(run.id());
            fs::write(&aside, known.to_text()?)?;
            fs::rename(aside, &file)?;
            forget_the_oldest(&folder)
        };
        if let Err(error) = written() {
            tracing::warn!(%error, "that nothing changed will be found out again");
        }
    }

    fn of(
        asked: &Asked<'_>,
        cache: &Cache,
        recipe: &Recipe,
        plan: &Plan,
        device: &str,
        run: &RunFolder,
    ) -> Option<Self> {
        let (files, set): (Vec<_>, Vec<_>) =
            recipe.sources.files().iter().partition(|text| text.name != recipe::SET_SOURCE);
        // What was set is in the words of the command; a file that is called so is not.
        if set.len() != asked.options.set.len() || !plan.hollow.is_empty() {
            return None;
        }
        let stages = plan.graph().order().iter().map(|&at| match plan.verdicts[at] {
            Verdict::Cached { key, artifact } => Some((key, artifact, plan.stages()[at].id.clone())),
            _ => None,
        });
        let sources = plan.stages().iter().filter_map(|stage| {
            let found = stage.sources.as_ref().ok().filter(|found| !found.is_empty())?;
            Some(Sources {
                kind: stage.kind.to_owned(),
                kind_version: stage.kind_version,
                decoded: stage.decoded.clone(),
                identities: found.iter().map(|source| source.identity.clone()).collect(),
            })
        });
        Some(Self {
            recipe: recipe.name.as_str().to_owned(),
            device: device.to_owned(),
            numerics: plan.numerics.clone(),
            root: recipe.root.clone(),
            texts: files.iter().map(|text| (text.name.clone(), BlobDigest::of(text.text.as_bytes()))).collect(),
            sources: sources.collect(),
            run: run.id().to_owned(),
            latest: cache.latest_stamp(recipe.name.as_str()),
            stages: stages.collect::<Option<_>>()?,
        })
    }

    /// A line of JSON, a line a stage, and the check of all that.
    fn to_text(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        for (key, artifact, stage) in &self.stages {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key} {artifact} {stage}");
        }
        Ok(Seal::LINE.seal(text))
    }
}

fn parse(bytes: &[u8]) -> Option<Unchanged> {
    let mut lines = Seal::LINE.unseal(bytes)?.lines();
    let mut known: Unchanged = serde_json::from_str(lines.next()?).ok()?;
    let stage = |line: &str| {
        let (key, rest) = line.split_once(' ')?;
        let (artifact, stage) = rest.split_once(' ')?;
        Some((key.parse().ok()?, artifact.parse().ok()?, stage.parse().ok()?))
    };
    known.stages = lines.map(stage).collect::<Option<_>>()?;
    Some(known)
}

fn forget_the_oldest(folder: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let many = files.len().saturating_sub(KEPT);
    files.into_iter().take(many).try_for_each(|(_, file)| fs::remove_file(file))
}
