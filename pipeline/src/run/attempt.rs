//! One attempt at one stage: work dir, inputs, process, publication, record. In this order, so that a record is never
//! there before the bytes that it names.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use flow_cache::{ArtifactDigest, Cache, Lease, PutRecord, Record, StageKey};
use fs_err as fs;
use tokio::sync::watch;

use crate::{
    error::{Error, Result, StageError, chain},
    event::{Report, now},
    executor::{Executor, Exit, Stop, Task, local::tail_of},
    job::{FORMAT, Job, JobResult, read_json, write_json},
    key::KeyParts,
    plan::PreparedStage,
    stage::InputTree,
};

/// How long a lease lasts without renewal. A dead holder on this machine is noticed at once; one elsewhere after this.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often a lease is renewed: often enough that three renewals may fail.
pub const RENEW_EVERY: Duration = Duration::from_secs(15);
const LOG_TAIL: usize = 20;

/// What an attempt needs to know.
pub struct Attempt {
    /// The stage.
    pub stage: PreparedStage,
    /// The parts of its key.
    pub parts: KeyParts,
    /// The key.
    pub key: StageKey,
    /// Its lease.
    pub lease: Lease,
    /// Its inputs: role, label, artifact.
    pub inputs: Vec<(String, Option<String>, ArtifactDigest)>,
    /// The compute device.
    pub device: String,
    /// Cores.
    pub cores: u32,
    /// Where its process's output goes.
    pub log: PathBuf,
    /// The recipe's name.
    pub recipe: String,
    /// The run's id.
    pub run: String,
    /// This machine's name, for the record.
    pub host: String,
    /// The version of flow, for the record.
    pub version: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Ended {
    /// The artifact is on record.
    Done {
        /// It.
        artifact: ArtifactDigest,
        /// Seconds that the process ran.
        seconds: f64,
        /// Bytes of the artifact.
        bytes: u64,
    },
    /// The stage failed.
    Failed {
        /// Why.
        error: StageError,
        /// The end of its log.
        log_tail: Vec<String>,
    },
    /// The stage was stopped.
    Stopped,
}

/// Makes the attempt. Every failure of the stage itself is an [`Ended::Failed`].
pub async fn attempt(
    cache: Cache,
    executor: Arc<dyn Executor>,
    attempt: Attempt,
    stop: watch::Receiver<Stop>,
    report: &mut (dyn FnMut(Report) + Send),
) -> Ended {
    match try_attempt(&cache, executor.as_ref(), &attempt, stop, report).await {
        Ok(ended) => ended,
        Err(error) => Ended::Failed {
            error: StageError::new(chain(&error)),
            log_tail: tail_of(&attempt.log, LOG_TAIL),
        },
    }
}

async fn try_attempt(
    cache: &Cache,
    executor: &dyn Executor,
    attempt: &Attempt,
    stop: watch::Receiver<Stop>,
    report: &mut (dyn FnMut(Report) + Send),
) -> Result<Ended> {
    let stage = &attempt.stage;
    let work = cache.work_dir(&attempt.key)?;
    let fresh = |path: PathBuf| -> Result<PathBuf> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io("clear a work dir"))?;
        }
        Ok(path)
    };
    let inputs_folder = fresh(work.path().join("inputs"))?;
    fs::create_dir_all(&inputs_folder).map_err(Error::io("create a work dir"))?;
    let output = fresh(work.output())?;
    fs::create_dir_all(&output).map_err(Error::io("create a work dir"))?;
    let scratch = work.scratch();
    fs::create_dir_all(&scratch).map_err(Error::io("create a work dir"))?;

    let mut inputs = std::collections::BTreeMap::<String, Vec<InputTree>>::new();
    for (role, label, artifact) in &attempt.inputs {
        let folder = match label {
            Some(label) => inputs_folder.join(role).join(label),
            None => inputs_folder.join(role),
        };
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create a work dir"))?;
        }
        cache.materialize(artifact, &folder).await?;
        inputs.entry(role.clone()).or_default().push(InputTree {
            label: label.clone(),
            artifact: *artifact,
            path: folder,
        });
    }
    let job = Job {
        format: FORMAT,
        kind: stage.kind.to_owned(),
        kind_version: stage.kind_version,
        stage: stage.id.clone(),
        key: attempt.key,
        decoded: stage.decoded.clone(),
        seed: stage.seed.unwrap_or(0),
        inputs,
        sources: stage.sources.clone().unwrap_or_default(),
        output: output.clone(),
        scratch,
        events: work.path().join("reports.jsonl"),
        result: work.path().join("result.json"),
        device: attempt.device.clone(),
        threads: attempt.cores,
    };
    for stale in [&job.events, &job.result] {
        if stale.exists() {
            fs::remove_file(stale).map_err(Error::io("clear a work dir"))?;
        }
    }
    let job_path = work.path().join("job.json");
    write_json(&job_path, &job)?;

    let started = now();
    let clock = Instant::now();
    let task = Task {
        stage: stage.id.clone(),
        job: job_path,
        log: attempt.log.clone(),
        events: job.events.clone(),
        time: stage.resources.time.map(Into::into),
    };
    let exit = {
        let execution = executor.execute(&task, stop.clone(), report);
        tokio::pin!(execution);
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.tick().await;
        loop {
            tokio::select! {
                exit = &mut execution => break exit?,
                _ = renew.tick() => cache.renew(&attempt.lease, SystemTime::now(), LEASE).await?,
            }
        }
    };
    let seconds = clock.elapsed().as_secs_f64();
    if let Some(ended) = judge(exit, &job, *stop.borrow(), &attempt.log) {
        return Ok(ended);
    }

    if !cache.still_holds(&attempt.lease, SystemTime::now()).await? {
        return Ok(Ended::Failed {
            error: StageError::new("another run took this stage over while this one was away; nothing was published")
                .with_help("run again: the other run's result will be taken"),
            log_tail: Vec::new(),
        });
    }
    let published = cache.publish(&output).await?;
    let record = Record {
        format: flow_cache::RECORD_FORMAT,
        key: attempt.key,
        kind: stage.kind.to_owned(),
        kind_version: stage.kind_version,
        artifact: published.digest,
        parts: serde_json::to_value(&attempt.parts).unwrap_or_default(),
        stage: stage.id.to_string(),
        run: attempt.run.clone(),
        started,
        seconds,
        flow_version: attempt.version.clone(),
        host: attempt.host.clone(),
        log: None,
        bytes: published.manifest.total_bytes(),
        files: published.manifest.entries().len() as u64,
        accepted: None,
        metrics: serde_json::Value::Null,
    };
    if let PutRecord::Conflict(first) = cache.put_record(&record).await? {
        return Err(Error::NonDeterministic {
            stage: stage.id.clone(),
            key: attempt.key,
            first: first.artifact,
            second: published.digest,
        });
    }
    work.remove()?;
    Ok(Ended::Done { artifact: published.digest, seconds, bytes: record.bytes })
}

/// Nothing if the output is complete; otherwise how the attempt ended.
fn judge(exit: Exit, job: &Job, stop: Stop, log: &std::path::Path) -> Option<Ended> {
    let failed = |error: StageError| Some(Ended::Failed { error, log_tail: tail_of(log, LOG_TAIL) });
    let result: Option<JobResult> =
        job.result.exists().then(|| read_json(&job.result, "result").ok()).flatten();
    match (exit, result) {
        (Exit::Code(0), Some(JobResult { error: None, .. })) => None,
        (_, Some(JobResult { error: Some(error), .. })) if error.cancelled => Some(Ended::Stopped),
        (_, Some(JobResult { error: Some(error), .. })) => failed(error),
        (Exit::TimedOut, _) => failed(
            StageError::new("it ran longer than its `resources.time` allows")
                .with_help("raise `time`; what it had done is kept and the next run goes on from there"),
        ),
        _ if stop > Stop::No => Some(Ended::Stopped),
        (Exit::Signal(9), _) => failed(
            StageError::new("its process was killed (signal 9)")
                .with_help("most often the machine ran out of memory; what it had done is kept"),
        ),
        (Exit::Signal(signal), _) => failed(StageError::new(format!("its process ended by signal {signal}"))),
        (Exit::Code(code), _) => failed(StageError::new(format!("its process ended with code {code} and no result"))),
    }
}
