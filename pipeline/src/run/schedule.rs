//! Which stage is looked at, started or given up next. A state machine without clock, I/O or async: inputs in, commands
//! out, so that a whole run is a table in a test.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::graph::Graph;

/// What stages may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub cores: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Accelerators.
    pub gpus: u32,
}

/// What one stage takes while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// Cores.
    pub cores: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Accelerators.
    pub gpus: u32,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The run begins.
    Begin,
    /// The cache has the stage's artifact.
    Hit(usize),
    /// The cache has it not: the stage must run.
    Miss(usize),
    /// Another run holds the stage; that may only show when it is to be started.
    Busy(usize),
    /// A held stage may be looked at again.
    Retry(usize),
    /// The stage's artifact is on record.
    Done(usize),
    /// The stage failed.
    Failed(usize),
    /// The stage stopped since it was asked to.
    Stopped(usize),
    /// The stage's attempt failed, and another one follows after a pause: until then it takes nothing.
    Rests(usize),
    /// The pause is over.
    Again(usize),
    /// The stage could not begin, since the bytes of `input` are gone: that one is looked at, and made, again.
    Lost {
        /// The stage.
        stage: usize,
        /// Its input.
        input: usize,
    },
    /// Nothing more may start.
    Interrupt,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Every input is known: make the key and look into the cache.
    Probe(usize),
    /// Look again in a while.
    ProbeLater(usize),
    /// Start the stage, or its next attempt.
    Launch(usize),
    /// The stage cannot be reached, since `because` failed.
    Skip {
        /// The stage.
        stage: usize,
        /// The one that failed.
        because: usize,
    },
    /// Everything has ended.
    Finish,
}

/// Where a stage stands. Only [`Scheduler::set`] changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many inputs are not there yet.
    Blocked(usize),
    /// Its inputs are known and the cache is being asked.
    Probing,
    /// It must run and waits for cores.
    Ready,
    /// It runs.
    Running,
    /// It pauses between two attempts, and keeps its lease.
    Resting,
    /// Its pause is over and it waits for cores. Unlike one that is ready it has begun: it ends by itself.
    Again,
    /// Its artifact is known.
    Done,
    /// It failed, was stopped, or was never reached.
    Ended,
}

/// The state of a whole run.
#[derive(Debug)]
pub struct Scheduler<'a> {
    graph: &'a Graph,
    needs: Vec<Need>,
    free: Capacity,
    states: Vec<State>,
    /// Who waits for cores: by what they need, and then in the order in which they are started, the longest way to an end first.
    ready: BTreeMap<Need, BTreeSet<(Reverse<u32>, usize)>>,
    /// Stages that have not ended.
    open: usize,
    /// Stages that run, pause between attempts, or are looked at.
    active: usize,
    keep_going: bool,
    closed: bool,
    finished: bool,
}

impl<'a> Scheduler<'a> {
    /// Nothing has begun. With `keep_going`, a failure stops only what depends on it. A need beyond the capacity counts as
    /// all of it: whoever lets such a stage run, lets it run alone.
    pub fn new(graph: &'a Graph, mut needs: Vec<Need>, capacity: Capacity, keep_going: bool) -> Self {
        for need in &mut needs {
            need.cores = need.cores.min(capacity.cores);
            need.memory = need.memory.min(capacity.memory);
            need.gpus = need.gpus.min(capacity.gpus);
        }
        let states = (0..graph.len()).map(|stage| State::Blocked(graph.inputs(stage).count())).collect();
        Self {
            graph,
            needs,
            free: capacity,
            states,
            ready: BTreeMap::new(),
            open: graph.len(),
            active: 0,
            keep_going,
            closed: false,
            finished: false,
        }
    }

    fn set(&mut self, stage: usize, state: State) {
        let was = self.states[stage];
        if was == state {
            return;
        }
        if was == State::Running {
            let need = self.needs[stage];
            self.free.cores += need.cores;
            self.free.memory += need.memory;
            self.free.gpus += need.gpus;
        }
        if state == State::Running {
            let need = self.needs[stage];
            self.free.cores -= need.cores;
            self.free.memory -= need.memory;
            self.free.gpus -= need.gpus;
        }
        let place = (Reverse(self.graph.height(stage)), stage);
        let waits = |state| matches!(state, State::Ready | State::Again);
        if waits(was)
            && let Some(waiting) = self.ready.get_mut(&self.needs[stage])
        {
            waiting.remove(&place);
        }
        if waits(state) {
            self.ready.entry(self.needs[stage]).or_default().insert(place);
        }
        let active =
            |state| usize::from(matches!(state, State::Running | State::Resting | State::Again | State::Probing));
        self.active = self.active + active(state) - active(was);
        if matches!(state, State::Done | State::Ended) {
            self.open -= 1;
        }
        self.states[stage] = state;
    }

    /// One thing happened; what is to be done now?
    pub fn step(&mut self, input: Input) -> Vec<Command> {
        let mut commands = Vec::new();
        match input {
            Input::Begin => {
                for &stage in self.graph.order() {
                    if self.states[stage] == State::Blocked(0) {
                        self.set(stage, State::Probing);
                        commands.push(Command::Probe(stage));
                    }
                }
            }
            Input::Hit(stage) | Input::Done(stage) => {
                self.set(stage, State::Done);
                self.release(stage, &mut commands);
            }
            Input::Miss(stage) => self.set(stage, if self.closed { State::Ended } else { State::Ready }),
            Input::Busy(stage) if self.closed => self.set(stage, State::Ended),
            Input::Busy(stage) => {
                self.set(stage, State::Probing);
                commands.push(Command::ProbeLater(stage));
            }
            Input::Retry(stage) if self.closed => self.set(stage, State::Ended),
            Input::Retry(stage) => commands.push(Command::Probe(stage)),
            Input::Failed(stage) => {
                self.set(stage, State::Ended);
                self.give_up(stage, &mut commands);
                if !self.keep_going {
                    self.close();
                }
            }
            Input::Stopped(stage) => {
                self.set(stage, State::Ended);
                self.close();
            }
            Input::Rests(stage) => self.set(stage, State::Resting),
            Input::Again(stage) => self.set(stage, State::Again),
            Input::Lost { stage, .. } if self.closed => self.set(stage, State::Ended),
            Input::Lost { stage, input } => self.go_back(stage, input, &mut commands),
            Input::Interrupt => self.close(),
        }
        self.launch(&mut commands);
        if !self.finished && (self.open == 0 || (self.closed && self.active == 0)) {
            self.finished = true;
            commands.push(Command::Finish);
        }
        commands
    }

    /// Whether nothing new may start.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Nothing new starts; what is being looked at ends when its answer comes.
    fn close(&mut self) {
        self.closed = true;
        for stage in 0..self.states.len() {
            if matches!(self.states[stage], State::Ready | State::Blocked(_)) {
                self.set(stage, State::Ended);
            }
        }
    }

    fn release(&mut self, stage: usize, commands: &mut Vec<Command>) {
        let graph = self.graph;
        for next in graph.dependents(stage) {
            if let State::Blocked(missing) = self.states[next] {
                if missing == 1 {
                    self.set(next, State::Probing);
                    commands.push(Command::Probe(next));
                } else {
                    self.set(next, State::Blocked(missing - 1));
                }
            }
        }
    }

    /// `stage` waits once more for `input`, which is begun again unless it is being done already.
    fn go_back(&mut self, stage: usize, input: usize, commands: &mut Vec<Command>) {
        match self.states[input] {
            State::Done => {
                // Who still waits for others had counted it as there.
                let graph = self.graph;
                for next in graph.dependents(input) {
                    if let State::Blocked(missing) = self.states[next] {
                        self.set(next, State::Blocked(missing + 1));
                    }
                }
                self.set(stage, State::Blocked(1));
                self.open += 1;
                self.set(input, State::Probing);
                commands.push(Command::Probe(input));
            }
            State::Ended => {
                self.set(stage, State::Ended);
                commands.push(Command::Skip { stage, because: input });
                self.give_up(stage, commands);
            }
            State::Blocked(_) | State::Probing | State::Ready | State::Running | State::Resting | State::Again => {
                self.set(stage, State::Blocked(1));
            }
        }
    }

    /// Ends all that cannot be reached without `failed`. A loop and no recursion: the graph may be a chain of thousands.
    fn give_up(&mut self, failed: usize, commands: &mut Vec<Command>) {
        let graph = self.graph;
        let mut unreachable = vec![failed];
        while let Some(stage) = unreachable.pop() {
            for next in graph.dependents(stage) {
                if matches!(self.states[next], State::Blocked(_)) {
                    self.set(next, State::Ended);
                    commands.push(Command::Skip { stage: next, because: failed });
                    unreachable.push(next);
                }
            }
        }
    }

    /// Starts what fits, the longest way to an end first.
    fn launch(&mut self, commands: &mut Vec<Command>) {
        loop {
            let free = self.free;
            let fits = |need: &Need| need.cores <= free.cores && need.memory <= free.memory && need.gpus <= free.gpus;
            let first =
                self.ready.iter().filter(|(need, _)| fits(need)).filter_map(|(_, waiting)| waiting.first()).min();
            let Some(&(_, stage)) = first else { return };
            self.set(stage, State::Running);
            commands.push(Command::Launch(stage));
        }
    }
}

#[cfg(test)]
mod tests;
