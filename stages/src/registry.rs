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
