//! A stage that was done and of which bytes are gone: what was made of it is still valid, and it is made again only where
//! somebody wants its bytes.

use super::world::{Manner, Ran, World, numerics, prepare};
use crate::{
    event::Outcome,
    names::StageId,
    plan::{self, CacheProbe, Plan, Verdict, WrittenPlan, cause::explain},
};

/// a, b → ab → end, and c beside it.
const RECIPE: &str = "
  a: { kind: write, with: { text: one } }
  b: { kind: write, with: { text: two } }
  c: { kind: write, with: { text: three } }
  ab: { kind: join, inputs: { parts: [a, b] } }
  end: { kind: join, inputs: { parts: [ab] } }
";
const LOST: &str = "its bytes are no longer in the store";

fn id(text: &str) -> StageId {
    text.parse().unwrap()
}

/// A store on which the recipe was run, and that run.
async fn done() -> (World, Ran) {
    let world = World::new();
    let ran = world.run(RECIPE).await;
    (world, ran)
}

/// Takes the bytes of these stages away, as a collection would.
fn evict(world: &World, ran: &Ran, stages: &[&str]) {
    for stage in stages {
        let artifact = ran.state.stages[&id(stage)].artifact.unwrap().to_string();
        fs_err::remove_file(world.cache.root().join("v1/trees").join(&artifact[..2]).join(&artifact)).unwrap();
    }
}

/// The verdicts, sorted by stage; what is hollow in brackets.
fn verdicts(plan: &Plan) -> Vec<String> {
    let line = |(at, verdict): (usize, &Verdict)| match verdict {
        Verdict::Cached { .. } if plan.hollow.contains(&at) => format!("({})", plan.stages()[at].id),
        Verdict::Cached { .. } => plan.stages()[at].id.to_string(),
        Verdict::Run { reason, .. } => format!("{}: {reason}", plan.stages()[at].id),
        Verdict::Blocked { error } => format!("{}: {error}", plan.stages()[at].id),
    };
    plan.verdicts.iter().enumerate().map(line).collect()
}

async fn asked_for(world: &World, targets: &[&str]) -> Plan {
    let targets: Vec<StageId> = targets.iter().map(|target| id(target)).collect();
    let prepared = prepare(&World::recipe(RECIPE), &targets).unwrap();
    plan::plan(prepared, numerics(), &CacheProbe::new(&world.cache, "toy"), &[]).await.unwrap()
}

#[tokio::test]
async fn bytes_that_nothing_needs_are_not_made_again() {
    let (world, first) = done().await;
    evict(&world, &first, &["b", "ab"]);
    let plan = world.plan(RECIPE, &[]).await;
    assert_eq!(verdicts(&plan), ["a", "(ab)", "(b)", "c", "end"]);
    assert_eq!((plan.artifact(0).is_some(), plan.artifact(1)), (true, None), "no one is told of bytes that are gone");
    let ran = world.run_plan(&plan, Manner::default()).await.unwrap();
    assert_eq!((ran.made.len(), ran.state.outcome), (0, Some(Outcome::Done)));
    assert_eq!(ran.state.stages[&id("end")].artifact, first.state.stages[&id("end")].artifact);
}

#[tokio::test]
async fn bytes_that_were_asked_for_are_made_again() {
    let (world, first) = done().await;
    evict(&world, &first, &["b", "end"]);
    // Nothing takes the end: whoever runs the recipe wants it.
    let plan = world.plan(RECIPE, &[]).await;
    assert_eq!(verdicts(&plan), ["a", "ab", "(b)", "c", &format!("end: {LOST}")]);
    assert_eq!(world.run_plan(&plan, Manner::default()).await.unwrap().made, ["end"]);
    // A stage in the middle can be asked for by its name.
    let plan = asked_for(&world, &["b", "end"]).await;
    assert_eq!(verdicts(&plan), ["a", "ab", &format!("b: {LOST}"), "end"]);
    assert_eq!(world.run_plan(&plan, Manner::default()).await.unwrap().made, ["b"]);
    let ran = world.run_as(RECIPE, Manner { recheck: &["b"], ..Manner::default() }).await.unwrap();
    assert_eq!((ran.made.as_slice(), ran.phases()[1].as_str()), (&["b".to_owned()][..], "ab: Cached"));
}

#[tokio::test]
async fn a_way_of_lost_bytes_is_made_again_as_far_as_it_is_needed() {
    let (world, first) = done().await;
    evict(&world, &first, &["a", "ab", "end"]);
    let plan = world.plan(RECIPE, &[]).await;
    assert_eq!(
        verdicts(&plan),
        [&format!("a: {LOST}"), &format!("ab: {LOST}"), "b", "c", &format!("end: {LOST}")],
        "each has its key at once, and none waits to learn it"
    );
    let keys = |verdict: &Verdict| matches!(verdict, Verdict::Cached { .. } | Verdict::Run { key: Some(_), .. });
    assert!(plan.verdicts.iter().all(keys), "{:?}", plan.verdicts);
    let ran = world.run_plan(&plan, Manner::default()).await.unwrap();
    assert_eq!(ran.made, ["a", "ab", "end"]);
    for (stage, state) in &first.state.stages {
        assert_eq!(state.artifact, ran.state.stages[stage].artifact, "{stage}");
    }
}

#[tokio::test]
async fn what_takes_lost_bytes_is_explained_by_its_own_change() {
    let (world, first) = done().await;
    evict(&world, &first, &["b", "ab"]);
    // The end is another: the digest of what it takes is on record, so that there is nothing to wait for.
    let edited = RECIPE.replace("parts: [ab] }", "parts: [ab] }, with: { tidy: true }");
    let plan = world.plan(&edited, &[]).await;
    assert_eq!(
        verdicts(&plan),
        ["a", &format!("ab: {LOST}"), &format!("b: {LOST}"), "c", "end: tidy: false → true"],
        "to make ab again its own inputs are needed"
    );
    let written = WrittenPlan::of(&plan);
    let causes = explain(&written, &written.artifacts(), &CacheProbe::new(&world.cache, "toy")).await.unwrap();
    let end: Vec<String> = causes[&id("end")].iter().map(|cause| format!("{} {}", cause.stage, cause.why)).collect();
    assert_eq!(end, ["end tidy: false → true"]);
    assert_eq!(world.run_plan(&plan, Manner::default()).await.unwrap().made, ["ab", "b", "end"]);
}

#[tokio::test]
async fn an_input_that_is_lost_and_another_than_it_was_goes_back_to_what_changed() {
    let (world, _) = done().await;
    let edited = RECIPE.replace("text: two", "text: zwei");
    let (without_end, _) = edited.split_once("  end:").unwrap();
    let second = world.run(without_end).await;
    evict(&world, &second, &["ab"]);
    let plan = world.plan(&edited, &[]).await;
    let written = WrittenPlan::of(&plan);
    let causes = explain(&written, &written.artifacts(), &CacheProbe::new(&world.cache, "toy")).await.unwrap();
    let end: Vec<String> = causes[&id("end")].iter().map(|cause| format!("{} {}", cause.stage, cause.why)).collect();
    assert_eq!(end, ["b text: two → zwei"], "{:?}", verdicts(&plan));
}

#[tokio::test]
async fn what_was_passed_over_is_made_when_it_turns_out_to_be_needed() {
    let (world, first) = done().await;
    evict(&world, &first, &["b"]);
    let plan = world.plan(&RECIPE.replace("parts: [ab] }", "parts: [ab] }, with: { tidy: true }"), &[]).await;
    assert_eq!(verdicts(&plan), ["a", "ab", "(b)", "c", "end: tidy: false → true"]);
    // Somebody collects between the plan and the run.
    evict(&world, &first, &["ab"]);
    let ran = world.run_plan(&plan, Manner::default()).await.unwrap();
    assert_eq!(
        (ran.made.as_slice(), ran.state.outcome),
        (&["ab", "b", "end"].map(str::to_owned)[..], Some(Outcome::Done))
    );
}
