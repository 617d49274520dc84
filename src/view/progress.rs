//! How far a stage is, in as many columns as there are: the bar goes first, then figures from the last one on, and no line is
//! ever broken.

use flow_pipeline::event::state::{Phase, StageState};

use super::numbers::{duration, figure};

/// The widest bar.
const BAR: usize = 24;
/// A bar that is shorter says nothing.
const SHORTEST: usize = 6;
/// How much of a remark is enough.
const REMARK: usize = 24;
/// How much of a name is kept where there is hardly any room.
const NAME: usize = 8;

/// A line about something that goes on.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// What stands before the name, as wide as it is; the first thing after the bar that a narrow terminal lacks.
    pub verb: String,
    /// What it is of.
    pub name: String,
    /// How wide the names around it are.
    pub width: usize,
    /// How much of it is done, where that is known.
    pub share: Option<f64>,
    /// Figures, what a person looks for first at the front.
    pub facts: Vec<String>,
}

/// A line in pieces that take no more columns than there are.
#[derive(Debug, PartialEq, Eq)]
pub struct Fitted {
    /// The verb, or nothing.
    pub verb: String,
    /// The name.
    pub name: String,
    /// The full part of the bar and the rest, or nothing.
    pub bar: Option<(String, String)>,
    /// The figures.
    pub facts: String,
}

impl Line {
    /// The line in `columns` columns.
    pub fn fit(&self, columns: usize) -> Fitted {
        let wide = |text: &str| console::measure_text_width(text);
        let Self { verb, name, width, share, facts } = self;
        let padded = format!("{name}{}", " ".repeat(width.saturating_sub(wide(name))));
        let short = console::truncate_str(name, NAME, "…").into_owned();
        let head = |verb: &str, name: &str| wide(verb) + usize::from(!verb.is_empty()) + wide(name) + 1;
        // A lone remark may be cut; a figure that is cut is another one.
        let needed = |kept: usize| match wide(&facts[..kept].join(", ")) {
            needed if facts.len() == 1 => needed.min(REMARK),
            needed => needed,
        };
        // From the roomiest to the narrowest.
        let all = facts.len();
        let heads = [(verb.as_str(), &padded, all), (verb, name, all)].into_iter();
        let heads = heads.chain((1..=all).rev().map(|kept| ("", name, kept))).chain([("", &short, all.min(1))]);
        let fits = |(verb, name, kept): &(&str, &String, usize)| head(verb, name) + needed(*kept) <= columns;
        let (verb, name, kept) = heads.clone().find(fits).or(heads.last()).unwrap_or(("", name, 0));
        let room = columns.saturating_sub(head(verb, name));
        let tail = if room > 0 { "…" } else { "" };
        let facts = console::truncate_str(&facts[..kept].join(", "), room, tail).into_owned();
        let room = room.checked_sub(wide(&facts) + 1).filter(|left| *left >= SHORTEST);
        // Where a figure has no room, a bar has none.
        let bar = share.zip(room).filter(|_| kept == all).map(|(share, room)| bar(share, room.min(BAR)));
        Fitted { verb: verb.to_owned(), name: console::truncate_str(name, columns, "…").into_owned(), bar, facts }
    }
}

/// The full part of a bar of so many characters, and the rest.
pub fn bar(share: f64, width: usize) -> (String, String) {
    let full = (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    ("━".repeat(full), "─".repeat(width - full))
}

/// How much of a stage is done, where that is known.
pub fn share(stage: &StageState) -> Option<f64> {
    let (done, total, _) = stage.progress.as_ref()?;
    total.filter(|total| *total > 0).map(|total| *done as f64 / total as f64)
}

/// What is counted of a stage: `142/391 steps`.
pub fn count(stage: &StageState) -> Option<String> {
    let (done, total, unit) = stage.progress.as_ref()?;
    let total = total.map(|total| format!("/{total}")).unwrap_or_default();
    Some(format!("{done}{total} {unit}"))
}

/// What is to be said of a stage's time at the time `now`: how much is left, how long nothing was heard, when it goes on.
pub fn time(stage: &StageState, now: &str) -> Option<String> {
    if stage.phase != Phase::Running {
        return None;
    }
    if let Some(retry) = &stage.retry {
        let attempt = format!("attempt {} of {}", retry.attempt, retry.of);
        return Some(match retry.seconds_until(now).filter(|left| *left > 0.0) {
            Some(left) => format!("{attempt} in {}", duration(left)),
            None => attempt,
        });
    }
    if let Some(quiet) = stage.seconds_quiet(now) {
        return Some(format!("nothing new for {}", duration(quiet)));
    }
    stage.seconds_left(now).filter(|left| *left > 0.0).map(|left| format!("about {} left", duration(left)))
}

/// The figures of a stage that runs, at the time `now`, those first that a person looks for first.
pub fn facts(stage: &StageState, now: &str) -> Vec<String> {
    let loss = stage.metrics.as_ref().and_then(|metrics| metrics.get("loss")?.as_f64());
    let loss = loss.filter(|_| stage.progress.is_some()).map(|loss| format!("loss {}", figure(loss)));
    let mut facts: Vec<String> = [count(stage), time(stage, now), loss].into_iter().flatten().collect();
    if facts.is_empty() {
        facts.extend(stage.reason.as_ref().map(|reason| format!("({reason})")));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: usize) -> String {
        let facts = ["142/391 steps", "about 3.2 s left", "loss 3.364"].map(str::to_owned).to_vec();
        let line = Line { verb: "     Running".into(), name: "public".into(), width: 10, share: Some(0.5), facts };
        let Fitted { verb, name, bar, facts } = line.fit(columns);
        let bar = bar.map(|(full, rest)| full + &rest);
        let parts = [Some(verb).filter(|verb| !verb.is_empty()), Some(name), bar, Some(facts)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_bar_goes_before_any_figure_and_nothing_is_broken() {
        for (columns, want) in [
            (110, "     Running public     ━━━━━━━━━━━━──────────── 142/391 steps, about 3.2 s left, loss 3.364"),
            (80, "     Running public     ━━━━━━────── 142/391 steps, about 3.2 s left, loss 3.364"),
            (72, "     Running public     142/391 steps, about 3.2 s left, loss 3.364"),
            (64, "     Running public 142/391 steps, about 3.2 s left, loss 3.364"),
            (50, "public 142/391 steps, about 3.2 s left, loss 3.364"),
            (40, "public 142/391 steps, about 3.2 s left"),
            (30, "public 142/391 steps"),
            (14, "public 142/39…"),
            (5, "publ…"),
        ] {
            assert_eq!(shown(columns).trim_end(), want, "{columns}");
        }
        for columns in 1..200 {
            let shown = shown(columns);
            assert!(console::measure_text_width(shown.trim_end()) <= columns, "{columns}: {shown}");
        }
    }
}
