//! Every kind that a recipe can name: a line each.

use flow_pipeline::registry::Registry;

/// All kinds.
pub fn registry() -> Registry {
    Registry::new()
        .with::<crate::curate::Curate>()
        .with::<crate::train_tokenizer::TrainTokenizer>()
        .with::<crate::import_tokenizer::ImportTokenizer>()
        .with::<crate::tokenize::Tokenize>()
        .with::<crate::pretrain::Pretrain>()
        .with::<crate::import_model::ImportModel>()
        .with::<crate::embed::Embed>()
        .with::<crate::train_expert::TrainExpert>()
        .with::<crate::merge::Merge>()
        .with::<crate::soup::Soup>()
        .with::<crate::ensemble::Ensemble>()
        .with::<crate::evaluate::Evaluate>()
        .with::<crate::report::kind::Report>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A role that nothing can fill could never be given, and an artifact without a name fills nothing.
    #[test]
    fn every_kind_says_what_it_makes_and_every_role_can_be_filled() {
        let registry = registry();
        let made: Vec<&str> = registry.iter().map(flow_pipeline::stage::AnyKind::makes).collect();
        assert!(made.iter().all(|made| !made.is_empty()) && made.len() == 13, "{made:?}");
        for kind in registry.iter() {
            for role in kind.roles() {
                assert!(!role.takes.is_empty(), "{}: {}", kind.name(), role.name);
                for taken in role.takes {
                    assert!(made.contains(taken), "{}: no kind makes `{taken}` for `{}`", kind.name(), role.name);
                }
            }
        }
    }
}
