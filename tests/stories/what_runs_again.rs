//! After a change only what it changes is done again; what is only written in another way changes nothing.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, SystemTime},
};

use super::{
    corpus::{self, DOMAINS},
    environment::{TestEnvironment, names, stages},
};

/// What does not depend on the domain `sea`, of all that depends on some domain, and what comes before all domains.
fn without_sea() -> BTreeSet<String> {
    names([
        "corpus[public]",
        "corpus[bread]",
        "corpus[stars]",
        "tokenizer",
        "tokens[public]",
        "tokens[bread]",
        "tokens[stars]",
        "public",
        "embed[public]",
        "embed[bread]",
        "embed[stars]",
        "expert[bread]",
        "expert[stars]",
    ])
}

fn depends_on_sea() -> BTreeSet<String> {
    stages(&DOMAINS).difference(&without_sea()).cloned().collect()
}

#[test]
fn a_param_of_one_domain_runs_that_domains_line_and_what_reads_it() {
    let environment = TestEnvironment::finished();
    let before = environment.artifacts("report/tiny");
    environment.edit("sea: { title: The sea }", "sea: { title: The sea, with: { corpus: { max_bytes: 30kB } } }");
    assert_eq!(environment.runs_again(), depends_on_sea());

    let after = environment.artifacts("report/tiny");
    let changed: BTreeSet<String> =
        before.iter().filter(|(stage, digest)| after[*stage] != **digest).map(|(stage, _)| stage.clone()).collect();
    assert!(changed.is_disjoint(&without_sea()), "{changed:?}");
    // Less text to train on: other tokens, another expert, other combined models, other results.
    let must = ["corpus[sea]", "tokens[sea]", "expert[sea]", "flexolmo", "soup", "btm", "eval-flexolmo", "report"];
    assert!(changed.is_superset(&names(must)), "{changed:?}");

    // And back: nothing is made again, since it is still there.
    environment.edit(", with: { corpus: { max_bytes: 30kB } }", "");
    assert_eq!(environment.runs_again(), BTreeSet::new());
    assert_eq!(environment.artifacts("report/tiny"), before);
}

#[test]
fn another_document_in_one_domain_does_the_same() {
    let environment = TestEnvironment::finished();
    let mut documents = corpus::documents("sea");
    // So many that some are trained on and some are held out.
    for (nth, bird) in ["albatross", "petrel", "gannet", "skua", "tern", "puffin"].iter().enumerate() {
        documents.push(format!("On day {nth} the {bird} followed the schooner from dusk to dawn. ").repeat(4));
    }
    environment.write("text/sea/all.jsonl", corpus::lines(&documents));
    assert_eq!(environment.runs_again(), depends_on_sea());
}

#[test]
fn a_param_of_one_evaluation_runs_it_and_the_report() {
    let environment = TestEnvironment::finished();
    environment.edit(
        "inputs: { model: soup, corpora: \"corpus[*]\" }",
        "inputs: { model: soup, corpora: \"corpus[*]\" }\n    with: { cloze: { items: 8 } }",
    );
    assert_eq!(environment.runs_again(), names(["eval-soup", "report"]));
}

#[test]
fn a_wave_stops_where_the_bytes_are_the_same() {
    let environment = TestEnvironment::finished();
    // A larger limit than there is text: another key, the same corpus.
    environment.edit("sea: { title: The sea }", "sea: { title: The sea, with: { corpus: { max_bytes: 2MB } } }");
    assert_eq!(environment.runs_again(), names(["corpus[sea]"]));
}

#[test]
fn how_a_recipe_is_written_changes_nothing() {
    let environment = TestEnvironment::finished();
    for (old, new) in [
        // Numbers.
        ("tokens: 20K", "tokens: 2e4"),
        ("tokens: 8K,", "tokens: 8_000,"),
        ("max_bytes: 1MB", "max_bytes: 1000kB"),
        ("peak: 3e-3", "peak: 0.003"),
        ("vocab_size: 384", "vocab_size: 3.84e2"),
        // Quotes, comments, white space.
        ("model: tiny,", "model: 'tiny',"),
        ("kind: curate", "kind:   \"curate\"   # reads text"),
        ("name: tiny\n", "name: \"tiny\"\n\n# A remark.\n\n"),
        // The order of keys, block style for flow style.
        ("with: { documents: 16, max_tokens: 64 }", "with:\n      max_tokens: 64\n      documents: 16"),
        (
            "    kind: merge\n    inputs: { public: public, public_embedding: \"embed[public]\", experts: \"expert[*]\" }\n",
            "    inputs: { experts: \"expert[*]\", public_embedding: \"embed[public]\", public: public }\n    kind: merge\n",
        ),
        // A default that is written out; an anchor's content in full.
        ("with: { top_k: 2 }", "with: { top_k: 2, }"),
        (
            "    <<: *training\n",
            "    schedule: { floor: 0.1, warmup_steps: 5, peak: 3e-3, shape: cosine }\n    batch: { length: 64, sequences: 8, accumulate: 1 }\n",
        ),
    ] {
        environment.edit(old, new);
    }
    // Sections in another order.
    let text = environment.read("recipe.yaml");
    let (head, stages) = text.split_once("\nstages:\n").unwrap();
    let (intro, vars) = head.split_once("\nvars:\n").unwrap();
    environment.recipe(&format!("stages:\n{stages}\nvars:\n{vars}\n{intro}\n"));
    assert_eq!(environment.runs_again(), BTreeSet::new());
}

#[test]
fn where_and_how_it_runs_changes_nothing() {
    let environment = TestEnvironment::finished();
    environment.edit(
        "with: { model: tiny, tokens: 20K }",
        "with: { model: tiny, tokens: 20K, checkpoint_every: 3 }\n    resources: { cores: 1, memory: 1GiB, time: 1h }",
    );
    fs::rename(environment.path("text"), environment.path("moved")).unwrap();
    fs::create_dir(environment.path("recipes")).unwrap();
    fs::rename(environment.path("recipe.yaml"), environment.path("recipes/other.yaml")).unwrap();
    let ended = environment
        .flow(&["run", "recipes/other.yaml", "--json", "--threads", "1", "--set", "data=../moved"])
        .succeeded();
    assert_eq!(ended.stages("stage-started"), BTreeSet::new());
}

#[test]
fn a_new_domain_leaves_what_the_others_have() {
    let environment = TestEnvironment::finished();
    let before = environment.artifacts("report/tiny");
    corpus::write("rail", &environment.path("text"));
    environment.edit("  stars: { title: Stars }\n", "  stars: { title: Stars }\n  rail: { title: Rail }\n");

    let with_rail = stages(&["bread", "sea", "stars", "rail"]);
    let of_the_others: BTreeSet<String> =
        without_sea().into_iter().chain(names(["corpus[sea]", "tokens[sea]", "embed[sea]", "expert[sea]"])).collect();
    assert_eq!(environment.runs_again(), with_rail.difference(&of_the_others).cloned().collect());
    let after = environment.artifacts("report/tiny");
    for stage in &of_the_others {
        assert_eq!(before[stage], after[stage], "{stage}");
    }
    assert_ne!(before["flexolmo"], after["flexolmo"], "the merged model has an expert more");
}

#[test]
fn a_domain_that_leaves_costs_no_training() {
    let environment = TestEnvironment::finished();
    environment.edit("  sea: { title: The sea }\n", "");
    let started = environment.runs_again();
    let kept = without_sea().into_iter().collect::<BTreeSet<_>>();
    assert!(started.is_disjoint(&kept), "{started:?}");
    let left: BTreeSet<String> = stages(&["bread", "stars"]).difference(&kept).cloned().collect();
    assert_eq!(started, left);
}

#[test]
fn a_title_trains_nothing() {
    let environment = TestEnvironment::finished();
    environment.edit("title: Stars", "title: The stars above");
    let started = environment.runs_again();
    assert_eq!(started, names(["report"]));
    assert!(
        environment
            .read("report/tiny/report.md")
            .contains("| Model | Public | Bread and cakes | The sea | The stars above |")
    );
}

#[test]
fn a_file_with_the_same_content_is_the_same_file() {
    let environment = TestEnvironment::finished();
    let later = SystemTime::now() + Duration::from_mins(1);
    // Touched.
    let touched = environment.path("text/sea/all.jsonl");
    fs::File::options().append(true).open(&touched).unwrap().set_modified(later).unwrap();
    // Written again, as another file.
    let rewritten = environment.path("text/stars/all.jsonl.zst");
    let content = fs::read(&rewritten).unwrap();
    fs::remove_file(&rewritten).unwrap();
    fs::write(&rewritten, content).unwrap();
    // And what is no source at all.
    environment.write("text/sea/notes.bak", "not read");
    assert_eq!(environment.runs_again(), BTreeSet::new());
}

#[test]
fn the_memo_of_digests_notices_a_change_of_the_same_length() {
    let environment = TestEnvironment::finished();
    // One run here, so that this machine's memo knows the files.
    assert_eq!(environment.runs_again(), BTreeSet::new());
    let file = "text/bread/000.txt";
    let old = environment.read(file);
    let new = if old.starts_with('f') { old.replacen('f', "g", 1) } else { format!("f{}", &old[1..]) };
    assert_eq!(old.len(), new.len());
    environment.write(file, new);
    assert_eq!(environment.planned("corpus[bread]", &[])["verdict"]["verdict"], "run");
}

#[test]
fn only_what_is_asked_for_runs() {
    let environment = TestEnvironment::fresh();
    let ended = environment.run(&["tokens"]).succeeded();
    let members = ["public", "bread", "sea", "stars"];
    let wanted = members.iter().flat_map(|member| ["corpus", "tokens"].map(|stage| format!("{stage}[{member}]")));
    assert_eq!(ended.stages("stage-finished"), wanted.chain(["tokenizer".to_owned()]).collect());
    assert!(!environment.path("report").exists(), "no report stage was asked for");
}
