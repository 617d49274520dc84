//! What a plan says of changes: to which one each goes back, and what is different from a run.

use super::world::World;
use crate::{
    plan::{
        Artifacts, CacheProbe, WrittenPlan,
        cause::explain,
        compare::{Difference, compare},
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
    let before = (written(&world, RECIPE).await, artifacts(&ran.state));
    let same = compare((&before.0, &before.1), (&before.0, &before.0.artifacts()));
    assert_eq!((same.unchanged, same.stages), (4, Vec::new()));

    let edited = RECIPE.replace("text: one", "text: uno").replace("  b:", "  c:").replace("[a, b]", "[a, c]");
    let now = written(&world, &edited).await;
    let found = compare((&before.0, &before.1), (&now, &now.artifacts()));
    let how: Vec<String> = found
        .stages
        .iter()
        .map(|stage| match &stage.how {
            Difference::Added => format!("{} added", stage.stage),
            Difference::Removed => format!("{} removed", stage.stage),
            Difference::Changed { changes } => {
                format!("{} {}", stage.stage, changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            Difference::Waits { stages } => {
                format!(
                    "{} waits {}",
                    stage.stage,
                    stages.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                )
            }
        })
        .collect();
    // `c` writes what `b` wrote: its key is the same, and so its result is there.
    assert_eq!(
        how,
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
