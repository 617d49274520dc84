//! What a plan says of changes: to which one each goes back, and what is different from a run.

use std::collections::BTreeSet;

use super::world::World;
use crate::{
    names::StageId,
    plan::{
        Artifacts, CacheProbe, WrittenPlan,
        cause::explain,
        compare::{Comparison, Difference, Side, StageDifference, compare},
    },
    run::history::{artifacts, settled},
};

/// a, b → ab → end.
const RECIPE: &str = "
  a: { kind: write, with: { text: one } }
  b: { kind: write, with: { text: two } }
  ab: { kind: join, inputs: { parts: [a, b] } }
  end: { kind: trim, inputs: { text: ab } }
";

async fn written(world: &World, recipe: &str) -> WrittenPlan {
    let plan = world.plan(recipe, &[]).await;
    let written = WrittenPlan::of(&plan);
    // Both ways to the parts of a key lead to the same key.
    for &at in plan.graph().order() {
        let (parts, unknown) =
            written.stage(&plan.stages()[at].id).unwrap().known_parts(&plan.numerics, &written.artifacts());
        let key = unknown.is_empty().then(|| parts.key());
        assert_eq!(written.stage(&plan.stages()[at].id).unwrap().key(), key);
    }
    written
}

async fn told(world: &World, plan: &WrittenPlan, artifacts: &Artifacts) -> Vec<String> {
    let causes = explain(plan, artifacts, &CacheProbe::new(&world.cache, "toy")).await.unwrap();
    let line = |(id, causes): (_, Vec<crate::plan::Cause>)| {
        let causes: Vec<String> = causes
            .iter()
            .map(|cause| {
                let through: Vec<String> = cause.through.iter().map(ToString::to_string).collect();
                format!("{} ({}) [{}]", cause.stage, cause.why, through.join(" "))
            })
            .collect();
        format!("{id}: {}", causes.join(", "))
    };
    causes.into_iter().map(line).collect()
}

#[tokio::test]
async fn a_wait_goes_back_to_what_a_person_changed() {
    let world = World::new();
    let plan = written(&world, RECIPE).await;
    let first = "a: a (never run) [], ab: ab (never run) [], b: b (never run) [], end: end (never run) []";
    assert_eq!(told(&world, &plan, &plan.artifacts()).await.join(", "), first);
    world.run(RECIPE).await;

    let edited = RECIPE.replace("text: one", "text: uno").replace("kind: join,", "kind: join, with: { tidy: true },");
    let plan = written(&world, &edited).await;
    assert_eq!(
        told(&world, &plan, &plan.artifacts()).await,
        [
            "a: a (text: one → uno) []",
            "ab: a (text: one → uno) [], ab (tidy: false → true) []",
            "end: ab (tidy: false → true) [], a (text: one → uno) [ab]",
        ]
    );

    // The run itself tells the same story afterwards, from its events.
    let ran = world.run(&edited).await;
    let plan = settled(plan, &ran.state);
    let after = told(&world, &plan, &artifacts(&ran.state)).await;
    assert_eq!(after.last().unwrap(), "end: ab (tidy: false → true) [], a (text: one → uno) [ab]");
}

#[tokio::test]
async fn a_changed_input_goes_back_through_stages_that_are_cached() {
    let world = World::new();
    world.run(RECIPE).await;
    let edited = RECIPE.replace("text: one", "text: uno");
    let (without_end, _) = edited.split_once("  end:").unwrap();
    world.run(without_end).await;

    let plan = written(&world, &edited).await;
    let end = told(&world, &plan, &plan.artifacts()).await;
    assert_eq!(end, ["end: a (text: one → uno) [ab]"], "only the end would run");

    // A new input is a change of the stage that takes it.
    let wider = edited.replace("[a, b]", "[a, b, c]") + "  c: { kind: write, with: { text: three } }\n";
    let plan = written(&world, &wider).await;
    let told = told(&world, &plan, &plan.artifacts()).await;
    assert!(told.contains(&"c: c (never run) []".to_owned()), "{told:?}");
    assert!(told.iter().any(|line| line.starts_with("ab: c (never run) []")), "{told:?}");
}

#[tokio::test]
async fn plans_are_compared_stage_by_stage() {
    let world = World::new();
    let ran = world.run(RECIPE).await;
    let (before, had) = (written(&world, RECIPE).await, artifacts(&ran.state));
    let (stages, has) = (all(RECIPE), before.artifacts());
    let before = Side { plan: &before, artifacts: &had, recipe: &stages };
    let same = compare(before, Side { artifacts: &has, ..before });
    assert_eq!((same.unchanged, same.stages), (4, Vec::new()));

    let edited = RECIPE.replace("text: one", "text: uno").replace("  b:", "  c:").replace("[a, b]", "[a, c]");
    let now = written(&world, &edited).await;
    let found = compare(before, Side { plan: &now, artifacts: &now.artifacts(), recipe: &all(&edited) });
    // `c` writes what `b` wrote: its key is the same, and so its result is there.
    assert_eq!(
        differences(&found),
        [
            "a text: one → uno",
            "c added",
            "ab input parts[b]: gone, was 9f065a096321, input parts[c]: new, 9f065a096321",
            "end waits ab",
            "b removed"
        ]
    );
    assert_eq!(found.unchanged, 0);
}

#[tokio::test]
async fn a_stage_that_nobody_asked_for_was_not_removed() {
    let world = World::new();
    let ran = world.run(RECIPE).await;
    let (whole, artifacts, stages) = (written(&world, RECIPE).await, artifacts(&ran.state), all(RECIPE));
    let mut part = whole.clone();
    part.stages.retain(|stage| ["a", "b"].contains(&stage.stage.to_string().as_str()));
    let whole = Side { plan: &whole, artifacts: &artifacts, recipe: &stages };
    let found = compare(whole, Side { plan: &part, ..whole });
    assert_eq!(differences(&found), ["ab not asked of the second", "end not asked of the second"]);
    assert_eq!(found.unchanged, 2);
    let found = compare(Side { plan: &part, ..whole }, whole);
    assert_eq!(differences(&found), ["ab not asked of the first", "end not asked of the first"]);

    // What the other recipe does not have at all is removed or new, whatever was asked.
    let less = RECIPE.lines().filter(|line| !line.contains("end:")).collect::<Vec<_>>().join("\n");
    let less = Side { plan: &part, artifacts: &artifacts, recipe: &all(&less) };
    assert_eq!(differences(&compare(whole, less)), ["ab not asked of the second", "end removed"]);
    assert_eq!(differences(&compare(less, whole)), ["ab not asked of the first", "end added"]);
}

/// All stages of a recipe.
fn all(recipe: &str) -> BTreeSet<StageId> {
    World::recipe(recipe).stages.iter().map(|stage| stage.id.clone()).collect()
}

fn differences(found: &Comparison) -> Vec<String> {
    let joined = |parts: Vec<String>, with: &str| parts.join(with);
    let how = |stage: &StageDifference| {
        let how = match &stage.how {
            Difference::Added => "added".to_owned(),
            Difference::Removed => "removed".to_owned(),
            Difference::NotAsked { plan } => format!("not asked of the {plan:?}").to_lowercase(),
            Difference::Changed { changes } => joined(changes.iter().map(ToString::to_string).collect(), ", "),
            Difference::Waits { stages } => {
                format!("waits {}", joined(stages.iter().map(ToString::to_string).collect(), " "))
            }
        };
        format!("{} {how}", stage.stage)
    };
    found.stages.iter().map(how).collect()
}
