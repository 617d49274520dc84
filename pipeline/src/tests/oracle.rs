//! The naive oracle: random recipes and random edits on one store, against each recipe from nothing.

use std::collections::{BTreeMap, BTreeSet};

use flow_cache::{ArtifactDigest, StageKey};
use proptest::{prelude::*, test_runner::Config};

use super::world::World;
use crate::{event::state::RunState, names::StageId};

/// One stage of a random recipe: how it is made, and which earlier stages it takes.
#[derive(Debug, Clone)]
struct Toy {
    text: u8,
    trim: bool,
    takes: Vec<prop::sample::Index>,
}

fn toys() -> impl Strategy<Value = Vec<Toy>> {
    let toy = (0_u8..3, any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 0..3))
        .prop_map(|(text, trim, takes)| Toy { text, trim, takes });
    prop::collection::vec(toy, 1..7)
}

fn recipe(toys: &[Toy]) -> String {
    let mut text = String::new();
    for (at, toy) in toys.iter().enumerate() {
        let takes: BTreeSet<usize> = toy.takes.iter().filter(|_| at > 0).map(|index| index.index(at)).collect();
        let line = match takes.iter().next() {
            // Texts that differ only in blanks, so that the wave is stopped now and then.
            None => format!("{{ kind: write, with: {{ text: 'x{}' }} }}", " ".repeat(toy.text.into())),
            Some(one) if toy.trim => format!("{{ kind: trim, inputs: {{ text: s{one} }} }}"),
            Some(_) => {
                let parts: Vec<String> = takes.iter().map(|at| format!("s{at}")).collect();
                format!(
                    "{{ kind: join, with: {{ tidy: {} }}, inputs: {{ parts: [{}] }} }}",
                    toy.text == 0,
                    parts.join(", ")
                )
            }
        };
        text += &format!("  s{at}: {line}\n");
    }
    text
}

fn artifacts(state: &RunState) -> BTreeMap<StageId, Option<ArtifactDigest>> {
    state.stages.iter().map(|(id, stage)| (id.clone(), stage.artifact)).collect()
}

proptest! {
    #![proptest_config(Config { cases: 6, ..Config::default() })]
    #[test]
    fn cached_is_as_from_nothing_and_nothing_runs_twice(
        first in toys(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..3, any::<bool>()), 1..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut known: BTreeSet<StageKey> = BTreeSet::new();
            let mut toys = first;
            for (index, text, trim) in edits {
                let ran = world.run(&recipe(&toys)).await;
                let fresh = World::new().run(&recipe(&toys)).await;
                assert_eq!(artifacts(&ran.state), artifacts(&fresh.state));
                // Two stages of one recipe may share a key: then one of them runs.
                let keys: BTreeSet<StageKey> = ran.state.stages.values().filter_map(|stage| stage.key).collect();
                assert_eq!(ran.made.len(), keys.difference(&known).count());
                known.extend(keys);
                let at = index.index(toys.len());
                toys[at].text = text;
                toys[at].trim = trim;
            }
        });
    }
}
