//! Sentences that are computed from the numbers, and say so when a claim does not hold.

use std::fmt::Write;

use super::{
    compare,
    input::{BTM, FLEXOLMO, ModelGroup, ModelResult, PUBLIC, ReportInput, SOUP},
    metric::{Metric, fixed},
    results::{OptOut, domains, opt_outs},
};

/// A claim of the paper, held against the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headline {
    /// Whether the claim holds.
    pub verdict: Verdict,
    /// The claim, in a few words.
    pub claim: String,
    /// The numbers.
    pub text: String,
}

/// Whether a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does, and the difference is larger than its interval.
    Holds,
    /// The difference is within its interval.
    Undecided,
    /// The opposite is so.
    Fails,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Holds => "Holds",
            Self::Undecided => "Undecided",
            Self::Fails => "Does not hold",
        }
    }
}

pub(super) fn headlines(input: &ReportInput) -> Vec<Headline> {
    let mut out = Vec::new();
    for metric in Metric::ALL {
        if let Some(full) = input.model(FLEXOLMO) {
            for (label, name) in [(PUBLIC, "the public model"), (SOUP, "the model soup"), (BTM, "BTM")] {
                out.extend(input.model(label).and_then(|other| versus(input, metric, full, other, name)));
            }
            if let Some(best) = best_expert(input, metric) {
                out.extend(versus(input, metric, full, best, &format!("the best single expert, {}", best.title)));
            }
        }
        let opt_outs = opt_outs(input, metric);
        out.extend(own_domain(input, metric, &opt_outs));
        out.extend(other_domains(input, metric, &opt_outs));
    }
    out
}

fn best_expert(input: &ReportInput, metric: Metric) -> Option<&ModelResult> {
    let mut best: Option<(&ModelResult, f64)> = None;
    for model in input.group(ModelGroup::Individual).into_iter().filter(|model| model.label != PUBLIC) {
        if let Some(mean) = metric.mean(&model.evaluation)
            && best.is_none_or(|(_, value)| metric.is_better(mean.value, value))
        {
            best = Some((model, mean.value));
        }
    }
    best.map(|(model, _)| model)
}

/// The full model against another, on the mean and domain by domain.
fn versus(
    input: &ReportInput,
    metric: Metric,
    full: &ModelResult,
    other: &ModelResult,
    name: &str,
) -> Option<Headline> {
    let (ours, theirs) = (metric.mean(&full.evaluation)?, metric.mean(&other.evaluation)?);
    let all = domains(input, metric);
    let difference =
        compare::mean(all.iter().filter_map(|(domain, _)| compare::difference(full, other, domain, metric)))?;
    let is_better = metric.is_better(ours.value, theirs.value);
    let verdict = match (difference.is_clear(), is_better) {
        (false, _) => Verdict::Undecided,
        (true, true) => Verdict::Holds,
        (true, false) => Verdict::Fails,
    };
    let mut compared = 0;
    let mut won = 0;
    for (domain, _) in all {
        let value = |model: &ModelResult| model.evaluation.domains.get(domain).and_then(|result| metric.of(result));
        if let (Some(ours), Some(theirs)) = (value(full), value(other)) {
            compared += 1;
            won += u32::from(metric.is_better(ours.value, theirs.value));
        }
    }
    let (ours_shown, theirs_shown) = (metric.show(ours.value), metric.show(theirs.value));
    let interval = format!(
        "95% interval {} to {}",
        metric.show_difference(difference.low),
        metric.show_difference(difference.high)
    );
    let mut text = match metric {
        Metric::BitsPerByte => {
            let more = if is_better { "less" } else { "more" };
            let percent = fixed(100.0 * (difference.value / theirs.value).abs(), 1);
            format!("{ours_shown} bits per byte against {theirs_shown} on average over the domains: {percent}% {more}")
        }
        Metric::Cloze => {
            let more = if is_better { "more" } else { "less" };
            let points = fixed(100.0 * difference.value.abs(), 1);
            format!("{ours_shown}% right against {theirs_shown}% on average over the domains: {points} points {more}")
        }
    };
    let _ = write!(text, " (difference {}, {interval}). ", metric.show_difference(difference.value));
    let _ = match (won, compared) {
        (won, compared) if won == compared => write!(text, "FlexOlmo is better in each of the {compared} domains."),
        (0, compared) => write!(text, "FlexOlmo is better in none of the {compared} domains."),
        (won, compared) => write!(text, "FlexOlmo is better in {won} of the {compared} domains."),
    };
    match verdict {
        Verdict::Holds => {}
        Verdict::Undecided => text.push_str(" The interval holds 0: this run does not tell the two apart."),
        Verdict::Fails => {
            let _ = write!(text, " FlexOlmo loses to {name}.");
        }
    }
    Some(Headline { verdict, claim: format!("{}: FlexOlmo is better than {name}", metric.title()), text })
}

/// Does a domain suffer from being left out?
fn own_domain(input: &ReportInput, metric: Metric, opt_outs: &[OptOut<'_>]) -> Option<Headline> {
    let own: Vec<_> = opt_outs.iter().filter_map(|o| Some((input.title(o.left_out), o.own()?))).collect();
    if own.is_empty() {
        return None;
    }
    let worse = |value: f64| metric.is_better(0.0, value);
    let verdict = if own.iter().any(|(_, d)| d.is_clear() && !worse(d.value)) {
        Verdict::Fails
    } else if own.iter().all(|(_, d)| d.is_clear() && worse(d.value)) {
        Verdict::Holds
    } else {
        Verdict::Undecided
    };
    let each: Vec<String> = own.iter().map(|(name, d)| format!("{name} {}", metric.show_difference(d.value))).collect();
    let mean = own.iter().map(|(_, d)| d.value).sum::<f64>() / own.len() as f64;
    let mut text = format!(
        "On the domain that was left out: {} {} on average ({}).",
        metric.show_difference(mean),
        unit(metric),
        each.join(", ")
    );
    let unclear: Vec<&str> =
        own.iter().filter(|(_, d)| !(d.is_clear() && worse(d.value))).map(|(name, _)| *name).collect();
    if !unclear.is_empty() {
        let _ = write!(text, " Not clearly worse: {}.", unclear.join(", "));
    }
    Some(Headline { verdict, claim: format!("{}: leaving a domain out makes that domain worse", metric.title()), text })
}

/// And the others, do they stay as they were? They do where the mean of what they lose is below a tenth of what the domain
/// itself loses.
fn other_domains(input: &ReportInput, metric: Metric, opt_outs: &[OptOut<'_>]) -> Option<Headline> {
    let own: Vec<f64> = opt_outs.iter().filter_map(|o| Some(o.own()?.value)).collect();
    let others: Vec<_> = opt_outs
        .iter()
        .flat_map(|o| o.others().map(|(domain, d)| (input.title(domain), input.title(o.left_out), d.value)))
        .collect();
    let (domain, left_out, largest) = others.iter().max_by(|a, b| a.2.abs().total_cmp(&b.2.abs())).copied()?;
    if own.is_empty() {
        return None;
    }
    let mean = others.iter().map(|(_, _, value)| value.abs()).sum::<f64>() / others.len() as f64;
    let mean_own = own.iter().map(|value| value.abs()).sum::<f64>() / own.len() as f64;
    // Nothing was lost that the others could be held against: 0 of 0 is no tenth.
    let is_told = metric.show(mean_own) != metric.show(0.0);
    let verdict = if !is_told {
        Verdict::Undecided
    } else if mean <= mean_own / 10.0 {
        Verdict::Holds
    } else if mean <= mean_own / 2.0 {
        Verdict::Undecided
    } else {
        Verdict::Fails
    };
    let mut text = format!(
        "On the other domains: {} {} on average, up or down, against {} on the domain left out; at most {} ({domain} without \
         {left_out}). Holds up to a tenth, fails above a half.",
        metric.show(mean),
        unit(metric),
        metric.show(mean_own),
        metric.show_difference(largest),
    );
    if !is_told {
        text.push_str(" Here the domain left out shows no loss itself, so this run cannot tell.");
    }
    Some(Headline { verdict, claim: format!("{}: the other domains stay about as they were", metric.title()), text })
}

fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::BitsPerByte => "bits per byte",
        Metric::Cloze => "percentage points",
    }
}
