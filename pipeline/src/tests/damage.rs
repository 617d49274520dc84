//! What is damaged is set aside and made again; what a stage should not have written is not published; what another left in a
//! work dir is not gone on from.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf};

use flow_cache::ArtifactDigest;

use super::world::{Manner, Ran, World};
use crate::{
    event::{Event, Outcome},
    names::StageId,
};

const RECIPE: &str = "
  a: { kind: write, with: { text: one } }
  b: { kind: write, with: { text: two } }
  ab: { kind: join, inputs: { parts: [a, b] } }
  end: { kind: join, inputs: { parts: [ab, a] } }
";

fn id(text: &str) -> StageId {
    text.parse().unwrap()
}

fn notes(ran: &Ran) -> Vec<String> {
    let notes = ran.events.iter().filter_map(|event| match &event.what {
        Event::StageNote { stage, text } => Some(format!("{stage}: {text}")),
        _ => None,
    });
    notes.collect()
}

/// The file of the one blob of an artifact.
async fn blob(world: &World, artifact: ArtifactDigest) -> PathBuf {
    let manifest = world.cache.manifest(&artifact).await.unwrap().unwrap();
    let digest = manifest.entries.values().next().unwrap().digest.to_string();
    world.cache.root().join("v1/blobs").join(&digest[..2]).join(&digest)
}

fn overwrite(file: &PathBuf, bytes: &[u8]) {
    fs_err::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    fs_err::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_is_set_aside_and_made_again_in_the_same_run() {
    let world = World::new();
    let first = world.run(RECIPE).await;
    let a = first.state.stages[&id("a")].artifact.unwrap();
    overwrite(&blob(&world, a).await, b"onf\n");

    // Nothing needs the bytes: nothing is read, as a cache should.
    assert_eq!(world.run(RECIPE).await.made, [""; 0]);
    let ran = world
        .run(&RECIPE.replace(
            "kind: join, inputs: { parts: [a, b] }",
            "kind: join, inputs: { parts: [a, b] }, with: { tidy: true }",
        ))
        .await;
    assert_eq!(ran.state.outcome, Some(Outcome::Done));
    assert_eq!(ran.made, ["a", "ab"]);
    assert_eq!(ran.state.stages[&id("a")].artifact, Some(a));
    let notes = notes(&ran);
    assert!(notes[0].starts_with("a: its result is made again: ab failed to read blob "), "{notes:?}");
    assert!(notes[0].contains("damaged and were set aside"), "{notes:?}");
    let text = world.cache.read_file(&a, &"text".parse().unwrap()).await.unwrap();
    assert_eq!(&text[..], b"one\n");
    let report = world.cache.verify().await.unwrap();
    assert!(report.is_sound() && report.incomplete.is_empty(), "{report:?}");
    assert_eq!(fs_err::read_dir(world.cache.root().join("v1/quarantine")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_cut_blob_is_made_again_and_the_run_says_so() {
    let world = World::new();
    let first = world.run(RECIPE).await;
    let a = first.state.stages[&id("a")].artifact.unwrap();
    overwrite(&blob(&world, a).await, b"o");
    let ran = world.run(&RECIPE.replace("parts: [a, b] }", "parts: [a, b] }, with: { tidy: true }")).await;
    assert_eq!(ran.made, ["a", "ab"]);
    assert_eq!(notes(&ran), ["a: its bytes are no longer in the store: it is made again"]);
    assert!(world.cache.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_its_stage_done_again() {
    let world = World::new();
    let first = world.run(RECIPE).await;
    let key = first.state.stages[&id("a")].key.unwrap().to_string();
    let record = world.cache.root().join("v1/records").join(&key[..2]).join(format!("{key}.json"));
    let text = fs_err::read(&record).unwrap();
    overwrite(&record, &text[..text.len() / 2]);
    let ran = world.run(RECIPE).await;
    assert_eq!(ran.made, ["a"]);
    assert_eq!(notes(&ran), ["a: its record was damaged, and is in the store's `quarantine`: it is made again"]);
    assert_eq!(world.run(RECIPE).await.made, [""; 0]);

    let key = first.state.stages[&id("b")].key.unwrap();
    assert!(world.cache.forget(&key).await.unwrap());
    let ran = world.run(RECIPE).await;
    assert_eq!(ran.made, ["b"]);
    assert_eq!(notes(&ran), ["b: its record is gone: it is made again"]);
}

#[tokio::test]
async fn a_stage_that_writes_where_it_should_not_is_caught() {
    let world = World::new();
    let recipe = "
  a: { kind: write, with: { text: one } }
  meddles: { kind: odd, inputs: { after: [a] }, with: { how: meddle } }
  strays: { kind: odd, with: { how: stray } }
";
    let ran = world.run(recipe).await;
    assert_eq!(ran.phases(), ["a: Finished", "meddles: Failed", "strays: Failed"]);
    let error = |name: &str| ran.state.stages[&id(name)].error.clone().unwrap();
    assert_eq!(error("meddles").message, "its input after[a] changed while it ran: `text`; nothing was published");
    assert_eq!(error("strays").message, "it wrote `elsewhere` beside its output; nothing was published");
    assert!(error("strays").help.unwrap().contains("defect of its kind"));
    for name in ["meddles", "strays"] {
        assert!(world.cache.record(&ran.state.stages[&id(name)].key.unwrap()).await.unwrap().is_none());
    }
    // Whether the blob was hit depends on the disk: either way nobody gets the wrong bytes.
    assert!(world.cache.verify().await.unwrap().is_sound());
    let after =
        world.run("\n  a: { kind: write, with: { text: one } }\n  fine: { kind: trim, inputs: { text: a } }\n").await;
    assert_eq!(after.state.outcome, Some(Outcome::Done));
    let a = ran.state.stages[&id("a")].artifact.unwrap();
    assert_eq!(&world.cache.read_file(&a, &"text".parse().unwrap()).await.unwrap()[..], b"one\n");
}

#[tokio::test]
async fn a_work_dir_of_another_version_is_not_gone_on_from() {
    let recipe = "\n  it: { kind: odd, with: { how: peek } }\n";
    let of = |version: &str| format!(r#""format":1,"flow":"{version}","kind":"odd","kind_version":3,"inputs":{{}}"#);
    for (made_by, trusted) in [
        (None, false),
        (Some("{".to_owned()), false),
        (Some(format!("{{{},\"key\":\"KEY\"}}", of("0.0.1"))), false),
        (Some(format!("{{{},\"key\":\"{}\"}}", of("0.0.0"), "0".repeat(64))), false),
        (Some(format!("{{{},\"key\":\"KEY\"}}", of("0.0.0"))), true),
    ] {
        let world = World::new();
        let plan = world.plan(recipe, &[]).await;
        let key = plan.stages()[0].key_parts(&plan.numerics, |_| None).unwrap().key();
        let work = world.cache.work_dir(&key).unwrap();
        fs_err::write(work.scratch().join("checkpoint"), "of somebody").unwrap();
        if let Some(text) = &made_by {
            fs_err::write(work.path().join("job.json"), text.replace("KEY", &key.to_string())).unwrap();
        }
        let ran = world.run_plan(&plan, Manner::default()).await.unwrap();
        let artifact = ran.state.stages[&id("it")].artifact.unwrap();
        let seen = world.cache.read_file(&artifact, &"text".parse().unwrap()).await.unwrap();
        assert_eq!(&seen[..], if trusted { b"1" } else { b"0" }, "{made_by:?}");
        assert_eq!(notes(&ran).iter().any(|note| note.contains("discarded")), !trusted, "{made_by:?}");
    }
}

/// A checkpoint may come of what an input was in between: neither a stage that failed for it nor one that was killed is gone on from.
#[tokio::test]
async fn what_was_made_of_a_changed_input_is_not_gone_on_from() {
    let recipe = "\n  a: { kind: write, with: { text: one } }\n  it: { kind: odd, inputs: { after: [a] }, with: { how: peek } }\n";
    for (change, trusted) in [(None, true), (Some("eno\n"), false)] {
        let world = World::new();
        let first = world.run("\n  a: { kind: write, with: { text: one } }\n").await;
        let a = first.state.stages[&id("a")].artifact.unwrap();
        let plan = world.plan(recipe, &[]).await;
        let it = plan.stages().iter().find(|stage| stage.id == id("it")).unwrap();
        let key = it.key_parts(&plan.numerics, |_| Some(a)).unwrap().key();
        let work = world.cache.work_dir(&key).unwrap();
        let laid = work.inputs().join("after/a");
        world.cache.materialize(&a, &laid).await.unwrap();
        let job = format!(
            r#"{{"format":1,"flow":"0.0.0","kind":"odd","kind_version":3,"key":"{key}",
                "inputs":{{"after":[{{"label":"a","artifact":"{a}","path":"/before/the/store/moved"}}]}}}}"#
        );
        fs_err::write(work.path().join("job.json"), job).unwrap();
        fs_err::write(work.scratch().join("checkpoint"), "of it").unwrap();
        if let Some(text) = change {
            overwrite(&laid.join("text"), text.as_bytes());
        }
        let ran = world.run(recipe).await;
        let seen = ran.state.stages[&id("it")].artifact.unwrap();
        let seen = world.cache.read_file(&seen, &"text".parse().unwrap()).await.unwrap();
        assert_eq!(&seen[..], if trusted { b"1" } else { b"0" }, "{change:?}");
        let want = "it: what an earlier attempt left comes of an input that was changed meanwhile, after[a]: discarded, it begins anew";
        assert_eq!(notes(&ran).iter().any(|note| note == want), !trusted, "{:?}", notes(&ran));
    }
}

#[tokio::test]
async fn what_an_earlier_attempt_wrote_beside_its_output_is_cleared() {
    let world = World::new();
    let recipe = "\n  it: { kind: odd, with: { how: peek } }\n";
    let plan = world.plan(recipe, &[]).await;
    let key = plan.stages()[0].key_parts(&plan.numerics, |_| None).unwrap().key();
    let work = world.cache.work_dir(&key).unwrap();
    fs_err::write(work.path().join("stray"), "").unwrap();
    fs_err::create_dir_all(work.path().join("folder/of/strays")).unwrap();
    std::os::unix::fs::symlink(world.cache.root(), work.path().join("link")).unwrap();
    assert_eq!(world.run(recipe).await.phases(), ["it: Finished"]);
    assert!(world.cache.root().join("v1").exists());
}
