//! A command that had nothing to do, given again: no plan is made unless something is not as it was.

use std::path::{Path, PathBuf};

use super::{
    toys::registry,
    world::{Manner, World, numerics},
};
use crate::{
    event::{Outcome, log},
    key::Numerics,
    plan::{self, CacheProbe, Plan, Verdict, WrittenPlan, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    run::{Asked, RunFolder, Unchanged},
};

const RECIPE: &str = "flow: 1
name: toy
stages:
  a: { kind: write, with: { text: one, file: source.txt } }
  b: !include b.yaml
  ab: { kind: join, inputs: { parts: [a, b] } }
";

/// A folder with a recipe that was run and then had nothing to do.
struct Scene {
    world: World,
    options: LoadOptions,
    program: PathBuf,
    recipe: PathBuf,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new();
        let [program, recipe] = ["program", "toy.yaml"].map(|name| world.dir.path().join(name));
        let scene = Self { program, recipe, options: LoadOptions::default(), world };
        scene.write("toy.yaml", RECIPE);
        scene.write("b.yaml", "{ kind: write, with: { text: two } }\n");
        scene.write("source.txt", "one");
        scene.write("program", "");
        let (_, plan) = scene.plan().await;
        scene.world.run_plan(&plan, Manner::default()).await.unwrap();
        scene.find_nothing_to_do().await;
        scene
    }

    /// As the first run after the one that made everything.
    async fn find_nothing_to_do(&self) -> RunFolder {
        let (recipe, plan) = self.plan().await;
        assert!(plan.verdicts.iter().all(|verdict| matches!(verdict, Verdict::Cached { .. })));
        let ran = self.world.run_plan(&plan, Manner::default()).await.unwrap();
        let folder = RunFolder::open(&self.runs(), Some(&ran.state.run)).unwrap();
        folder.freeze(&recipe::resolved_json(&recipe), &WrittenPlan::of(&plan)).unwrap();
        Unchanged::remember(&self.asked(), &self.world.cache, &recipe, &plan, "cpu", &folder);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.dir.path().join(name)
    }

    fn runs(&self) -> PathBuf {
        self.path("runs")
    }

    fn write(&self, name: &str, text: &str) {
        fs_err::write(self.path(name), text).unwrap();
    }

    fn asked(&self) -> Asked<'_> {
        Asked { program: &self.program, recipe: &self.recipe, options: &self.options, stages: &[], device: None }
    }

    fn look<T>(then: impl FnOnce(&Surroundings<'_>) -> T) -> T {
        let hash = |path: &Path| Ok(blake3::hash(&fs_err::read(path)?).to_string());
        then(&Surroundings { memo: Path::new(""), hash: &hash })
    }

    async fn plan(&self) -> (Recipe, Plan) {
        let recipe = recipe::load(&self.recipe, &self.options).unwrap();
        let prepared = Self::look(|surroundings| plan::prepare(&recipe, &registry(), surroundings, &[])).unwrap();
        let plan = plan::plan(prepared, numerics(), &CacheProbe::new(&self.world.cache, "toy"), &[]).await.unwrap();
        (recipe, plan)
    }

    /// What is remembered, if all of it still holds.
    async fn recall(&self, asked: &Asked<'_>, numerics: Numerics) -> Option<Unchanged> {
        let numerics = |_: &str| Some(numerics.clone());
        let known = Self::look(|surroundings| {
            Unchanged::recall(asked, &self.world.cache, &registry(), surroundings, &numerics)
        })?;
        known.is_all_there(&self.world.cache).await.unwrap().then_some(known)
    }

    async fn is_remembered(&self) -> bool {
        self.recall(&self.asked(), numerics()).await.is_some()
    }
}

/// It leaves what a run with a plan leaves, but for times.
#[tokio::test]
async fn a_run_that_is_remembered_is_one_like_any_other() {
    let scene = Scene::new().await;
    let known = scene.recall(&scene.asked(), numerics()).await.unwrap();
    let mut seen = Vec::new();
    let state = known.run(&scene.world.cache, &scene.runs(), 2, &mut |event, _| seen.push(event.clone()));
    let state = state.unwrap().unwrap();
    assert_eq!(state.outcome, Some(Outcome::Done));
    let folder = RunFolder::open(&scene.runs(), Some(&state.run)).unwrap();
    assert_eq!(log::read(&folder.events()).unwrap(), seen);
    assert_eq!(folder.state().unwrap(), state);
    let like = scene.find_nothing_to_do().await;
    let told = |folder: &RunFolder| {
        let events = log::read(&folder.events()).unwrap();
        events.into_iter().map(|event| event.what).collect::<Vec<_>>()
    };
    let (is, was) = (told(&folder), told(&like));
    assert_eq!(is[1..is.len() - 1], was[1..was.len() - 1]);
    assert_eq!(folder.plan().unwrap(), like.plan().unwrap());
    assert_eq!(folder.recipe().unwrap(), like.recipe().unwrap());
}

#[tokio::test]
async fn whatever_changed_it_is_not_believed() {
    let scene = Scene::new().await;
    assert!(scene.is_remembered().await);
    for (name, text) in [
        ("toy.yaml", RECIPE.replace("ab:", "abc:")),
        ("b.yaml", "{ kind: write, with: { text: three } }\n".to_owned()),
        ("source.txt", "another".to_owned()),
    ] {
        let before = fs_err::read_to_string(scene.path(name)).unwrap();
        scene.write(name, &text);
        assert!(!scene.is_remembered().await, "{name}");
        fs_err::remove_file(scene.path(name)).unwrap();
        assert!(!scene.is_remembered().await, "{name}");
        scene.write(name, &before);
        assert!(scene.is_remembered().await, "{name}");
    }
    let elsewhere = Numerics { backend: "gpu".into(), dtype: "bf16".into() };
    assert!(scene.recall(&scene.asked(), elsewhere).await.is_none());
    let set = LoadOptions { set: vec![("seed".into(), "7".into())], ..LoadOptions::default() };
    let stages = ["a".to_owned()];
    for asked in [
        Asked { options: &set, ..scene.asked() },
        Asked { stages: &stages, ..scene.asked() },
        Asked { device: Some("cpu"), ..scene.asked() },
    ] {
        assert!(scene.recall(&asked, numerics()).await.is_none(), "{asked:?}");
    }
    fs_err::remove_file(&scene.program).unwrap();
    scene.write("program", "built anew");
    assert!(!scene.is_remembered().await);
}

#[tokio::test]
async fn what_is_gone_or_damaged_is_noticed() {
    let scene = Scene::new().await;
    let file =
        fs_err::read_dir(scene.world.cache.root().join("memo/unchanged")).unwrap().next().unwrap().unwrap().path();
    let text = fs_err::read(&file).unwrap();
    for at in [0, text.len() / 2, text.len() - 70, text.len() - 1] {
        let mut damaged = text.clone();
        damaged[at] ^= 1;
        fs_err::write(&file, &damaged).unwrap();
        assert!(!scene.is_remembered().await, "a bit of byte {at}");
        fs_err::write(&file, &text[..at]).unwrap();
        assert!(!scene.is_remembered().await, "cut at {at}");
    }
    fs_err::write(&file, &text).unwrap();
    let known = scene.recall(&scene.asked(), numerics()).await.unwrap();

    let blob = walk(&scene.world.cache.root().join("v1/blobs"));
    fs_err::rename(&blob, scene.path("aside")).unwrap();
    assert!(!scene.is_remembered().await, "a blob is gone");
    fs_err::rename(scene.path("aside"), &blob).unwrap();
    assert!(scene.is_remembered().await);

    fs_err::remove_dir_all(scene.runs()).unwrap();
    let run = known.run(&scene.world.cache, &scene.runs(), 2, &mut |_, _| {}).unwrap();
    assert!(run.is_none(), "the plan of then was removed");
}

/// Some file below a folder.
fn walk(folder: &Path) -> PathBuf {
    let first = fs_err::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    if first.is_dir() { walk(&first) } else { first }
}
