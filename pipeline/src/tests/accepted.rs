//! A person says that a change is harmless: what is taken for what, what is refused, and what a recheck says of it.

use std::time::SystemTime;

use flow_cache::{Acquired, Holder};

use super::world::{Manner, World, numerics, prepare};
use crate::{
    Error,
    accept::{Proposal, Unfit, propose, record},
    error::Result,
    event::{Outcome, state::RunState},
    names::StageId,
    provenance,
    run::attempt::LEASE,
};

/// a, b → ab → end.
const RECIPE: &str = "
  a: { kind: write, with: { text: one } }
  b: { kind: write, with: { text: two } }
  ab: { kind: join, inputs: { parts: [a, b] } }
  end: { kind: trim, inputs: { text: ab } }
";

async fn proposed(world: &World, recipe: &str, stages: &[&str], reason: &str) -> Result<Proposal> {
    let stages: Vec<StageId> = stages.iter().map(|id| id.parse().unwrap()).collect();
    let prepared = prepare(&World::recipe(recipe), &[]).unwrap();
    propose(&prepared, &numerics(), &world.cache, &stages, reason).await
}

/// Accepts stages; the names of those that were.
async fn accepted(world: &World, recipe: &str, stages: &[&str], reason: &str) -> Vec<String> {
    let proposal = proposed(world, recipe, stages, reason).await.unwrap();
    record(&world.cache, &proposal).await.unwrap();
    proposal.stages.iter().map(|stage| stage.stage.to_string()).collect()
}

/// What is refused, a line a stage.
fn refused<T: std::fmt::Debug>(ended: Result<T>) -> Vec<String> {
    let Error::NotAccepted(stages) = ended.unwrap_err() else { panic!("refused for another reason") };
    stages.iter().map(|(stage, why)| format!("{stage}: {why}")).collect()
}

async fn records(world: &World) -> usize {
    world.cache.local_records().await.unwrap().len()
}

/// The reasons that the records of a run's stages have.
async fn reasons(world: &World, recipe: &str, state: &RunState) -> Vec<String> {
    let lines = provenance::lineage(&world.plan(recipe, &[]).await, &world.cache, state).await.unwrap();
    let reason = |line: provenance::LineageStage| Some(format!("{}: {}", line.stage, line.record.accepted?));
    lines.into_iter().filter_map(reason).collect()
}

#[tokio::test]
async fn what_is_accepted_is_cached_and_so_is_what_takes_it() {
    let world = World::new();
    let first = world.run(RECIPE).await;
    let edited = RECIPE.replace("text: one", "text: uno");
    assert_eq!(accepted(&world, &edited, &["a"], "the same word").await, ["a"]);

    let ran = world.run(&edited).await;
    assert!(ran.made.is_empty(), "{:?}", ran.made);
    assert_eq!(reasons(&world, &edited, &ran.state).await, ["a: the same word"]);
    for (id, stage) in &first.state.stages {
        assert_eq!(ran.state.stages[id].artifact, stage.artifact, "{id}");
    }
    // The record says how the artifact was made, and which key it stands for.
    let [old, new] = [&first, &ran].map(|ran| ran.state.stages[&"a".parse().unwrap()].key.unwrap());
    let (old, new) =
        (world.cache.record(&old).await.unwrap().unwrap(), world.cache.record(&new).await.unwrap().unwrap());
    assert_eq!((&new.run, &new.started, new.seconds, &new.log), (&old.run, &old.started, old.seconds, &old.log));
    assert_eq!((new.bytes, new.files, &new.metrics), (old.bytes, old.files, &old.metrics));
    assert_eq!((&old.accepted, new.parts["params"]["text"].as_str()), (&None, Some("uno")));
    // A lineage shows what it was made of, and what a person said makes no difference.
    let lines = provenance::lineage(&world.plan(&edited, &[]).await, &world.cache, &ran.state).await.unwrap();
    let line = lines.iter().find(|line| line.stage.to_string() == "a").unwrap();
    assert_eq!((line.parts.key(), line.record.key), (old.key, new.key));
    let accepted: Vec<String> = line.accepted.iter().map(ToString::to_string).collect();
    assert_eq!(accepted, ["text: one → uno"]);
    assert!(lines.iter().filter(|line| line.stage.to_string() != "a").all(|line| line.accepted.is_empty()));

    // As it was: nothing was accepted of that.
    let back = world.run(RECIPE).await;
    assert!(back.made.is_empty() && reasons(&world, RECIPE, &back.state).await.is_empty());
}

#[tokio::test]
async fn an_acceptance_of_an_acceptance_keeps_both_reasons() {
    let world = World::new();
    world.run(RECIPE).await;
    let (once, twice) = (RECIPE.replace("text: one", "text: uno"), RECIPE.replace("text: one", "text: un"));
    // No run in between: the first acceptance is the last that is known of the stage.
    accepted(&world, &once, &["a"], "the same word").await;
    accepted(&world, &twice, &["a"], "the same number").await;
    let ran = world.run(&twice).await;
    assert!(ran.made.is_empty());
    assert_eq!(reasons(&world, &twice, &ran.state).await, ["a: the same number; before that: the same word"]);
    let lines = provenance::lineage(&world.plan(&twice, &[]).await, &world.cache, &ran.state).await.unwrap();
    let accepted = lines.iter().flat_map(|line| &line.accepted).map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(accepted, ["text: one → un"], "from what it was made of");
}

#[tokio::test]
async fn stages_that_take_each_other_are_accepted_together() {
    let world = World::new();
    world.run(RECIPE).await;
    let edited = RECIPE.replace("text: one", "text: uno").replace("kind: join,", "kind: join, with: { tidy: true },");
    let waits = refused(proposed(&world, &edited, &["ab"], "x").await);
    assert_eq!(waits, ["ab: what a will make is not known yet"]);
    // `end` needs no word: it is in the cache once the others are.
    let proposal = proposed(&world, &edited, &["end", "ab", "a"], "x").await.unwrap();
    assert_eq!(proposal.cached, ["end".parse().unwrap()]);
    record(&world.cache, &proposal).await.unwrap();
    assert!(world.run(&edited).await.made.is_empty());
}

#[tokio::test]
async fn what_cannot_be_accepted_is_refused_and_nothing_is_on_record() {
    let world = World::new();
    let ran = world.run(RECIPE).await;
    let count = records(&world).await;
    let told = async |recipe: &str, stages: &[&str]| refused(proposed(&world, recipe, stages, "x").await);

    assert_eq!(told(RECIPE, &["a"]).await, ["a: already in the cache"]);
    let edited = RECIPE.replace("text: one", "text: uno") + "  c: { kind: write, with: { text: three } }\n";
    let never = "c: never run with this store and recipe, so that there is no artifact to keep";
    assert_eq!(told(&edited, &["a", "c", "b"]).await, ["b: already in the cache", never]);
    assert_eq!(told(&edited, &["c", "end"]).await, [never, "end: what ab will make is not known yet"]);
    let other = RECIPE.replace("kind: trim, inputs: { text: ab }", "kind: join, inputs: { parts: [ab] }");
    let kind = "end: the kind changed (trim → join), and an artifact of the one is none of the other";
    assert_eq!(told(&other, &["end"]).await, [kind]);
    let lost = RECIPE.replace("text: two", "file: \"no such file\", text: two");
    assert!(told(&lost, &["b"]).await[0].starts_with("b: failed to "), "{:?}", told(&lost, &["b"]).await);
    let unknown = proposed(&world, RECIPE, &["edn"], "x").await.unwrap_err();
    assert!(matches!(&unknown, Error::NoSuchStage { nearest: Some(near), .. } if near == "end"), "{unknown:?}");

    let artifact = ran.state.stages[&"a".parse().unwrap()].artifact.unwrap();
    let hex = artifact.to_string();
    fs_err::remove_file(world.cache.root().join("v1/trees").join(&hex[..2]).join(&hex)).unwrap();
    let gone = format!("a: bytes of the artifact that it would keep, {}, are no longer in the store", artifact.short());
    assert_eq!(told(&edited, &["a"]).await, [gone]);
    // Asked for by name, it is to be made again, and is no change.
    assert_eq!(told(RECIPE, &["a"]).await, ["a: already in the cache"]);
    assert_eq!(records(&world).await, count);
}

#[tokio::test]
async fn a_foreach_stands_for_those_of_its_stages_that_would_run() {
    let recipe = "
  w: { kind: write, foreach: [x, y, z], with: { text: \"${domain}\" } }
  all: { kind: join, inputs: { parts: \"w[*]\" } }
";
    let world = World::new();
    world.run(recipe).await;
    assert_eq!(refused(proposed(&world, recipe, &["w"], "r").await).len(), 3, "all are cached");
    let edited = recipe.replace("with: { text: \"${domain}\" }", "with: { text: \"${domain}\", rate: 0.5 }");
    accepted(&world, &edited, &["w[y]"], "r").await;
    assert_eq!(accepted(&world, &edited, &["w"], "s").await, ["w[x]", "w[z]"]);
    let ran = world.run(&edited).await;
    assert!(ran.made.is_empty(), "{:?}", ran.made);
    assert_eq!(reasons(&world, &edited, &ran.state).await, ["w[x]: s", "w[y]: r", "w[z]: s"]);
}

#[tokio::test]
async fn a_stage_that_another_run_has_or_has_made_is_left_to_it() {
    let world = World::new();
    world.run(RECIPE).await;
    let edited = RECIPE.replace("text: one", "text: uno").replace("text: two", "text: due");
    let proposal = proposed(&world, &edited, &["a", "b"], "x").await.unwrap();
    let count = records(&world).await;
    let key = proposal.stages[1].record.key;
    let holder = Holder::this_process("another");
    let lease = match world.cache.acquire(&key, &holder, SystemTime::now(), LEASE).await.unwrap() {
        Acquired::Yes(lease) => lease,
        Acquired::HeldBy { .. } => panic!("nobody else is here"),
    };
    assert_eq!(refused(record(&world.cache, &proposal).await), [format!("b: {holder} is making it now")]);
    assert_eq!(records(&world).await, count, "of all or of none");
    world.cache.release(&lease).await.unwrap();

    // The lease of `a` was given back, so that a run has not to wait for it.
    let ran = world.run(&edited).await;
    assert_eq!(ran.made, ["a", "ab", "b", "end"]);
    let made = refused(record(&world.cache, &proposal).await);
    assert!(made.len() == 2 && made[0].starts_with("a: made meanwhile, as "), "{made:?}");
}

#[tokio::test]
async fn a_recheck_says_that_an_accepted_artifact_is_not_what_comes_out() {
    let world = World::new();
    world.run(RECIPE).await;
    let edited = RECIPE.replace("text: one", "text: uno").replace("text: two", "text: two, rate: 0.5");
    accepted(&world, &edited, &["a", "b"], "it seemed harmless").await;
    let ran = world.run_as(&edited, Manner { recheck: &["a", "b"], ..Manner::default() }).await.unwrap();
    assert_eq!(ran.state.outcome, Some(Outcome::Failed));
    let error = ran.state.stages[&"a".parse().unwrap()].error.clone().unwrap();
    assert!(error.message.contains(" was accepted (reason: it seemed harmless) for the same key "), "{error:?}");
    assert!(error.help.as_ref().unwrap().contains("`flow cache forget STAGE` takes the acceptance back"), "{error:?}");
    // The other one was harmless indeed.
    assert!(ran.phases().contains(&"b: Finished".to_owned()), "{:?}", ran.phases());

    // What a person takes back is made as the recipe is now.
    let key = world.plan(&edited, &[]).await.verdicts.iter().find_map(|verdict| match verdict {
        crate::plan::Verdict::Cached { key, .. } => Some(*key),
        _ => None,
    });
    world.cache.forget(&key.unwrap()).await.unwrap();
    let gone = "a: its last record is gone, and with it which artifact it would keep";
    assert_eq!(refused(proposed(&world, &edited, &["a"], "x").await), [gone]);
    let ran = world.run(&edited).await;
    assert_eq!((ran.state.outcome, ran.made.first().map(String::as_str)), (Some(Outcome::Done), Some("a")));
    assert_eq!(reasons(&world, &edited, &ran.state).await, ["b: it seemed harmless"]);
}

#[test]
fn many_stages_are_not_all_named() {
    let stages: Vec<StageId> = ["a", "b", "c", "d", "e"].map(|id| id.parse().unwrap()).to_vec();
    let why = |count: usize| Unfit::Waits { stages: stages[..count].to_vec() }.to_string();
    assert_eq!(why(3), "what a, b, c will make is not known yet");
    assert_eq!(why(5), "what a, b, c and 2 more will make is not known yet");
}
