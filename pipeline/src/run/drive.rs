//! The driver: carries out what the scheduler commands. The only place that waits for several things at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use flow_cache::{Acquired, ArtifactDigest, Cache, Holder, Lease, StageKey};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    attempt::{Attempt, Ended, LEASE, RENEW_EVERY, attempt, rounded},
    capacity,
    folder::RunFolder,
    schedule::{Capacity, Command, Input, Scheduler},
};
use crate::{
    error::{Error, Result, StageError, chain},
    event::{Event, Outcome, Report, Stamped, log::EventLog, now, state::RunState},
    executor::{Executor, Stop},
    key::KeyParts,
    names::StageId,
    plan::{CacheProbe, Plan, Probe, Reason, reason},
};

/// How often a stage that another run holds is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How often one artifact is made again in a run, for each stage that may meet its loss.
const REMADE: u32 = 16;

/// How a plan is run: nothing in here enters a key.
pub struct RunOptions {
    /// What stages may use together.
    pub capacity: Capacity,
    /// The compute device.
    pub device: String,
    /// Whether a failure stops only what depends on it.
    pub keep_going: bool,
    /// The version of flow, for records.
    pub version: String,
    /// Stages to do again and compare.
    pub recheck: Vec<StageId>,
}

/// What a task of the driver comes back with.
enum Answer {
    Probed(usize, Result<Probed>),
    Waited(usize),
    Ended(usize, Ended, Lease),
}

enum Probed {
    Hit(StageKey, ArtifactDigest),
    Miss(Box<(KeyParts, StageKey, Lease, Reason)>),
    Busy(String),
}

struct Driver<'a> {
    plan: &'a Plan,
    cache: &'a Cache,
    executor: Arc<dyn Executor>,
    options: &'a RunOptions,
    folder: &'a RunFolder,
    holder: Holder,
    log: EventLog,
    watcher: &'a mut (dyn FnMut(&Stamped, &RunState) + Send),
    state: RunState,
    artifacts: Vec<Option<ArtifactDigest>>,
    ready: BTreeMap<usize, (KeyParts, StageKey, Lease, Reason)>,
    /// How often a damaged artifact was made again, or was asked for again meanwhile.
    remade: BTreeMap<ArtifactDigest, u32>,
    tasks: JoinSet<Answer>,
    reports: mpsc::UnboundedSender<(usize, Report)>,
    stop: watch::Sender<Stop>,
}

/// Runs a plan to its end. `watcher` sees every event with the state that it led to. Each message on `interrupts` asks
/// once more, more urgently, for the end.
pub async fn run(
    plan: &Plan,
    cache: &Cache,
    executor: Arc<dyn Executor>,
    options: &RunOptions,
    folder: &RunFolder,
    mut interrupts: mpsc::Receiver<()>,
    watcher: &mut (dyn FnMut(&Stamped, &RunState) + Send),
) -> Result<RunState> {
    let clock = Instant::now();
    let needs = plan.stages().iter().map(|stage| capacity::need(stage, options.capacity)).collect();
    let mut scheduler = Scheduler::new(plan.graph(), needs, options.capacity, options.keep_going);
    let (reports, mut heard) = mpsc::unbounded_channel();
    let mut driver = Driver {
        plan,
        cache,
        executor,
        options,
        folder,
        holder: Holder::this_process(folder.id()),
        log: EventLog::append_to(&folder.events())?,
        watcher,
        state: RunState::default(),
        artifacts: vec![None; plan.stages().len()],
        ready: BTreeMap::new(),
        remade: BTreeMap::new(),
        tasks: JoinSet::new(),
        reports,
        stop: watch::Sender::new(Stop::No),
    };
    driver.tell(Event::RunStarted {
        run: folder.id().to_owned(),
        recipe: plan.prepared.recipe.clone(),
        stages: plan.graph().order().iter().map(|&at| plan.stages()[at].id.clone()).collect(),
        cores: options.capacity.cores,
    })?;
    let mut commands = scheduler.step(Input::Begin);
    let mut interrupted = false;
    let mut renew = tokio::time::interval(RENEW_EVERY);
    'run: loop {
        let mut queue: std::collections::VecDeque<Command> = commands.drain(..).collect();
        while let Some(command) = queue.pop_front() {
            if command == Command::Finish {
                break 'run;
            }
            if let Some(input) = driver.carry_out(command)? {
                queue.extend(scheduler.step(input));
            }
        }
        commands = tokio::select! {
            biased;
            Some(()) = interrupts.recv() => {
                let next = if interrupted { Stop::Now } else { Stop::Gently };
                interrupted = true;
                driver.stop.send_replace(next);
                scheduler.step(Input::Interrupt)
            }
            Some((at, report)) = heard.recv() => {
                driver.tell(report.of(plan.stages()[at].id.clone()))?;
                Vec::new()
            }
            _ = renew.tick() => {
                driver.renew().await;
                Vec::new()
            }
            Some(answer) = driver.tasks.join_next() => {
                // What a stage said before it ended is told before its end.
                while let Ok((at, report)) = heard.try_recv() {
                    driver.tell(report.of(plan.stages()[at].id.clone()))?;
                }
                match answer {
                    Ok(answer) => match driver.take(answer).await? {
                        Some(input) => scheduler.step(input),
                        None => Vec::new(),
                    },
                    Err(panic) => {
                        return Err(Error::Io { doing: "drive the run", source: std::io::Error::other(panic) });
                    }
                }
            }
        };
    }
    // Leases of stages that were ready but never started.
    for (_, (_, _, lease, _)) in std::mem::take(&mut driver.ready) {
        give_back(cache, &lease).await;
    }
    let outcome = match (driver.artifacts.iter().all(Option::is_some), interrupted) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Interrupted,
        (false, false) => Outcome::Failed,
    };
    driver.tell(Event::RunFinished { outcome, seconds: rounded(clock.elapsed()) })?;
    Ok(driver.state)
}

impl Driver<'_> {
    fn tell(&mut self, what: Event) -> Result<()> {
        let stamped = Stamped { time: now(), what };
        self.log.write(&stamped)?;
        self.state.apply(&stamped);
        (self.watcher)(&stamped, &self.state);
        Ok(())
    }

    /// Renews the leases of stages that wait for cores; a running attempt renews its own, and notices there if it was
    /// lost meanwhile.
    async fn renew(&self) {
        for (_, _, lease, _) in self.ready.values() {
            if let Err(error) = self.cache.renew(lease, SystemTime::now()).await {
                tracing::warn!(%error, "a lease could not be renewed");
            }
        }
    }

    /// Only reasons depend on this: a full disk must not end a run for it.
    async fn remember(&self, at: usize, key: &StageKey) {
        if let Err(error) = self.cache.set_latest(&self.plan.prepared.recipe, &self.id(at).to_string(), key).await {
            tracing::warn!(%error, "the last key of a stage could not be remembered");
        }
    }

    fn id(&self, at: usize) -> StageId {
        self.plan.stages()[at].id.clone()
    }

    /// Carries one command out. What is known at once comes back as the scheduler's next input.
    fn carry_out(&mut self, command: Command) -> Result<Option<Input>> {
        match command {
            Command::Probe(at) => {
                let stage = &self.plan.stages()[at];
                let Some(parts) = stage.key_parts(&self.plan.numerics, |input| self.artifacts[input]) else {
                    let error = stage.sources.as_ref().err().cloned().unwrap_or_else(|| {
                        StageError::new("an input has no artifact").with_help("this is a defect of flow")
                    });
                    self.tell(Event::StageFailed { stage: self.id(at), error, log_tail: Vec::new() })?;
                    return Ok(Some(Input::Failed(at)));
                };
                let (cache, holder, id) = (self.cache.clone(), self.holder.clone(), stage.id.clone());
                let recipe = self.plan.prepared.recipe.clone();
                let recheck = self.options.recheck.contains(&id);
                self.tasks
                    .spawn(async move { Answer::Probed(at, probe(cache, holder, recipe, id, parts, recheck).await) });
            }
            Command::ProbeLater(at) => {
                self.tasks.spawn(async move {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    Answer::Waited(at)
                });
            }
            Command::Launch(at) => self.launch(at)?,
            Command::Skip { stage, because } => {
                self.tell(Event::StageSkipped { stage: self.id(stage), because: self.id(because) })?;
            }
            Command::Finish => {}
        }
        Ok(None)
    }

    fn launch(&mut self, at: usize) -> Result<()> {
        let Some((parts, key, lease, reason)) = self.ready.remove(&at) else { return Ok(()) };
        let stage = self.plan.stages()[at].clone();
        let cores = capacity::need(&stage, self.options.capacity).cores;
        let evicted = (reason == Reason::Evicted).then(|| reason.to_string());
        self.tell(Event::StageStarted { stage: stage.id.clone(), key, reason, cores })?;
        if let Some(why) = evicted {
            self.tell(Event::StageNote { stage: stage.id.clone(), text: format!("{why}: it is made again") })?;
        }
        let inputs = stage
            .inputs
            .iter()
            .filter_map(|input| Some((input.role.clone(), input.label.clone(), self.artifacts[input.stage]?)))
            .collect();
        let work = Attempt {
            log: self.folder.log(&stage.id),
            stage,
            parts,
            key,
            lease: lease.clone(),
            inputs,
            device: self.options.device.clone(),
            cores,
            run: self.folder.id().to_owned(),
            host: self.holder.host.clone(),
            version: self.options.version.clone(),
        };
        let (cache, executor) = (self.cache.clone(), Arc::clone(&self.executor));
        let (stop, reports) = (self.stop.subscribe(), self.reports.clone());
        self.tasks.spawn(async move {
            let mut say = move |report| {
                // The driver outlives its tasks; a report that nobody hears is no loss.
                let _ = reports.send((at, report));
            };
            Answer::Ended(at, attempt(cache, executor, work, stop, &mut say).await, lease)
        });
        Ok(())
    }

    /// Takes a task's answer in.
    async fn take(&mut self, answer: Answer) -> Result<Option<Input>> {
        Ok(Some(match answer {
            Answer::Waited(at) => Input::Retry(at),
            Answer::Probed(at, Ok(Probed::Hit(key, artifact))) => {
                self.artifacts[at] = Some(artifact);
                self.remember(at, &key).await;
                self.tell(Event::StageCached { stage: self.id(at), key, artifact })?;
                Input::Hit(at)
            }
            Answer::Probed(at, Ok(Probed::Miss(ready))) => {
                self.ready.insert(at, *ready);
                Input::Miss(at)
            }
            Answer::Probed(at, Ok(Probed::Busy(holder))) => {
                let told = self.state.stages.get(&self.id(at)).is_some_and(|stage| stage.blocked_by.is_some());
                if !told {
                    self.tell(Event::StageWaiting { stage: self.id(at), holder })?;
                }
                Input::Busy(at)
            }
            Answer::Probed(at, Err(error)) => {
                let error = StageError::new(chain(&error));
                self.tell(Event::StageFailed { stage: self.id(at), error, log_tail: Vec::new() })?;
                Input::Failed(at)
            }
            Answer::Ended(at, ended, lease) => {
                give_back(self.cache, &lease).await;
                match ended {
                    Ended::Done { artifact, seconds, bytes } => {
                        self.artifacts[at] = Some(artifact);
                        let key = lease.key;
                        self.remember(at, &key).await;
                        self.tell(Event::StageFinished { stage: self.id(at), key, artifact, seconds, bytes })?;
                        Input::Done(at)
                    }
                    Ended::Failed { error, log_tail, again: _ } => {
                        self.tell(Event::StageFailed { stage: self.id(at), error, log_tail })?;
                        Input::Failed(at)
                    }
                    Ended::Lost { artifact, why } => self.make_again(at, artifact, why)?,
                    Ended::Stopped => {
                        self.tell(Event::StageStopped { stage: self.id(at) })?;
                        Input::Stopped(at)
                    }
                }
            }
        }))
    }
}

impl Driver<'_> {
    /// An input of `at` is damaged: it is made again, but not for ever. Its artifact keeps its name, since a stage that gives
    /// other bytes fails.
    fn make_again(&mut self, at: usize, artifact: ArtifactDigest, why: String) -> Result<Input> {
        let mut inputs = self.plan.stages()[at].inputs.iter().map(|input| input.stage);
        let lost = inputs.find(|&input| self.artifacts[input] == Some(artifact));
        let times = self.remade.entry(artifact).or_insert(0);
        *times += 1;
        match lost {
            Some(input) if *times <= REMADE => {
                let text = format!("its result is made again: {} failed to {why}", self.id(at));
                self.tell(Event::StageNote { stage: self.id(input), text })?;
                Ok(Input::Lost { stage: at, input })
            }
            _ => {
                let error =
                    StageError::new(format!("the bytes of input {artifact} are damaged again and again: {why}"))
                        .with_help(
                            "look at the disk of the store before you go on; what was damaged is in its `quarantine`",
                        );
                self.tell(Event::StageFailed { stage: self.id(at), error, log_tail: Vec::new() })?;
                Ok(Input::Failed(at))
            }
        }
    }
}

/// A lease that cannot be given back expires.
async fn give_back(cache: &Cache, lease: &Lease) {
    if let Err(error) = cache.release(lease).await {
        tracing::warn!(%error, "a lease could not be given back");
    }
}

/// Looks a key up and, where it is not there, takes its lease. The record is read again under the lease: another run may
/// have written it in between.
async fn probe(
    cache: Cache,
    holder: Holder,
    recipe: String,
    stage: StageId,
    parts: KeyParts,
    recheck: bool,
) -> Result<Probed> {
    let key = parts.key();
    let answers = CacheProbe::new(&cache, &recipe);
    if !recheck && let Some(artifact) = answers.hit(&key).await? {
        return Ok(Probed::Hit(key, artifact));
    }
    match cache.acquire(&key, &holder, SystemTime::now(), LEASE).await? {
        Acquired::HeldBy { holder, .. } => Ok(Probed::Busy(holder.to_string())),
        Acquired::Yes(lease) => {
            if !recheck && let Some(artifact) = answers.hit(&key).await? {
                give_back(&cache, &lease).await;
                return Ok(Probed::Hit(key, artifact));
            }
            let why = if recheck {
                Reason::Recheck
            } else {
                reason::of(&parts, answers.is_recorded(&key).await?, answers.last(&stage).await?.as_ref())
            };
            Ok(Probed::Miss(Box::new((parts, key, lease, why))))
        }
    }
}
