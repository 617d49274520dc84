//! All that is known of a stage, on a page.

use std::fmt::Write;

use console::Style;
use flow_cache::{ArtifactDigest, Record, StageKey};
use flow_pipeline::{
    event::state::{Phase, StageState},
    key::{self, KeyParts},
    names::StageId,
    plan::{Reason, Verdict, WrittenStage},
};
use serde::Serialize;

use super::{
    indented,
    numbers::{bytes, counted, duration},
    plan,
    table::{self, row},
    visible,
};

/// Where the result of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// On record, with all its bytes.
    Cached,
    /// On record, but bytes are gone.
    Evicted,
    /// Not on record.
    NotMade,
    /// Inputs are not made yet, so that there is no key.
    NoKey,
}

/// An input of a stage.
#[derive(Debug, Serialize)]
pub struct Input {
    /// The role, with its label.
    pub role: String,
    /// The stage that makes it.
    pub stage: StageId,
    /// Its artifact, where it is known.
    pub artifact: Option<ArtifactDigest>,
}

/// All that is known of a stage.
#[derive(Debug, Serialize)]
pub struct Known {
    /// The recipe's name.
    pub recipe: String,
    /// The run that was asked about, if it was one.
    pub run: Option<String>,
    /// How the stage stands in that run.
    pub ended: Option<StageState>,
    /// The stage as planned, or as the run had it.
    pub planned: WrittenStage,
    /// The parts of its key, as far as its inputs are known.
    pub parts: KeyParts,
    /// The key, if they are.
    pub key: Option<StageKey>,
    /// Its inputs.
    pub inputs: Vec<Input>,
    /// Where its result is.
    pub state: Kept,
    /// How it was made.
    pub record: Option<Record>,
}

/// Sources outside of flow that are listed; a corpus may have thousands of files.
const SOURCES: usize = 12;
/// How wide the words at the left are.
const LEFT: usize = 9;

/// The page for people.
pub fn text(known: &Known) -> String {
    let stage = &known.planned;
    let mut out = String::new();
    let place = known.run.as_ref().map_or_else(|| "now".to_owned(), |run| format!("in run {run}"));
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{} of {}, {place}", Style::new().bold().apply_to(&stage.stage), known.recipe);
    line(&mut out, "kind", &format!("{}, version {}", stage.kind, stage.kind_version));
    line(
        &mut out,
        "key",
        &known.key.map_or_else(|| "not known before its inputs are".to_owned(), |key| key.to_string()),
    );
    let state = match (known.state, &known.record) {
        (Kept::Cached, Some(record)) => {
            format!("cached: {} ({}, {})", record.artifact, bytes(record.bytes), counted(record.files as usize, "file"))
        }
        (Kept::Evicted, Some(record)) => format!("made before as {}, but bytes of it are gone", record.artifact),
        (Kept::NoKey, _) => "not made: it waits for its inputs".to_owned(),
        _ => "not made".to_owned(),
    };
    line(&mut out, "state", &state);
    if let Some(record) = &known.record {
        let as_stage =
            if record.stage == stage.stage.to_string() { String::new() } else { format!(" as {}", record.stage) };
        line(
            &mut out,
            "made",
            &format!(
                "{} in run {} on {}{as_stage}, in {}, by flow {}",
                record.started,
                record.run,
                record.host,
                duration(record.seconds),
                record.flow_version
            ),
        );
        if let Some(reason) = &record.accepted {
            line(&mut out, "accepted", reason);
        }
        if let Some(made) = &record.made_for {
            line(&mut out, "made for", &made.key.to_string());
            for change in key::changes(&made.parts, &record.parts) {
                line(&mut out, "", &change.to_string());
            }
        }
    }
    line(&mut out, "seed", &known.parts.seed.map_or_else(|| "not used".to_owned(), |seed| seed.to_string()));
    let numerics = known.parts.numerics.as_ref();
    line(
        &mut out,
        "numerics",
        &numerics.map_or_else(|| "not used".to_owned(), |n| format!("{}, {}", n.backend, n.dtype)),
    );

    let params = key::lines(&known.parts.params);
    block(&mut out, "params", params.iter().map(|(path, text)| vec![path.clone(), text.clone()]).collect());
    let inputs = known.inputs.iter().map(|input| {
        let artifact = input.artifact.map_or_else(|| "not made yet".to_owned(), |artifact| artifact.short());
        vec![input.role.clone(), artifact, input.stage.to_string()]
    });
    block(&mut out, "inputs", inputs.collect());
    let mut sources: Vec<Vec<String>> = known.parts.sources.iter().map(|source| vec![key::canonical(source)]).collect();
    if sources.len() > SOURCES {
        let more = sources.len() - SOURCES;
        sources.truncate(SOURCES);
        sources.push(row([&format!("and {more} more; --json has all")]));
    }
    block(&mut out, "sources", sources);
    reasons(&mut out, known);
    out
}

/// Why it would run, or ran in the run that was asked about.
fn reasons(out: &mut String, known: &Known) {
    let stage = &known.planned;
    let (word, reason) = match &stage.verdict {
        Verdict::Cached { .. } if known.run.is_some() => {
            let why = if stage.hollow { "on record, and nothing needed its bytes" } else { "in the cache" };
            return line(out, "not run", &format!("its result was {why}"));
        }
        Verdict::Cached { .. } => return line(out, "would run", "no: its result is in the cache"),
        Verdict::Blocked { error } => return line(out, "blocked", &error.message),
        Verdict::Run { reason, .. } => (if known.run.is_some() { "it ran" } else { "would run" }, reason),
    };
    // What was not reached did not run, whatever it was waiting for.
    let word = match known.ended.as_ref().map(|ended| (ended.phase, ended)) {
        Some((Phase::Skipped, ended)) => {
            let other = ended.blocked_by.as_deref().unwrap_or("another stage");
            line(out, "not run", &format!("it was not reached, because of {other}"));
            "reason"
        }
        Some((Phase::Pending | Phase::Waiting, _)) => {
            line(out, "not run", "it was not begun");
            "reason"
        }
        Some((Phase::Stopped, _)) => {
            line(out, "stopped", "before it had ended; what it had done is kept");
            word
        }
        Some((Phase::Failed, ended)) => {
            let error = ended.error.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
            line(out, "failed", error);
            word
        }
        _ => word,
    };
    match reason {
        // One line would cut them short.
        Reason::Changed { changes } => {
            block(out, word, changes.iter().map(|change| vec![change.to_string()]).collect());
        }
        other => line(out, word, &other.to_string()),
    }
    let chain =
        stage.because.iter().filter(|cause| cause.stage != stage.stage || matches!(reason, Reason::Upstream { .. }));
    let rows = chain.map(|cause| {
        let way: Vec<String> = cause.through.iter().map(ToString::to_string).collect();
        let way = if way.is_empty() { String::new() } else { format!(" → {}", way.join(" → ")) };
        let to = if cause.stage == stage.stage { String::new() } else { format!(" → {}", stage.stage) };
        vec![plan::cause_text(cause, stage), format!("{}{way}{to}", cause.stage)]
    });
    block(out, "since", rows.collect());
    let cost = plan::cost(stage);
    if !cost.is_empty() && known.run.is_none() {
        line(out, "cost", &cost);
    }
}

fn line(out: &mut String, word: &str, text: &str) {
    let text = visible(text);
    let text = indented(&text, LEFT + 1);
    let _ = writeln!(out, "{} {text}", Style::new().dim().apply_to(format!("{word:>LEFT$}")));
}

fn block(out: &mut String, word: &str, rows: Vec<Vec<String>>) {
    for (nth, text) in table::text(&rows, &[]).lines().enumerate() {
        line(out, if nth == 0 { word } else { "" }, text);
    }
}
