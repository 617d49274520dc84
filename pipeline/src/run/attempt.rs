//! One attempt at one stage: work dir, inputs, process, publication, record. In this order, so that a record is never
//! there before the bytes that it names.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use flow_cache::{
    ArtifactDigest, BlobDigest, Cache, Holder, Lease, PutRecord, Record, StageKey, WorkDir, WorkLock, failpoint,
};
use fs_err as fs;
use serde_json::Value;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    stopped::{unless_killed, unless_stopped},
    work,
};
use crate::{
    error::{Error, Result, StageError, chain},
    event::{Report, now},
    exec,
    executor::{Executor, Exit, Stop, Task, local::tail_of, signal},
    job::{Job, JobResult, read_json, write_json},
    key::KeyParts,
    plan::PreparedStage,
    recipe::Retries,
};

/// How long a lease lasts without renewal. A dead holder on this machine is noticed at once; one elsewhere after this.
pub const LEASE: Duration = Duration::from_mins(1);
/// How often a lease is renewed in its lifetime: often enough that three renewals may fail.
const RENEWALS: u32 = 4;
/// How long the process of a dead run may still hold the work dir: the grace that it has, and time to die.
const TAKEN: Duration = exec::ORPHAN_GRACE.saturating_mul(3);
/// The work dir of a stage that took no longer is put away, and removed when the run ends: an ext4 without a journal does not use an
/// inode again for minutes and looks at each such one whenever it makes a file, so that to make and remove gets slower each time.
const QUICK: Duration = Duration::from_secs(1);
const LOG_TAIL: usize = 20;
/// A larger log is not kept with the record.
const LOG_KEPT: u64 = 16 << 20;

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
        /// Whether another attempt may go well.
        again: bool,
    },
    /// The stage was stopped.
    Stopped,
    /// Another run got the lease while this one was away, and nothing was published: that one's result is waited for.
    TakenOver,
    /// It could not begin, since the bytes of an input are damaged or gone: that one must be made again first.
    Lost {
        /// The input.
        artifact: ArtifactDigest,
        /// What the store says.
        why: String,
    },
}

/// Makes the attempt, and as many more as the stage's `retries` allow. Every failure of the stage itself is an
/// [`Ended::Failed`]. From [`Report::Retrying`] on the stage's cores are free; `wish` asks for them again, and what it returns
/// tells when they are there.
pub async fn attempt(
    cache: Cache,
    executor: Arc<dyn Executor>,
    attempt: Attempt,
    mut stop: watch::Receiver<Stop>,
    report: &mut (dyn FnMut(Report) + Send),
    wish: &(dyn Fn() -> oneshot::Receiver<()> + Sync),
) -> Ended {
    let Retries { attempts, backoff } = attempt.stage.resources.retries;
    let mut pause = backoff.as_std();
    // The lease was taken a moment ago.
    let mut due = tokio::time::Instant::now() + attempt.lease.ttl / RENEWALS;
    for next in 2.. {
        let ended = one(&cache, executor.as_ref(), &attempt, due, stop.clone(), report).await;
        let error = match &ended {
            Ended::Failed { error, again: true, .. } if next <= attempts.get() => error.clone(),
            _ => return ended,
        };
        report(Report::Retrying { attempt: next, of: attempts.get(), wait: rounded(pause), error });
        let enough = Notify::new();
        // At once, and at once again when the next attempt begins: neither knows when that was done last.
        due = tokio::time::Instant::now();
        let turn = async {
            tokio::time::sleep(pause).await;
            // An error means that nobody is left who gives cores: then the run has ended.
            wish().await
        };
        tokio::select! {
            given = turn => if given.is_err() { return Ended::Stopped },
            () = renew(&cache, &attempt.lease, due, &enough) => return Ended::TakenOver,
            // An error means that nobody is left who could ask.
            _ = stop.wait_for(|stop| *stop > Stop::No) => return Ended::Stopped,
        }
        pause = pause.saturating_mul(2);
    }
    // The numbers never end.
    Ended::Stopped
}

async fn one(
    cache: &Cache,
    executor: &dyn Executor,
    attempt: &Attempt,
    due: tokio::time::Instant,
    stop: watch::Receiver<Stop>,
    report: &mut (dyn FnMut(Report) + Send),
) -> Ended {
    let ended = match try_attempt(cache, executor, attempt, due, stop, report).await {
        Ok(ended) => ended,
        Err(Error::InputLost { artifact, source }) => Ended::Lost { artifact, why: chain(source.as_ref()) },
        Err(error) => Ended::Failed {
            again: matches!(&error, Error::Cache(cause) if cause.may_pass()) || matches!(error, Error::Spawn { .. }),
            error: told(&error),
            log_tail: tail_of(&attempt.log, LOG_TAIL),
        },
    };
    match ended {
        Ended::Failed { error, log_tail, again } => {
            Ended::Failed { error: with_disk(error, cache.root()), log_tail, again }
        }
        other => other,
    }
}

/// The system's words for ENOSPC, which every library passes on.
const FULL: &str = "No space left on device";

/// Says which disk is full: whatever a stage writes lies in the store, however deep the library that met the end of it.
fn with_disk(error: StageError, store: &Path) -> StageError {
    if !error.message.contains(FULL) {
        return error;
    }
    let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    error.with_help(format!(
        "the disk of {}/ is full: make room there, or name another folder with `--store`, and give the same command again; \
         what was finished is kept",
        store.display()
    ))
}

/// A failure that is not the stage's own, as one of its stage.
pub(super) fn told(error: &Error) -> StageError {
    StageError { help: advice(error).map(str::to_owned), ..StageError::new(error.sentence()) }
}

/// What a person can do about it.
fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::NonDeterministic { first, .. } if first.accepted.is_some() => Some(
            "the change that was accepted was not harmless: the artifact on record, which was made from what was there before it, \
             stays. `flow cache forget STAGE` takes the acceptance back (from a shared store with `--remote`), and the same \
             command then makes the stage as the recipe is now",
        ),
        Error::NonDeterministic { .. } => Some(
            "the artifact on record stays; on one kind of processor a stage must give the same bytes each time, so this is \
             a defect of the stage or of the machine. Where the artifact on record is nowhere any more, `flow cache forget \
             STAGE` takes the record away (from a shared store with `--remote`), and the same command makes a new one",
        ),
        Error::Cache(flow_cache::Error::DiskFull { .. }) => Some("make room and give the same command again"),
        Error::Cache(cause) if cause.is_refused() => Some(
            "who runs flow must be allowed to write to the store; `--store` names another folder, and what was finished is kept",
        ),
        Error::Cache(cause @ flow_cache::Error::Store { .. }) if cause.may_pass() => {
            Some("once the store answers again, give the same command again: what was finished is kept")
        }
        _ => None,
    }
}

async fn try_attempt(
    cache: &Cache,
    executor: &dyn Executor,
    attempt: &Attempt,
    due: tokio::time::Instant,
    mut stop: watch::Receiver<Stop>,
    report: &mut (dyn FnMut(Report) + Send),
) -> Result<Ended> {
    let stage = &attempt.stage;
    let work = cache.work_dir(&attempt.key)?;
    if let Some(ended) = wait_until_free(&work, &mut stop).await? {
        return Ok(ended);
    }
    place("attempt.free")?;
    let set_up = async {
        if let Some(text) = work::trust(cache, &work, attempt).await? {
            report(Report::Note { text });
        }
        work::set_up(cache, attempt, &work).await
    };
    let Some(set_up) = unless_stopped(&stop, set_up).await else { return Ok(Ended::Stopped) };
    let (job, inputs) = set_up?;
    place("attempt.set-up")?;
    let job_path = work.path().join(work::JOB);
    write_json(&job_path, &job)?;

    let started = now();
    let clock = Instant::now();
    let task = Task {
        stage: stage.id.clone(),
        job: job_path,
        log: attempt.log.clone(),
        events: job.events.clone(),
        time: stage.resources.limit().map(|(_, limit)| limit.as_std()),
    };
    let mut metrics = Value::Null;
    let mut hear = |said: Report| {
        if let Report::Metrics { metrics: last } = &said {
            metrics.clone_from(last);
        }
        report(said);
    };
    let enough = Notify::new();
    let mut renewal = pin!(renew(cache, &attempt.lease, due, &enough));
    let exit = tokio::select! {
        exit = executor.execute(&task, stop.clone(), &mut hear) => exit?,
        // What is dropped here is killed.
        () = &mut renewal => return Ok(Ended::TakenOver),
    };
    // Ended, not dropped: a renewal that is cut off may still be written, and undo a release that comes after it.
    enough.notify_one();
    unless_stopped(&stop, renewal).await;
    place("attempt.exited")?;
    let seconds = rounded(clock.elapsed());
    if let Some(ended) = judge(exit, &job, *stop.borrow(), attempt) {
        return Ok(ended);
    }

    match unless_stopped(&stop, cache.still_holds(&attempt.lease)).await.transpose()? {
        Some(true) => {}
        Some(false) => return Ok(Ended::TakenOver),
        None => return Ok(Ended::Stopped),
    }
    if let Some(error) = work::strayed(cache, &work, inputs).await? {
        return Ok(Ended::Failed { error, log_tail: tail_of(&attempt.log, LOG_TAIL), again: false });
    }
    place("attempt.publish")?;
    let published = cache.publish(&job.output).await?;
    place("attempt.published")?;
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
        log: keep_log(cache, &attempt.log).await?,
        bytes: published.manifest.total_bytes(),
        files: published.manifest.entries.len() as u64,
        accepted: None,
        made_for: None,
        metrics,
    };
    let recorded = unless_killed(&stop, cache.put_record_under(&record, &attempt.lease)).await;
    let Some(recorded) = recorded else { return Ok(Ended::Stopped) };
    match recorded {
        Ok(PutRecord::Created | PutRecord::Same) => {}
        Ok(PutRecord::Conflict(first)) => {
            // Whoever looks again must begin anew, and not from what led here.
            work.remove()?;
            return Err(Error::NonDeterministic {
                stage: Box::new(stage.id.clone()),
                key: attempt.key,
                first,
                second: published.digest,
            });
        }
        Err(flow_cache::Error::LeaseLost { .. }) => return Ok(Ended::TakenOver),
        Err(error) => return Err(error.into()),
    }
    place("attempt.recorded")?;
    let is_quick = clock.elapsed() < QUICK && work.is_scratch_empty();
    // The work is done and on record, whatever becomes of where it was done.
    if let Err(error) = if is_quick { cache.put_away(&work) } else { work.remove() } {
        report(Report::Note { text: format!("is done, and its work dir is still there: {}", chain(&error)) });
    }
    Ok(Ended::Done { artifact: published.digest, seconds, bytes: record.bytes })
}

/// A place at which tests may step in.
fn place(name: &str) -> Result<()> {
    failpoint::at(name).map_err(Error::io("do a stage"))
}

/// Seconds to the millisecond: with so few digits every JSON parser reads the same number back.
pub(super) fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Waits for the process of a run that was killed to be gone from the work dir, so that two never write there at once.
async fn wait_until_free(work: &WorkDir, stop: &mut watch::Receiver<Stop>) -> Result<Option<Ended>> {
    let since = Instant::now();
    while WorkLock::try_take(&work.lock())?.is_none() {
        if *stop.borrow() > Stop::No {
            return Ok(Some(Ended::Stopped));
        }
        if since.elapsed() > TAKEN {
            let error = StageError::new(format!("another process still works in {}", work.path().display()));
            let error = error.with_help(match WorkLock::signer(&work.lock()) {
                Some(Holder { pid, host, .. }) => format!(
                    "it is process {pid} on {host}, of a run that has said nothing for minutes: if that run is only halted, as by \
                     Ctrl-Z, let it go on (`fg`); if it is gone, end the process (`kill -9 {pid}`). Then give the same command \
                     again"
                ),
                None => "end that process, then give the same command again".to_owned(),
            });
            return Ok(Some(Ended::Failed { error, log_tail: Vec::new(), again: false }));
        }
        tokio::time::sleep(exec::TRY_AGAIN).await;
    }
    Ok(None)
}

/// Renews the lease, first when that is `due`, until it is `enough`; returns early only if somebody else has it.
async fn renew(cache: &Cache, lease: &Lease, due: tokio::time::Instant, enough: &Notify) {
    let mut due = tokio::time::interval_at(due, lease.ttl / RENEWALS);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = enough.notified() => return,
        }
        match cache.renew(lease, SystemTime::now()).await {
            Ok(true) => {}
            Ok(false) => return,
            // A store that is away for a moment ends no work; one that stays away shows when the result is published.
            Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
        }
    }
}

/// What the process printed, kept beside the record; nothing if it printed nothing, or more than anybody reads.
async fn keep_log(cache: &Cache, log: &Path) -> Result<Option<BlobDigest>> {
    let fits = fs::metadata(log).is_ok_and(|meta| (1..=LOG_KEPT).contains(&meta.len()));
    if !fits {
        return Ok(None);
    }
    let text = fs::read(log).map_err(Error::io("read a stage's log"))?;
    Ok(Some(cache.put_blob(text.into()).await?))
}

/// Nothing if the output is complete; otherwise how the attempt ended.
fn judge(exit: Exit, job: &Job, stop: Stop, attempt: &Attempt) -> Option<Ended> {
    let tail = || tail_of(&attempt.log, LOG_TAIL);
    let failed = |error: StageError| Some(Ended::Failed { error, log_tail: tail(), again: false });
    let killed = |error: StageError| Some(Ended::Failed { error, log_tail: tail(), again: true });
    let result: Option<JobResult> = job.result.exists().then(|| read_json(&job.result, "result").ok()).flatten();
    match (exit, result) {
        // The result is written last: who ran out of time after that was done.
        (Exit::Code(0) | Exit::TimedOut, Some(JobResult { error: None, .. })) => None,
        (Exit::TimedOut, _) => {
            let (name, limit) = attempt.stage.resources.limit().unwrap_or_default();
            failed(
                StageError::new(format!("it ran longer than its `resources.{name}` of {limit} allows")).with_help(
                    "if it hangs, its log has the last that it did; if it is slow, raise the limit: what it had saved is kept \
                     and the next run goes on from there",
                ),
            )
        }
        (_, Some(JobResult { error: Some(error), .. })) if !error.cancelled => {
            Some(Ended::Failed { again: error.may_pass, error, log_tail: tail() })
        }
        _ if stop > Stop::No => Some(Ended::Stopped),
        (_, Some(JobResult { error: Some(_), .. })) | (Exit::Signal(15), _) => killed(
            StageError::new("its process was asked to stop, and not by this run")
                .with_help("what it had done is kept and the next run goes on from there"),
        ),
        (Exit::Signal(number), _) => killed(signal::failure(number, &tail())),
        (Exit::Code(code), None) if code == i32::from(exec::DISK_FULL) => {
            failed(StageError::new(format!("its process could not write its result: {FULL}")))
        }
        (Exit::Code(code), _) => failed(StageError::new(format!("its process ended with code {code} and no result"))),
    }
}

#[cfg(test)]
mod tests;
