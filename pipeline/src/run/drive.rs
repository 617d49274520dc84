//! The driver: carries out what the scheduler commands. The only place that waits for several things at once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use flow_cache::{Acquired, ArtifactDigest, Cache, Holder, Lease, StageKey};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    attempt::{Attempt, Ended, LEASE, attempt, rounded, told},
    capacity,
    folder::RunFolder,
    schedule::{Capacity, Command, Input, Scheduler},
    stopped::unless_stopped,
};
use crate::{
    error::{Error, Result, StageError},
    event::{Event, Outcome, Report, Stamped, log::EventLog, now, state::RunState},
    executor::{Executor, Stop},
    key::KeyParts,
    names::StageId,
    plan::{CacheProbe, Plan, Probe, Reason, Verdict, reason},
    recipe::Retries,
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
    Probed(usize, KeyParts, Result<Option<ArtifactDigest>>),
    Waited(usize),
    Claimed(usize, KeyParts, Result<Claimed>),
    Ended(usize, Ended, Lease),
    /// The store did not answer, and the run is to end.
    GaveUp(usize),
}

/// What the task of a stage says while it goes on.
enum Said {
    Report(Report),
    /// Its pause is over: this is to be answered when there are cores for it.
    Wish(oneshot::Sender<()>),
}

/// What became of the wish to do a stage.
enum Claimed {
    /// Another run has done it meanwhile.
    Hit(ArtifactDigest),
    /// Another run is doing it.
    Busy(String),
    /// It is ours, for this reason.
    Ours(Lease, Reason),
}

struct Driver<'a> {
    plan: &'a Plan,
    cache: &'a Cache,
    executor: Arc<dyn Executor>,
    options: &'a RunOptions,
    folder: &'a RunFolder,
    holder: Holder,
    log: EventLog,
    /// Why an event could not be written, the first time.
    unlogged: Option<Error>,
    watcher: &'a mut (dyn FnMut(&Stamped, &RunState) + Send),
    state: RunState,
    artifacts: Vec<Option<ArtifactDigest>>,
    /// What must run and waits for cores.
    ready: BTreeMap<usize, KeyParts>,
    /// How often a damaged artifact was made again, or was asked for again meanwhile.
    remade: BTreeMap<ArtifactDigest, u32>,
    /// How often the store was asked about a stage while it did not answer, and how long until it is asked again.
    asked: BTreeMap<usize, u32>,
    pauses: BTreeMap<usize, Duration>,
    /// What waits for cores between two attempts.
    again: BTreeMap<usize, oneshot::Sender<()>>,
    tasks: JoinSet<Answer>,
    reports: mpsc::UnboundedSender<(usize, Said)>,
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
        unlogged: None,
        watcher,
        state: RunState::default(),
        artifacts: vec![None; plan.stages().len()],
        ready: BTreeMap::new(),
        remade: BTreeMap::new(),
        asked: BTreeMap::new(),
        pauses: BTreeMap::new(),
        again: BTreeMap::new(),
        tasks: JoinSet::new(),
        reports,
        stop: watch::Sender::new(Stop::No),
    };
    driver.tell(Event::RunStarted {
        run: folder.id().to_owned(),
        recipe: plan.prepared.recipe.clone(),
        stages: plan.graph().order().iter().map(|&at| plan.stages()[at].id.clone()).collect(),
        cores: options.capacity.cores,
    });
    let mut commands = scheduler.step(Input::Begin);
    let mut interrupted = false;
    'run: loop {
        // A disk that has no room for a line has none for a stage: what runs may end, and the end is told.
        if driver.unlogged.is_some() && !scheduler.is_closed() {
            commands.extend(scheduler.step(Input::Interrupt));
        }
        let mut queue: std::collections::VecDeque<Command> = commands.drain(..).collect();
        while let Some(command) = queue.pop_front() {
            if command == Command::Finish {
                break 'run;
            }
            if let Some(input) = driver.carry_out(command) {
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
            Some((at, said)) = heard.recv() => {
                driver.hear(at, said).map_or_else(Vec::new, |input| scheduler.step(input))
            }
            Some(answer) = driver.tasks.join_next() => {
                // What a stage said before it ended is told before its end.
                let mut commands = Vec::new();
                while let Ok((at, said)) = heard.try_recv() {
                    commands.extend(driver.hear(at, said).map_or_else(Vec::new, |input| scheduler.step(input)));
                }
                match answer {
                    Ok(answer) => {
                        let input = driver.take(answer, scheduler.is_closed()).await;
                        commands.extend(input.map_or_else(Vec::new, |input| scheduler.step(input)));
                        commands
                    }
                    Err(panic) => {
                        return Err(Error::Io { doing: "drive the run", source: std::io::Error::other(panic) });
                    }
                }
            }
        };
    }
    // What stays is no harm, and the next run or a collection finds it.
    if let Err(error) = cache.remove_put_away().await {
        tracing::warn!(%error, "work dirs could not be removed");
    }
    let outcome = match (driver.artifacts.iter().all(Option::is_some), interrupted) {
        (true, _) => Outcome::Done,
        (false, true) => Outcome::Interrupted,
        (false, false) => Outcome::Failed,
    };
    driver.tell(Event::RunFinished { outcome, seconds: rounded(clock.elapsed()) });
    match driver.unlogged {
        Some(error) if outcome != Outcome::Done || driver.log.is_behind() => Err(error),
        _ => Ok(driver.state),
    }
}

impl Driver<'_> {
    /// What cannot be written is told all the same.
    fn tell(&mut self, what: Event) {
        let stamped = Stamped { time: now(), what };
        if let Err(error) = self.log.write(&stamped) {
            self.unlogged.get_or_insert(error);
        }
        self.state.apply(&stamped);
        (self.watcher)(&stamped, &self.state);
    }

    fn hear(&mut self, at: usize, said: Said) -> Option<Input> {
        match said {
            Said::Report(report) => {
                let rests = matches!(report, Report::Retrying { .. });
                self.tell(report.of(self.id(at)));
                rests.then_some(Input::Rests(at))
            }
            Said::Wish(cores) => {
                self.again.insert(at, cores);
                Some(Input::Again(at))
            }
        }
    }

    /// Only reasons depend on this: a full disk must not end a run for it.
    fn remember(&self, at: usize, key: &StageKey) {
        if let Err(error) = self.cache.set_latest(&self.plan.prepared.recipe, &self.id(at).to_string(), key) {
            tracing::warn!(%error, "the last key of a stage could not be remembered");
        }
    }

    fn id(&self, at: usize) -> StageId {
        self.plan.stages()[at].id.clone()
    }

    /// Carries one command out. What is known at once comes back as the scheduler's next input.
    fn carry_out(&mut self, command: Command) -> Option<Input> {
        match command {
            Command::Probe(at) => {
                let stage = &self.plan.stages()[at];
                // What the plan found a moment ago is not looked up again.
                if let Verdict::Cached { key, artifact } = self.plan.verdicts[at]
                    && !self.options.recheck.contains(&stage.id)
                    && !self.remade.contains_key(&artifact)
                {
                    return Some(self.cached(at, key, artifact));
                }
                let Some(parts) = stage.key_parts(&self.plan.numerics, |input| self.artifacts[input]) else {
                    let error = stage.sources.as_ref().err().cloned().unwrap_or_else(|| {
                        StageError::new("an input has no artifact").with_help("this is a defect of flow")
                    });
                    self.tell(Event::StageFailed { stage: self.id(at), error, log_tail: Vec::new() });
                    return Some(Input::Failed(at));
                };
                // Nor what it missed: the lease tells whether another run has made it meanwhile.
                let is_missing = matches!(self.plan.verdicts[at], Verdict::Run { key: Some(_), .. });
                if is_missing || self.options.recheck.contains(&stage.id) {
                    self.ready.insert(at, parts);
                    return Some(Input::Miss(at));
                }
                let (cache, stop) = (self.cache.clone(), self.stop.subscribe());
                self.on_a_thread(async move {
                    match unless_stopped(&stop, cache.hit_artifact(&parts.key())).await {
                        Some(found) => Answer::Probed(at, parts, found.map_err(Error::from)),
                        None => Answer::GaveUp(at),
                    }
                });
            }
            Command::ProbeLater(at) => {
                let pause = self.pauses.remove(&at).unwrap_or(LOOK_AGAIN);
                let mut stop = self.stop.subscribe();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        // An error means that nobody is left who could ask.
                        _ = stop.wait_for(|stop| *stop > Stop::No) => {}
                    }
                    Answer::Waited(at)
                });
            }
            Command::Launch(at) => match self.again.remove(&at) {
                // One that was stopped meanwhile hears no more, and says itself that it has ended.
                Some(cores) => drop(cores.send(())),
                None => self.claim(at),
            },
            Command::Skip { stage, because } => {
                self.tell(Event::StageSkipped { stage: self.id(stage), because: self.id(because) });
            }
            Command::Finish => {}
        }
        None
    }

    /// Asks for the right to do a stage for which there are cores now: not before, so that runs that share a store share
    /// the work, and a stage that waits for long costs no renewals.
    fn claim(&mut self, at: usize) {
        let Some(parts) = self.ready.remove(&at) else { return };
        let (cache, holder, id) = (self.cache.clone(), self.holder.clone(), self.id(at));
        let recipe = self.plan.prepared.recipe.clone();
        let recheck = self.options.recheck.contains(&id);
        let stop = self.stop.subscribe();
        self.on_a_thread(async move {
            // A lease that it may have got by then is that of a process that has ended.
            match unless_stopped(&stop, claim(&cache, &holder, &recipe, &id, &parts, recheck)).await {
                Some(claimed) => Answer::Claimed(at, parts, claimed),
                None => Answer::GaveUp(at),
            }
        });
    }

    fn launch(&mut self, at: usize, parts: KeyParts, lease: Lease, reason: Reason) {
        let key = lease.key;
        let stage = self.plan.stages()[at].clone();
        let cores = capacity::need(&stage, self.options.capacity).cores;
        let lost = match reason {
            Reason::Unrecorded if self.cache.has_set_aside_record(&key) => {
                Some("its record was damaged, and is in the store's `quarantine`".to_owned())
            }
            Reason::Evicted | Reason::Unrecorded => Some(reason.to_string()),
            _ => None,
        };
        self.tell(Event::StageStarted { stage: stage.id.clone(), key, reason, cores });
        if let Some(why) = lost {
            self.tell(Event::StageNote { stage: stage.id.clone(), text: format!("{why}: it is made again") });
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
        let may_pause = work.stage.resources.retries.attempts.get() > 1;
        let made = async move {
            // The driver outlives its tasks; what nobody hears is no loss.
            let mut say = |report| drop(reports.send((at, Said::Report(report))));
            let wish = || {
                let (cores, given) = oneshot::channel();
                let _ = reports.send((at, Said::Wish(cores)));
                given
            };
            let ended = attempt(cache.clone(), executor, work, stop.clone(), &mut say, &wish).await;
            // Here and not in the driver, which must hear of interrupts while a store is silent.
            if !matches!(ended, Ended::Done { .. }) {
                unless_stopped(&stop, give_back(&cache, &lease)).await;
            }
            Answer::Ended(at, ended, lease)
        };
        // Threads are not without number: one that pauses must not keep those from theirs that it waits for.
        if may_pause {
            self.tasks.spawn(made);
        } else {
            self.on_a_thread(made);
        }
    }

    /// A task that mostly works on files: on a thread of its own, and not handed to another one for each of them.
    fn on_a_thread(&mut self, work: impl Future<Output = Answer> + Send + 'static) {
        let runtime = Handle::current();
        self.tasks.spawn_blocking(move || runtime.block_on(flow_cache::in_place(work)));
    }

    fn cached(&mut self, at: usize, key: StageKey, artifact: ArtifactDigest) -> Input {
        self.artifacts[at] = Some(artifact);
        self.remember(at, &key);
        self.tell(Event::StageCached { stage: self.id(at), key, artifact });
        Input::Hit(at)
    }

    /// Takes a task's answer in. Once the run is `closed`, nothing is started.
    async fn take(&mut self, answer: Answer, closed: bool) -> Option<Input> {
        Some(match answer {
            Answer::Waited(at) => Input::Retry(at),
            Answer::GaveUp(at) => Input::Stopped(at),
            Answer::Probed(at, parts, Ok(Some(artifact))) | Answer::Claimed(at, parts, Ok(Claimed::Hit(artifact))) => {
                self.cached(at, parts.key(), artifact)
            }
            Answer::Probed(at, parts, Ok(None)) => {
                self.ready.insert(at, parts);
                Input::Miss(at)
            }
            Answer::Claimed(at, _, Ok(Claimed::Ours(lease, _))) if closed || self.unlogged.is_some() => {
                self.give_back_behind(lease).await;
                Input::Stopped(at)
            }
            Answer::Claimed(at, parts, Ok(Claimed::Ours(lease, reason))) => {
                self.launch(at, parts, lease, reason);
                return None;
            }
            Answer::Claimed(at, _, Ok(Claimed::Busy(holder))) => {
                let told = self.state.stages.get(&self.id(at)).is_some_and(|stage| stage.blocked_by.is_some());
                if !told {
                    self.tell(Event::StageWaiting { stage: self.id(at), holder });
                }
                Input::Busy(at)
            }
            Answer::Probed(at, _, Err(error)) | Answer::Claimed(at, _, Err(error)) => {
                self.unanswered(at, &error, closed)
            }
            Answer::Ended(at, ended, lease) => {
                self.again.remove(&at);
                let key = lease.key;
                if matches!(ended, Ended::Done { .. }) {
                    self.give_back_behind(lease).await;
                }
                match ended {
                    Ended::Done { artifact, seconds, bytes } => {
                        self.artifacts[at] = Some(artifact);
                        self.remember(at, &key);
                        self.tell(Event::StageFinished { stage: self.id(at), key, artifact, seconds, bytes });
                        Input::Done(at)
                    }
                    Ended::Failed { error, log_tail, again: _ } => {
                        self.tell(Event::StageFailed { stage: self.id(at), error, log_tail });
                        Input::Failed(at)
                    }
                    Ended::TakenOver if !closed => {
                        let text = "another run took it over while this one was away, and its result is waited for";
                        self.tell(Event::StageNote { stage: self.id(at), text: text.to_owned() });
                        Input::Busy(at)
                    }
                    Ended::Lost { artifact, why } => self.make_again(at, artifact, why),
                    Ended::Stopped | Ended::TakenOver => {
                        self.tell(Event::StageStopped { stage: self.id(at) });
                        Input::Stopped(at)
                    }
                }
            }
        })
    }

    /// Gives a lease back without waiting for a remote store.
    async fn give_back_behind(&self, lease: Lease) {
        if let Err(error) = self.cache.release_recorded(lease).await {
            tracing::warn!(%error, "a lease could not be given back");
        }
    }

    /// The store could not be asked about a stage. Where that may pass it is asked again as often as the stage's `retries` allow,
    /// and the stage's cores are free meanwhile.
    fn unanswered(&mut self, at: usize, error: &Error, closed: bool) -> Input {
        let Retries { attempts, backoff } = self.plan.stages()[at].resources.retries;
        let asked = self.asked.entry(at).or_insert(1);
        let may_pass = matches!(error, Error::Cache(cause) if cause.may_pass());
        let (stage, error) = (self.plan.stages()[at].id.clone(), told(error));
        if !may_pass || closed || *asked >= attempts.get() {
            self.tell(Event::StageFailed { stage, error, log_tail: Vec::new() });
            return Input::Failed(at);
        }
        let pause = backoff.as_std().saturating_mul(1_u32.checked_shl(*asked - 1).unwrap_or(u32::MAX));
        *asked += 1;
        let (attempt, of) = (*asked, attempts.get());
        self.pauses.insert(at, pause);
        self.tell(Event::StageRetrying { stage, attempt, of, wait: rounded(pause), error });
        Input::Busy(at)
    }

    /// An input of `at` is damaged: it is made again, but not for ever. Its artifact keeps its name, since a stage that gives
    /// other bytes fails.
    fn make_again(&mut self, at: usize, artifact: ArtifactDigest, why: String) -> Input {
        let mut inputs = self.plan.stages()[at].inputs.iter().map(|input| input.stage);
        let lost = inputs.find(|&input| self.artifacts[input] == Some(artifact));
        let times = self.remade.entry(artifact).or_insert(0);
        *times += 1;
        match lost {
            Some(input) if *times <= REMADE => {
                let text = format!("its result is made again: {} failed to {why}", self.id(at));
                self.tell(Event::StageNote { stage: self.id(input), text });
                Input::Lost { stage: at, input }
            }
            _ => {
                let error =
                    StageError::new(format!("the bytes of input {artifact} are damaged again and again: {why}"))
                        .with_help(
                            "look at the disk of the store before you go on; what was damaged is in its `quarantine`",
                        );
                self.tell(Event::StageFailed { stage: self.id(at), error, log_tail: Vec::new() });
                Input::Failed(at)
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

/// Takes the lease of a key that was not there. It is looked up again under the lease: another run may have recorded it in
/// between.
async fn claim(
    cache: &Cache,
    holder: &Holder,
    recipe: &str,
    stage: &StageId,
    parts: &KeyParts,
    recheck: bool,
) -> Result<Claimed> {
    let key = parts.key();
    let answers = CacheProbe::new(cache, recipe);
    match cache.acquire(&key, holder, SystemTime::now(), LEASE).await? {
        Acquired::HeldBy { holder, .. } => Ok(Claimed::Busy(holder.to_string())),
        Acquired::Yes(lease) => {
            let look = async {
                let hit = if recheck { None } else { answers.hit(&key).await? };
                if let Some(artifact) = hit {
                    return Ok(Claimed::Hit(artifact));
                }
                // Where nothing is on record there is nothing to compare with.
                let why = match answers.recorded(&key).await? {
                    Some(_) if recheck => Reason::Recheck,
                    Some(_) => Reason::Evicted,
                    None => reason::of(parts, stage, &answers).await?,
                };
                Ok(Claimed::Ours(lease.clone(), why))
            };
            let claimed = look.await;
            // Also where the store did not answer: who asks again must not meet this lease.
            if !matches!(claimed, Ok(Claimed::Ours(..))) {
                give_back(cache, &lease).await;
            }
            claimed
        }
    }
}
