//! The state of a run as the fold of its events. The terminal, `flow status` and the report all read this and nothing else.

use std::collections::BTreeMap;

use flow_cache::{ArtifactDigest, StageKey};
use serde::Serialize;
use serde_json::Value;

use super::{Event, Outcome, Stamped};
use crate::{error::StageError, names::StageId, plan::Reason};

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its inputs are not all there, or no cores are free.
    #[default]
    Pending,
    /// Another run is doing it.
    Waiting,
    /// Its process runs.
    Running,
    /// Its artifact was there before.
    Cached,
    /// Its artifact was made in this run.
    Finished,
    /// Its process failed.
    Failed,
    /// It was stopped; its work dir is kept.
    Stopped,
    /// A stage that it needs failed.
    Skipped,
}

/// How fast a stage goes: from where and since when what it counts has been the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pace {
    /// When it was first counted, RFC 3339.
    pub since: String,
    /// The count at that time: more than 0 where a stage goes on from a checkpoint.
    pub from: u64,
    /// When it was last counted, RFC 3339.
    pub at: String,
}

/// An attempt at a stage after one that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retry {
    /// Which one, from 1.
    pub attempt: u32,
    /// Attempts in all.
    pub of: u32,
    /// When it begins, RFC 3339.
    pub at: String,
}

impl Retry {
    /// Seconds from the time `now` (RFC 3339) until it begins; less than 0 where it has begun.
    pub fn seconds_until(&self, now: &str) -> Option<f64> {
        passed(now, &self.at)
    }
}

/// Seconds from one time to another, both RFC 3339.
fn passed(from: &str, to: &str) -> Option<f64> {
    let (from, to) = (from.parse::<jiff::Timestamp>().ok()?, to.parse::<jiff::Timestamp>().ok()?);
    Some(to.duration_since(from).as_secs_f64())
}

/// A stage that says nothing for so many seconds, and for so many times as long as one unit takes, may hang.
const QUIET: (f64, f64) = (10.0, 10.0);

/// All that is known of one stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct StageState {
    /// Where it stands.
    pub phase: Phase,
    /// Its key, once its inputs are known.
    pub key: Option<StageKey>,
    /// Its artifact, once there is one.
    pub artifact: Option<ArtifactDigest>,
    /// Why it runs or ran.
    pub reason: Option<Reason>,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// Seconds that it took, once it finished.
    pub seconds: Option<f64>,
    /// Bytes of its artifact.
    pub bytes: Option<u64>,
    /// Units done, in all, and what they are.
    pub progress: Option<(u64, Option<u64>, String)>,
    /// How fast it goes.
    pub pace: Option<Pace>,
    /// The attempt that comes or goes on, where one before it failed, until that is counted anew.
    pub retry: Option<Retry>,
    /// The last metrics.
    pub metrics: Option<Value>,
    /// Remarks, in order.
    pub notes: Vec<String>,
    /// Why it failed.
    pub error: Option<StageError>,
    /// The end of a failed stage's log.
    pub log_tail: Vec<String>,
    /// The stage that kept it from being reached, or the run that is doing it.
    pub blocked_by: Option<String>,
}

/// A run, folded.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct RunState {
    /// The run's id.
    pub run: String,
    /// The recipe's name.
    pub recipe: String,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// Stages in an order in which each follows its inputs.
    pub order: Vec<StageId>,
    /// Each stage's state.
    pub stages: BTreeMap<StageId, StageState>,
    /// How it ended, once it did.
    pub outcome: Option<Outcome>,
    /// Seconds from start to end.
    pub seconds: Option<f64>,
}

impl StageState {
    /// Seconds since a stage that counts was last heard of, at the time `now` (RFC 3339), where these are far more than its pace
    /// explains.
    pub fn seconds_quiet(&self, now: &str) -> Option<f64> {
        let (done, pace) = (self.progress.as_ref()?.0, self.pace.as_ref()?);
        let quiet = passed(&pace.at, now)?;
        let counted = done.saturating_sub(pace.from).max(1);
        let each = passed(&pace.since, &pace.at)? / counted as f64;
        // One count has no pace: its first unit may take long.
        (done > pace.from && quiet > QUIET.0.max(QUIET.1 * each)).then_some(quiet)
    }

    /// Seconds that are left at the time `now` (RFC 3339), if it goes on at its pace; nothing where that cannot be told.
    pub fn seconds_left(&self, now: &str) -> Option<f64> {
        let (done, total, _) = self.progress.as_ref()?;
        let pace = self.pace.as_ref()?;
        let counted = done.checked_sub(pace.from).filter(|counted| *counted > 0)?;
        let left = (*total)?.saturating_sub(*done);
        let each = passed(&pace.since, &pace.at)? / counted as f64;
        (each > 0.0).then_some(())?;
        Some((left as f64 * each - passed(&pace.at, now)?.max(0.0)).max(0.0))
    }
}

impl RunState {
    /// The state after all of these events.
    pub fn replay<'a>(events: impl IntoIterator<Item = &'a Stamped>) -> Self {
        let mut state = Self::default();
        for event in events {
            state.apply(event);
        }
        state
    }

    /// The process is gone: unless it said how the run ended, what ran has stopped, and nothing is waited for.
    pub fn cut_off(&mut self) {
        if self.outcome.is_some() {
            return;
        }
        for stage in self.stages.values_mut() {
            match stage.phase {
                Phase::Running => stage.phase = Phase::Stopped,
                Phase::Waiting => stage.phase = Phase::Pending,
                _ => {}
            }
        }
    }

    /// Stages in this phase.
    pub fn count(&self, phase: Phase) -> usize {
        self.stages.values().filter(|stage| stage.phase == phase).count()
    }

    fn stage(&mut self, stage: &StageId) -> &mut StageState {
        self.stages.entry(stage.clone()).or_default()
    }

    /// The state after one more event.
    pub fn apply(&mut self, event: &Stamped) {
        match &event.what {
            Event::RunStarted { run, recipe, stages, cores: _ } => {
                *self = Self {
                    run: run.clone(),
                    recipe: recipe.clone(),
                    started: Some(event.time.clone()),
                    order: stages.clone(),
                    stages: stages.iter().map(|stage| (stage.clone(), StageState::default())).collect(),
                    outcome: None,
                    seconds: None,
                };
            }
            Event::StageCached { stage, key, artifact } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Cached;
                stage.blocked_by = None;
                stage.key = Some(*key);
                stage.artifact = Some(*artifact);
            }
            Event::StageWaiting { stage, holder } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Waiting;
                stage.blocked_by = Some(holder.clone());
            }
            Event::StageStarted { stage, key, reason, cores: _ } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Running;
                stage.key = Some(*key);
                stage.reason = Some(reason.clone());
                stage.started = Some(event.time.clone());
                (stage.progress, stage.pace, stage.retry) = (None, None, None);
                stage.blocked_by = None;
            }
            Event::StageRetrying { stage, attempt, of, wait, error } => {
                let stage = self.stage(stage);
                stage.progress = None;
                let begins = event
                    .time
                    .parse::<jiff::Timestamp>()
                    .ok()
                    .and_then(|time| time.checked_add(jiff::SignedDuration::try_from_secs_f64(*wait).ok()?).ok());
                stage.retry = begins.map(|at| Retry { attempt: *attempt, of: *of, at: at.to_string() });
                stage.notes.push(format!("attempt {attempt} of {of}, since {error}"));
            }
            Event::StageProgress { stage, done, total, unit } => {
                let stage = self.stage(stage);
                stage.retry = None;
                let goes_on = stage.progress.as_ref().is_some_and(|(d, t, u)| d <= done && t == total && u == unit);
                if let Some(pace) = stage.pace.as_mut().filter(|_| goes_on) {
                    pace.at.clone_from(&event.time);
                } else {
                    let now = event.time.clone();
                    stage.pace = Some(Pace { since: now.clone(), from: *done, at: now });
                }
                stage.progress = Some((*done, *total, unit.clone()));
            }
            Event::StageMetrics { stage, metrics } => self.stage(stage).metrics = Some(metrics.clone()),
            Event::StageNote { stage, text } => self.stage(stage).notes.push(text.clone()),
            Event::StageFinished { stage, key, artifact, seconds, bytes } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Finished;
                stage.key = Some(*key);
                stage.artifact = Some(*artifact);
                stage.seconds = Some(*seconds);
                stage.bytes = Some(*bytes);
            }
            Event::StageFailed { stage, error, log_tail } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Failed;
                stage.error = Some(error.clone());
                stage.log_tail.clone_from(log_tail);
            }
            Event::StageStopped { stage } => self.stage(stage).phase = Phase::Stopped,
            Event::StageSkipped { stage, because } => {
                let stage = self.stage(stage);
                stage.phase = Phase::Skipped;
                stage.blocked_by = Some(because.to_string());
            }
            Event::RunFinished { outcome, seconds } => {
                self.outcome = Some(*outcome);
                self.seconds = Some(*seconds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u32, what: Event) -> Stamped {
        Stamped { time: format!("2026-01-01T00:00:{second:02}Z"), what }
    }

    fn counted(second: u32, done: u64, total: Option<u64>, unit: &str) -> Stamped {
        at(second, Event::StageProgress { stage: "a".parse().unwrap(), done, total, unit: unit.into() })
    }

    #[test]
    fn time_left_is_told_from_the_pace_since_the_count_began() {
        let left = |events: &[Stamped]| {
            RunState::replay(events).stages.values().next().unwrap().seconds_left("2026-01-01T00:00:30Z")
        };
        // From a checkpoint at 500: 100 in 10 s, 400 to go, of which 10 s have passed.
        let resumed = [counted(10, 500, Some(1000), "steps"), counted(20, 600, Some(1000), "steps")];
        assert_eq!(left(&resumed), Some(30.0));
        assert_eq!(left(&resumed[..1]), None, "one count has no pace");
        let other = [&resumed[..], &[counted(25, 0, Some(7), "shards")]].concat();
        assert_eq!(left(&other), None, "another count begins anew");
        assert_eq!(left(&[counted(10, 1, None, "steps"), counted(20, 2, None, "steps")]), None);
        assert_eq!(left(&[counted(1, 0, Some(9), "steps"), counted(2, 8, Some(9), "steps")]), Some(0.0), "overdue");
    }

    #[test]
    fn a_stage_that_should_have_counted_long_ago_is_quiet() {
        let quiet =
            |events: &[Stamped], now: &str| RunState::replay(events).stages.values().next().unwrap().seconds_quiet(now);
        let counts = [counted(10, 500, Some(1000), "steps"), counted(20, 600, Some(1000), "steps")];
        assert_eq!(quiet(&counts, "2026-01-01T00:00:29Z"), None);
        assert_eq!(quiet(&counts, "2026-01-01T00:00:31Z"), Some(11.0));
        assert_eq!(quiet(&counts[..1], "2026-01-01T00:10:00Z"), None, "the first unit may take long");
        let slow = [counted(10, 0, Some(9), "shards"), counted(20, 1, Some(9), "shards")];
        assert_eq!(quiet(&slow, "2026-01-01T00:01:59Z"), None, "one takes 10 s");
        assert_eq!(quiet(&slow, "2026-01-01T00:02:01Z"), Some(101.0));
    }

    #[test]
    fn the_next_attempt_is_known_until_it_counts() {
        let again = Event::StageRetrying {
            stage: "a".parse().unwrap(),
            attempt: 2,
            of: 3,
            wait: 12.5,
            error: StageError::new("no answer"),
        };
        let events = [counted(1, 1, Some(9), "steps"), at(2, again), counted(20, 1, Some(9), "steps")];
        let retry = |events: &[Stamped]| RunState::replay(events).stages.into_values().next().unwrap().retry;
        let known = retry(&events[..2]).unwrap();
        assert_eq!((known.attempt, known.of, known.seconds_until("2026-01-01T00:00:04Z")), (2, 3, Some(10.5)));
        assert_eq!(retry(&events), None);
    }
}
