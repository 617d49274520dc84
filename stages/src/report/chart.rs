//! Loss curves as SVG: one picture for the public model, small multiples on common axes for the experts.

use std::fmt::Write;

use super::{
    content::Figure,
    escape,
    input::{PUBLIC, ReportInput, TrainingRun},
    training::{last_loss, smooth, title, window},
};

/// A curve has at most so many points: more cannot be seen.
const POINTS: usize = 300;

/// One panel: (tokens, loss) as recorded, and smoothed.
struct Panel<'a> {
    title: &'a str,
    recorded: Vec<(f64, f64)>,
    smoothed: Vec<(f64, f64)>,
    last: f64,
}

/// Sizes of a picture, in pixels.
struct Shape {
    columns: usize,
    width: f64,
    height: f64,
}

const LEFT: f64 = 44.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

pub(super) fn figures(input: &ReportInput) -> Vec<Figure> {
    let (public, others): (Vec<_>, Vec<_>) = input.training.iter().partition(|run| run.label == PUBLIC);
    let mut figures = Vec::new();
    for (id, what, runs, shape) in [
        ("loss-public", "the public model", public, Shape { columns: 1, width: 720.0, height: 280.0 }),
        ("loss-experts", "the experts, on common axes", others, Shape { columns: 3, width: 300.0, height: 200.0 }),
    ] {
        let panels: Vec<Panel> = runs.into_iter().filter_map(|run| panel(input, run)).collect();
        if !panels.is_empty() {
            let svg = draw(&format!("Training loss of {what}"), &panels, &shape);
            let caption = format!(
                "Training loss of {what}: cross-entropy in nats a token over tokens seen. Thin: as recorded, means of \
                 neighbours where there are more than {POINTS} records. Thick: exponential moving average over a fiftieth \
                 of the run."
            );
            figures.push(Figure { id: id.to_owned(), caption, svg });
        }
    }
    figures
}

fn panel<'a>(input: &'a ReportInput, run: &'a TrainingRun) -> Option<Panel<'a>> {
    let metrics: Vec<_> = run.metrics.iter().copied().filter(|m| m.loss.is_finite()).collect();
    if metrics.is_empty() {
        return None;
    }
    let tokens = metrics.iter().map(|m| m.tokens as f64);
    let recorded: Vec<(f64, f64)> = tokens.clone().zip(metrics.iter().map(|m| m.loss)).collect();
    let smoothed: Vec<(f64, f64)> = tokens.zip(smooth(metrics.iter().map(|m| m.loss), window(&metrics))).collect();
    Some(Panel {
        title: title(input, run),
        recorded: thin(&recorded),
        smoothed: thin(&smoothed),
        last: last_loss(&metrics),
    })
}

/// Means of neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let count = chunk.len() as f64;
        (chunk.iter().map(|p| p.0).sum::<f64>() / count, chunk.iter().map(|p| p.1).sum::<f64>() / count)
    };
    points.chunks(size).map(mean).collect()
}

/// A scale from data to pixels with round numbers to write beside it.
struct Scale {
    from: f64,
    to: f64,
    ticks: Vec<f64>,
    step: f64,
}

impl Scale {
    /// Covers `low..=high` in steps of 1, 2 or 5 times a power of ten, about `count` of them.
    fn new(low: f64, high: f64, count: f64) -> Self {
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let rough = span / count;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(rough);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let ticks = (0..=(last - first) as u32).map(|n| (first + f64::from(n)) * step).collect();
        Self { from: first * step, to: last * step, ticks, step }
    }

    fn part(&self, value: f64) -> f64 {
        (value - self.from) / (self.to - self.from)
    }

    /// As many decimals as the step has.
    fn plain(&self, value: f64) -> String {
        let decimals = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        super::metric::fixed(value, decimals)
    }

    /// With k, M, G or T.
    fn short(&self, value: f64) -> String {
        let (unit, name) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
            .into_iter()
            .find(|(unit, _)| self.to.abs() >= *unit)
            .unwrap_or((1.0, ""));
        if value == 0.0 {
            return "0".to_owned();
        }
        let decimals = (-(self.step / unit).log10().floor()).clamp(0.0, 9.0) as usize;
        format!("{}{name}", super::metric::fixed(value / unit, decimals))
    }
}

fn draw(name: &str, panels: &[Panel<'_>], shape: &Shape) -> String {
    let all = || panels.iter().flat_map(|panel| panel.recorded.iter().chain(&panel.smoothed));
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = all().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let end = all().map(|p| p.0).fold(0.0, f64::max);
    let y = Scale::new(low, high, 5.0);
    let x = Scale { to: end.max(1.0), ..Scale::new(0.0, end.max(1.0), 4.0) };

    let columns = shape.columns.min(panels.len()).max(1);
    let rows = panels.len().div_ceil(columns);
    let (width, height) = (shape.width * columns as f64, shape.height * rows as f64);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"flow-chart\" role=\"img\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n<title>{}</title>",
        escape::html(name)
    );
    out.push_str(STYLE);
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = ((at % columns) as f64 * shape.width, (at / columns) as f64 * shape.height);
        let _ = writeln!(out, "<g transform=\"translate({left:.0} {top:.0})\">");
        draw_panel(&mut out, panel, shape, &x, &y);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw_panel(out: &mut String, panel: &Panel<'_>, shape: &Shape, x: &Scale, y: &Scale) {
    let (right, bottom) = (shape.width - RIGHT, shape.height - BOTTOM);
    let px = |value: f64| LEFT + x.part(value) * (right - LEFT);
    let py = |value: f64| bottom - y.part(value) * (bottom - TOP);
    let heading = format!("{} · {} at the end", panel.title, super::metric::fixed(panel.last, 3));
    let _ = writeln!(out, "<text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>", escape::html(&heading));
    for &tick in &y.ticks {
        let at = py(tick);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right:.1}\"/><text class=\"tick y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            at + 3.5,
            y.plain(tick)
        );
    }
    for &tick in x.ticks.iter().filter(|tick| **tick <= x.to) {
        let _ = writeln!(
            out,
            "<path class=\"axis\" d=\"M{0:.1} {bottom:.1}v4\"/><text class=\"tick x\" x=\"{0:.1}\" y=\"{1:.1}\">{2}</text>",
            px(tick),
            bottom + 15.0,
            x.short(tick)
        );
    }
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {bottom:.1}H{right:.1}\"/>");
    let middle = f64::midpoint(LEFT, right);
    let _ = writeln!(out, "<text class=\"tick x\" x=\"{middle:.1}\" y=\"{:.1}\">tokens</text>", bottom + 30.0);
    for (class, points) in [("recorded", &panel.recorded), ("smoothed", &panel.smoothed)] {
        let mut path = String::new();
        for (at, (tokens, loss)) in points.iter().enumerate() {
            let _ = write!(path, "{}{:.1} {:.1}", if at == 0 { 'M' } else { 'L' }, px(*tokens), py(*loss));
        }
        let _ = writeln!(out, "<path class=\"{class}\" d=\"{path}\"/>");
    }
}

const STYLE: &str = "<style>\n\
    .flow-chart{font-family:system-ui,-apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif}\n\
    .flow-chart text{fill:#1a1d21}\n\
    .flow-chart .title{font-size:12.5px;font-weight:600}\n\
    .flow-chart .tick{font-size:10.5px;fill:#555d68}\n\
    .flow-chart .y{text-anchor:end}\n\
    .flow-chart .x{text-anchor:middle}\n\
    .flow-chart path{fill:none;stroke-linejoin:round}\n\
    .flow-chart .grid{stroke:#e1e4e9}\n\
    .flow-chart .axis{stroke:#8a919c}\n\
    .flow-chart .recorded{stroke:#9dc3e8;stroke-width:1}\n\
    .flow-chart .smoothed{stroke:#1c5f9e;stroke-width:2}\n\
    @media (prefers-color-scheme:dark){\n\
    .flow-chart text{fill:#eceef1}\n\
    .flow-chart .tick{fill:#adb5c0}\n\
    .flow-chart .grid{stroke:#343a43}\n\
    .flow-chart .axis{stroke:#6d7683}\n\
    .flow-chart .recorded{stroke:#2f5b85}\n\
    .flow-chart .smoothed{stroke:#79b8ff}\n\
    }\n</style>\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::input::StepMetrics;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        let scale = Scale::new(1.93, 5.48, 5.0);
        assert_eq!(scale.ticks, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(scale.plain(2.0), "2");
        let fine = Scale::new(1.02, 1.13, 5.0);
        assert_eq!(fine.ticks.iter().map(|t| fine.plain(*t)).collect::<Vec<_>>(), ["1.00", "1.05", "1.10", "1.15"]);
        let tokens = Scale::new(0.0, 1_310_720.0, 4.0);
        assert_eq!(tokens.ticks.iter().map(|t| tokens.short(*t)).collect::<Vec<_>>(), ["0", "0.5M", "1.0M", "1.5M"]);
        assert_eq!(Scale::new(2.0, 2.0, 5.0).ticks.len(), 2);
    }

    #[test]
    fn odd_runs_are_drawn_or_left_out() {
        let run = |losses: &[f64]| TrainingRun {
            label: PUBLIC.to_owned(),
            metrics: losses.iter().map(|loss| StepMetrics { loss: *loss, ..StepMetrics::default() }).collect(),
        };
        for (losses, drawn) in [(vec![], 0), (vec![f64::NAN], 0), (vec![2.0], 1), (vec![2.0, f64::INFINITY, -3.0], 1)] {
            let input = ReportInput { training: vec![run(&losses)], ..ReportInput::default() };
            let figures = figures(&input);
            assert_eq!(figures.len(), drawn, "{losses:?}");
            assert!(figures.iter().all(|figure| !figure.svg.contains("NaN") && !figure.svg.contains("inf ")));
        }
    }

    #[test]
    fn a_long_run_keeps_few_points_and_its_mean() {
        let points: Vec<(f64, f64)> = (0..1000).map(|n| (f64::from(n), f64::from(n % 4))).collect();
        let thin = thin(&points);
        assert_eq!(thin.len(), 250);
        assert!(thin.iter().all(|(_, y)| *y == 1.5));
    }
}
