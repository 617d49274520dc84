//! The work dir of an attempt: whose leftovers are trusted, what is laid out in it, and what must be as it was when the stage has
//! ended.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flow_cache::{ArtifactDigest, Cache, Laid, StageKey, WorkDir};
use fs_err as fs;
use serde::Deserialize;

use super::attempt::Attempt;
use crate::{
    error::{Error, Result, StageError},
    job::{FORMAT, Job, read_json, take_back},
    stage::InputTree,
};

/// What may lie in a work dir beside the halves of files.
const ENTRIES: [&str; 7] = ["output", "scratch", "lock", "inputs", JOB, "reports.jsonl", "result.json"];

/// What is to be done, and was last.
pub(super) const JOB: &str = "job.json";

/// Whose scratch it is, as the job says: another version of flow may have kept its checkpoints in another form.
#[derive(Debug, Deserialize)]
struct MadeBy {
    format: u32,
    flow: String,
    key: StageKey,
    kind: String,
    kind_version: u32,
    inputs: BTreeMap<String, Vec<InputTree>>,
}

/// An input as it was laid out.
pub(super) struct LaidInput {
    name: String,
    artifact: ArtifactDigest,
    path: PathBuf,
    laid: Laid,
}

/// Empties a scratch that this flow did not fill for this key, or from inputs that were changed under it, and says so; nothing if it
/// can be gone on from. The job of before stays until another takes its place if there is something to go on from: a kill in between
/// must not make a stranger of it.
pub(super) async fn trust(cache: &Cache, work: &WorkDir, attempt: &Attempt) -> Result<Option<String>> {
    let path = work.path().join(JOB);
    if work.is_scratch_empty() {
        return take_back(&path).map(|()| None);
    }
    let is_ours = |found: &MadeBy| {
        let stage = (attempt.stage.kind, attempt.stage.kind_version);
        found.format == FORMAT
            && found.flow == attempt.version
            && found.key == attempt.key
            && (found.kind.as_str(), found.kind_version) == stage
    };
    let found = read_json::<MadeBy>(&path, "work dir").ok();
    let whose = match found {
        Some(found) if is_ours(&found) => match changed_input(cache, work, found.inputs).await? {
            Some(input) => format!("comes of an input that was changed meanwhile, {input}"),
            None => return Ok(None),
        },
        Some(found) if found.key == attempt.key => format!("is of flow {}", found.flow),
        _ => "is not known to be of this stage".to_owned(),
    };
    let scratch = work.scratch();
    fs::remove_dir_all(&scratch).and_then(|()| fs::create_dir(&scratch)).map_err(Error::io("empty a work dir"))?;
    take_back(&path)?;
    Ok(Some(format!("what an earlier attempt left {whose}: discarded, it begins anew")))
}

/// The first input that an earlier attempt laid out and that is not what it was: what is in the scratch may come of it.
async fn changed_input(
    cache: &Cache,
    work: &WorkDir,
    inputs: BTreeMap<String, Vec<InputTree>>,
) -> Result<Option<String>> {
    for (role, trees) in inputs {
        for InputTree { label, artifact, .. } in trees {
            let (path, name) = place_of(work, &role, label.as_deref());
            // Not there: it was looked at by the attempt that has taken it away.
            if path.exists() && !cache.is_laid_out(&artifact, &path).await? {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Where an input is laid out, and what a person calls it.
fn place_of(work: &WorkDir, role: &str, label: Option<&str>) -> (PathBuf, String) {
    let folder = work.inputs().join(role);
    match label {
        Some(label) => (folder.join(label), format!("{role}[{label}]")),
        None => (folder, role.to_owned()),
    }
}

/// Lays the inputs out and says what is to be done. Only scratch survives from an earlier attempt.
pub(super) async fn set_up(cache: &Cache, attempt: &Attempt, work: &WorkDir) -> Result<(Job, Vec<LaidInput>)> {
    let stage = &attempt.stage;
    // What an earlier attempt wrote where it may not is no fault of this one's.
    for stray in strays(work.path())? {
        let path = work.path().join(stray);
        let removed =
            if path.is_symlink() || !path.is_dir() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
        removed.map_err(Error::io("clear a work dir"))?;
    }
    let folder = work.inputs();
    if fs::read_dir(&folder).is_ok_and(|mut found| found.next().is_some()) {
        fs::remove_dir_all(&folder).map_err(Error::io("clear a work dir"))?;
    }
    let (mut inputs, mut all) = (BTreeMap::<String, Vec<InputTree>>::new(), Vec::new());
    for (role, label, artifact) in &attempt.inputs {
        let (path, name) = place_of(work, role, label.as_deref());
        cache.materialize(artifact, &path).await.map_err(|error| lost(*artifact, error))?;
        all.push((name, *artifact, path.clone()));
        inputs.entry(role.clone()).or_default().push(InputTree { label: label.clone(), artifact: *artifact, path });
    }
    let job = Job {
        format: FORMAT,
        flow: attempt.version.clone(),
        kind: stage.kind.to_owned(),
        kind_version: stage.kind_version,
        stage: stage.id.clone(),
        key: attempt.key,
        decoded: stage.decoded.clone(),
        seed: stage.seed.unwrap_or(0),
        inputs,
        sources: stage.sources.clone().unwrap_or_default(),
        output: work.output(),
        scratch: work.scratch(),
        lock: work.lock(),
        events: work.path().join("reports.jsonl"),
        result: work.path().join("result.json"),
        device: attempt.device.clone(),
        threads: attempt.cores,
    };
    take_back(&job.result)?;
    if fs::metadata(&job.events).is_ok_and(|found| found.len() > 0) {
        fs::remove_file(&job.events).map_err(Error::io("clear a work dir"))?;
    }
    let look = |(name, artifact, path): (String, ArtifactDigest, PathBuf)| {
        Laid::look(&path).map(|laid| LaidInput { name, artifact, path, laid })
    };
    let laid: Vec<LaidInput> = all.into_iter().map(look).collect::<Result<_, _>>()?;
    let wait = laid.iter().map(|input| input.laid.settles_in()).max();
    if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
        // Not for nothing: the shortest sleep takes a millisecond.
        tokio::time::sleep(wait).await;
    }
    Ok((job, laid))
}

fn lost(artifact: ArtifactDigest, error: flow_cache::Error) -> Error {
    use flow_cache::Error::{Corrupt, NoArtifact, NoBlob};
    match error {
        Corrupt { .. } | NoBlob { .. } | NoArtifact { .. } => Error::InputLost { artifact, source: Box::new(error) },
        error => error.into(),
    }
}

/// Nothing if the stage wrote where it may: below its output and its scratch.
pub(super) async fn strayed(cache: &Cache, work: &WorkDir, inputs: Vec<LaidInput>) -> Result<Option<StageError>> {
    let defect = "a stage may write below its output and its scratch folder only: this is a defect of its kind";
    for LaidInput { name, artifact, path, laid } in inputs {
        let changes = cache.changes(&artifact, &path, laid).await?;
        if let Some(first) = changes.first() {
            let more = if changes.len() > 1 { format!(" and {} more files", changes.len() - 1) } else { String::new() };
            let message = format!("its input {name} changed while it ran: `{first}`{more}; nothing was published");
            let help = format!("{defect}, or of one that ran beside it; what is damaged is made again by the next run");
            return Ok(Some(StageError::new(message).with_help(help)));
        }
    }
    let first = strays(work.path())?.into_iter().next();
    Ok(first.map(|name| {
        StageError::new(format!("it wrote `{name}` beside its output; nothing was published")).with_help(defect)
    }))
}

/// The names in a work dir that flow did not make, sorted.
fn strays(work: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(work).map_err(Error::io("look into a work dir"))? {
        let name = entry.map_err(Error::io("look into a work dir"))?.file_name().to_string_lossy().into_owned();
        if !ENTRIES.contains(&name.as_str()) && !name.ends_with(".json.part") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
