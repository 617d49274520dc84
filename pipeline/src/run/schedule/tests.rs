//! Whole runs as tables, and what holds for every run.

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
    assert_eq!(run.step(Input::Lost { stage: 2, input: 0 }), [Command::Skip { stage: 2, because: 0 }, Command::Finish]);
}

#[test]
fn between_two_attempts_others_have_the_cores() {
    let graph = Graph::new(&[vec![], vec![], vec![0]]).unwrap();
    let mut run = Scheduler::new(&graph, vec![need(2), need(1), need(1)], TWO, true);
    run.step(Input::Begin);
    assert_eq!(run.step(Input::Miss(0)), [Command::Launch(0)]);
    assert_eq!(run.step(Input::Miss(1)), [], "no core is free");
    assert_eq!(run.step(Input::Rests(0)), [Command::Launch(1)]);
    assert_eq!(run.step(Input::Again(0)), [], "one of its two cores is taken");
    assert_eq!(run.step(Input::Done(1)), [Command::Launch(0)]);
    assert_eq!(run.step(Input::Done(0)), [Command::Probe(2)]);
}

/// One that pauses has begun: the run waits until it has stopped, and without a word to stop it is tried again.
#[test]
fn a_run_does_not_end_without_what_pauses() {
    let graph = Graph::new(&[vec![], vec![], vec![]]).unwrap();
    let start = || {
        let mut run = Scheduler::new(&graph, vec![need(1), need(2), need(1)], TWO, false);
        run.step(Input::Begin);
        run.step(Input::Miss(0));
        run.step(Input::Miss(1));
        assert_eq!(run.step(Input::Rests(0)), [Command::Launch(1)]);
        run
    };
    let mut run = start();
    assert_eq!(run.step(Input::Interrupt), []);
    run.step(Input::Miss(2));
    assert_eq!(run.step(Input::Stopped(1)), []);
    assert_eq!(run.step(Input::Stopped(0)), [Command::Finish]);

    let mut run = start();
    run.step(Input::Again(0));
    run.step(Input::Miss(2));
    assert_eq!(run.step(Input::Failed(1)), [Command::Launch(0)], "2 never begins");
    assert_eq!(run.step(Input::Failed(0)), [Command::Finish]);
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
    /// Whatever the answers and their order, capacity is kept by what does not pause, no stage is looked at before its inputs
    /// are there, one is given up exactly if a stage that it needs failed, every stage ends once, and the run ends.
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
        let (mut resting, mut rests): (Vec<usize>, [u8; 12]) = (Vec::new(), [0; 12]);
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
            } else if !resting.is_empty() && (answer == 5 || running.is_empty()) {
                Input::Again(resting.remove(0))
            } else if let Some(&s) = running.last().filter(|s| answer == 6 && rests[**s] < 2) {
                running.pop();
                resting.push(s);
                rests[s] += 1;
                Input::Rests(s)
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
        prop_assert!(only_skips && running.is_empty() && resting.is_empty());
        for command in open {
            if let Command::Skip { stage, .. } = command { ended[stage] += 1; }
        }
        prop_assert_eq!(ended, [1; 12]);
    }
}
