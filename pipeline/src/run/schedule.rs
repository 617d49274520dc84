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
    /// Start the stage.
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
    /// Stages that run or are looked at.
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
        if was == State::Ready
            && let Some(waiting) = self.ready.get_mut(&self.needs[stage])
        {
            waiting.remove(&place);
        }
        if state == State::Ready {
            self.ready.entry(self.needs[stage]).or_default().insert(place);
        }
        let active = |state| usize::from(matches!(state, State::Running | State::Probing));
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
            State::Blocked(_) | State::Probing | State::Ready | State::Running => self.set(stage, State::Blocked(1)),
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: Capacity = Capacity { cores: 2, memory: 100, gpus: 0 };

    fn need(cores: u32) -> Need {
        Need { cores, memory: 1, gpus: 0 }
    }

    /// 0 → 1 → 3, 0 → 2 → 3.
    fn diamond() -> Graph {
        Graph::new(&[vec![], vec![0], vec![0], vec![1, 2]]).unwrap()
    }

    #[test]
    fn a_run_as_a_table() {
        let graph = diamond();
        let mut run = Scheduler::new(&graph, vec![need(1), need(2), need(1), need(1)], TWO, true);
        assert_eq!(run.step(Input::Begin), [Command::Probe(0)]);
        assert_eq!(run.step(Input::Miss(0)), [Command::Launch(0)]);
        assert_eq!(run.step(Input::Done(0)), [Command::Probe(1), Command::Probe(2)]);
        assert_eq!(run.step(Input::Miss(2)), [Command::Launch(2)]);
        assert_eq!(run.step(Input::Miss(1)), [], "two cores are not free");
        assert_eq!(run.step(Input::Done(2)), [Command::Launch(1)]);
        assert_eq!(run.step(Input::Done(1)), [Command::Probe(3)]);
        assert_eq!(run.step(Input::Hit(3)), [Command::Finish]);
    }

    #[test]
    fn a_failure_gives_up_what_depends_on_it_and_nothing_else() {
        let graph = Graph::new(&[vec![], vec![0], vec![1], vec![]]).unwrap();
        let mut run = Scheduler::new(&graph, vec![need(1); 4], TWO, true);
        run.step(Input::Begin);
        run.step(Input::Miss(0));
        run.step(Input::Miss(3));
        assert_eq!(
            run.step(Input::Failed(0)),
            [Command::Skip { stage: 1, because: 0 }, Command::Skip { stage: 2, because: 0 }]
        );
        assert_eq!(run.step(Input::Done(3)), [Command::Finish]);
    }

    #[test]
    fn without_keep_going_a_failure_ends_the_run() {
        let graph = Graph::new(&[vec![], vec![0], vec![], vec![]]).unwrap();
        let mut run = Scheduler::new(&graph, vec![need(1); 4], TWO, false);
        assert_eq!(run.step(Input::Begin), [Command::Probe(0), Command::Probe(2), Command::Probe(3)]);
        run.step(Input::Miss(0));
        run.step(Input::Miss(2));
        assert_eq!(run.step(Input::Miss(3)), [], "both cores are taken");
        assert_eq!(run.step(Input::Failed(0)), [Command::Skip { stage: 1, because: 0 }]);
        assert_eq!(run.step(Input::Done(2)), [Command::Finish], "what ran has ended, 3 never began");
    }

    #[test]
    fn the_longest_way_begins_first_and_a_giant_runs_alone() {
        let graph = Graph::new(&[vec![], vec![], vec![1], vec![2]]).unwrap();
        let giant = Need { cores: 9, memory: u64::MAX, gpus: 3 };
        let mut run = Scheduler::new(&graph, vec![giant, need(2), need(1), need(1)], TWO, true);
        run.step(Input::Begin);
        assert_eq!(run.step(Input::Miss(0)), [Command::Launch(0)]);
        assert_eq!(run.step(Input::Miss(1)), []);
        assert_eq!(run.step(Input::Done(0)), [Command::Launch(1)]);

        let mut run = Scheduler::new(&graph, vec![need(2); 4], TWO, true);
        assert_eq!(run.step(Input::Begin), [Command::Probe(0), Command::Probe(1)]);
        run.step(Input::Miss(1));
        assert_eq!(run.step(Input::Miss(0)), []);
        assert_eq!(run.step(Input::Done(1)), [Command::Probe(2), Command::Launch(0)]);
        run.step(Input::Miss(2));
        assert_eq!(run.step(Input::Failed(0)), [Command::Launch(2)]);
        assert_eq!(run.step(Input::Failed(2)), [Command::Skip { stage: 3, because: 2 }, Command::Finish]);
    }

    /// A step looks neither at all stages nor at all that wait: ten times the stages take ten times as long.
    #[test]
    fn a_wide_graph_of_a_hundred_thousand_stages_is_no_trouble() {
        const STAGES: usize = 100_000;
        let graph = Graph::new(&vec![vec![]; STAGES]).unwrap();
        let needs = (0..STAGES).map(|stage| need(1 + (stage % 2) as u32)).collect();
        let mut run = Scheduler::new(&graph, needs, TWO, true);
        let since = std::time::Instant::now();
        let mut commands: std::collections::VecDeque<Command> = run.step(Input::Begin).into();
        let mut launched = Vec::new();
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Probe(stage) => commands.extend(run.step(Input::Miss(stage))),
                Command::Launch(stage) => launched.push(stage),
                _ => {}
            }
        }
        let mut ended = 0;
        while let Some(stage) = launched.pop() {
            ended += 1;
            launched.extend(run.step(Input::Done(stage)).into_iter().filter_map(|command| match command {
                Command::Launch(stage) => Some(stage),
                _ => None,
            }));
        }
        assert_eq!(ended, STAGES);
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "{:?}", since.elapsed());
    }

    #[test]
    fn nothing_to_do_is_done() {
        let graph = Graph::new(&[]).unwrap();
        assert_eq!(Scheduler::new(&graph, Vec::new(), TWO, true).step(Input::Begin), [Command::Finish]);
        let long: Vec<Vec<usize>> = (0..10_000_usize).map(|stage| stage.checked_sub(1).into_iter().collect()).collect();
        let graph = Graph::new(&long).unwrap();
        let mut run = Scheduler::new(&graph, vec![need(1); 10_000], TWO, true);
        run.step(Input::Begin);
        run.step(Input::Miss(0));
        assert_eq!(run.step(Input::Failed(0)).len(), 10_000, "every other one is given up, then it ends");
    }

    #[test]
    fn an_interrupted_run_ends_when_what_runs_has_ended() {
        let graph = diamond();
        let mut run = Scheduler::new(&graph, vec![need(1); 4], TWO, true);
        run.step(Input::Begin);
        run.step(Input::Miss(0));
        assert_eq!(run.step(Input::Interrupt), []);
        assert_eq!(run.step(Input::Stopped(0)), [Command::Finish]);
    }

    /// 0 → 1, 2; 1, 2 → 3; 0 → 3. What 0 made is found damaged twice, by 1 and by 2.
    #[test]
    fn a_lost_input_is_made_again_before_who_needs_it() {
        let graph = Graph::new(&[vec![], vec![0], vec![0], vec![0, 1, 2]]).unwrap();
        let mut run = Scheduler::new(&graph, vec![need(1); 4], TWO, true);
        run.step(Input::Begin);
        assert_eq!(run.step(Input::Hit(0)), [Command::Probe(1), Command::Probe(2)]);
        run.step(Input::Miss(1));
        run.step(Input::Miss(2));
        assert_eq!(run.step(Input::Lost { stage: 1, input: 0 }), [Command::Probe(0)]);
        assert_eq!(run.step(Input::Lost { stage: 2, input: 0 }), [], "it is being looked at");
        assert_eq!(run.step(Input::Miss(0)), [Command::Launch(0)]);
        assert_eq!(run.step(Input::Done(0)), [Command::Probe(1), Command::Probe(2)], "3 still waits for both");
        assert_eq!(run.step(Input::Hit(1)), []);
        assert_eq!(run.step(Input::Hit(2)), [Command::Probe(3)]);
        assert_eq!(run.step(Input::Hit(3)), [Command::Finish]);
    }

    #[test]
    fn a_lost_input_that_fails_gives_up_who_needs_it() {
        let graph = diamond();
        let mut run = Scheduler::new(&graph, vec![need(1); 4], TWO, true);
        run.step(Input::Begin);
        run.step(Input::Hit(0));
        run.step(Input::Miss(1));
        run.step(Input::Miss(2));
        run.step(Input::Lost { stage: 1, input: 0 });
        run.step(Input::Miss(0));
        assert_eq!(
            run.step(Input::Failed(0)),
            [Command::Skip { stage: 1, because: 0 }, Command::Skip { stage: 3, because: 0 }]
        );
        assert_eq!(
            run.step(Input::Lost { stage: 2, input: 0 }),
            [Command::Skip { stage: 2, because: 0 }, Command::Finish]
        );
    }

    #[test]
    fn a_held_stage_is_looked_at_again() {
        let graph = Graph::new(&[vec![]]).unwrap();
        let mut run = Scheduler::new(&graph, vec![need(1)], TWO, true);
        run.step(Input::Begin);
        assert_eq!(run.step(Input::Busy(0)), [Command::ProbeLater(0)]);
        assert_eq!(run.step(Input::Retry(0)), [Command::Probe(0)]);
        assert_eq!(run.step(Input::Miss(0)), [Command::Launch(0)]);
        assert_eq!(run.step(Input::Busy(0)), [Command::ProbeLater(0)], "another run was faster");
        assert_eq!(run.step(Input::Retry(0)), [Command::Probe(0)]);
        assert_eq!(run.step(Input::Hit(0)), [Command::Finish]);
    }

    proptest! {
        /// Whatever the answers and their order, capacity is kept, no stage is looked at before its inputs are there, one is
        /// given up exactly if a stage that it needs failed, every stage ends once, and the run ends.
        #[test]
        fn every_run_ends_within_its_capacity(
            edges in prop::collection::vec((0usize..12, 0usize..12), 0..30),
            cores in prop::collection::vec(1u32..3, 12),
            answers in prop::collection::vec(0u8..8, 64),
        ) {
            let mut inputs = vec![Vec::new(); 12];
            for (a, b) in edges {
                if a != b {
                    inputs[a.max(b)].push(a.min(b));
                }
            }
            let graph = Graph::new(&inputs).unwrap();
            let needs: Vec<Need> = cores.iter().map(|&c| need(c)).collect();
            let mut run = Scheduler::new(&graph, needs.clone(), TWO, true);
            let (mut open, mut running): (Vec<Command>, Vec<usize>) = (run.step(Input::Begin), Vec::new());
            let mut ended = [0; 12];
            let (mut there, mut failed) = ([false; 12], [false; 12]);
            let mut at = 0;
            loop {
                let answer = answers[at % answers.len()];
                at += 1;
                prop_assert!(at < 10_000);
                let input = if let Some(place) = open.iter().position(|_| true).filter(|_| answer < 5 || running.is_empty()) {
                    match open.remove((answer as usize * 7 + place) % open.len()) {
                        Command::Probe(s) => {
                            prop_assert!(inputs[s].iter().all(|&input| there[input]));
                            match answer {
                                0 => Input::Busy(s),
                                1 => { ended[s] += 1; there[s] = true; Input::Hit(s) }
                                _ => Input::Miss(s),
                            }
                        }
                        Command::ProbeLater(s) => Input::Retry(s),
                        Command::Launch(s) => {
                            running.push(s);
                            let used: u32 = running.iter().map(|&s| needs[s].cores).sum();
                            prop_assert!(used <= 2);
                            continue;
                        }
                        Command::Skip { stage, because } => {
                            prop_assert!(failed[because]);
                            ended[stage] += 1;
                            continue;
                        }
                        Command::Finish => break,
                    }
                } else if let Some(s) = running.pop() {
                    ended[s] += 1;
                    there[s] = answer != 7;
                    failed[s] = answer == 7;
                    if failed[s] { Input::Failed(s) } else { Input::Done(s) }
                } else {
                    continue;
                };
                open.extend(run.step(input));
            }
            let only_skips = open.iter().all(|c| matches!(c, Command::Skip { .. }));
            prop_assert!(only_skips && running.is_empty());
            for command in open {
                if let Command::Skip { stage, .. } = command { ended[stage] += 1; }
            }
            prop_assert_eq!(ended, [1; 12]);
        }
    }
}
