//! What a person does with flow, end to end, through the program itself: one file a story.
//!
//! Each test has a folder of its own with text made by a seeded generator and a small recipe ([`environment`]), so that a
//! whole run takes seconds; what needs no whole run is tested in the crates.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

mod stories {
    mod accepted;
    mod broken_sources;
    mod bucket;
    mod certain_to_fail;
    mod corpus;
    mod cut_off;
    mod damage;
    mod documented;
    mod environment;
    mod explain;
    mod first_run;
    mod full_disk;
    mod generate;
    mod golden_digests;
    mod interop;
    mod pipes;
    mod places;
    mod plan_and_graph;
    mod process;
    mod remote;
    mod said_plainly;
    mod store;
    mod surroundings;
    mod training;
    mod unwell_bucket;
    mod what_runs_again;
    mod wrong_recipes;
}
