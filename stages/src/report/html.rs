//! `report.html`: one file that needs nothing else, for a screen of any width and either theme, with no script at all.

use std::fmt::Write;

use super::{
    content::Content,
    escape::html as escaped,
    headline::Verdict,
    json,
    lineage::{Lineage, StageLine, duration, short, size},
    sheet::SHEET,
    table::{Cell, Mark, Raw, Table, Tone},
};

pub(super) fn render(content: &Content, lineage: &Lineage) -> String {
    let mut out = String::new();
    let title = escaped(&lineage.recipe);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}: report</title>\n<style>\n{SHEET}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title}</h1>\n<p>{}</p>\n<p>{}</p>\n</header>\n",
        escaped(&lineage.summary()),
        escaped(&lineage.numerics_sentence())
    );
    let sections = sections(content);
    out.push_str("<nav aria-label=\"Sections\"><ul>\n");
    for (id, title) in &sections {
        let _ = writeln!(out, "<li><a href=\"#{id}\">{title}</a></li>");
    }
    out.push_str("</ul></nav>\n<main>\n");

    if !content.headlines.is_empty() {
        open(&mut out, "findings", "Findings");
        out.push_str("<ul class=\"findings\">\n");
        for headline in &content.headlines {
            let class = match headline.verdict {
                Verdict::Holds => "holds",
                Verdict::Undecided => "undecided",
                Verdict::Fails => "fails",
            };
            let _ = writeln!(
                out,
                "<li><span class=\"verdict {class}\">{}</span><span><strong>{}.</strong> {}</span></li>",
                headline.verdict.word(),
                escaped(&headline.claim),
                escaped(&headline.text)
            );
        }
        out.push_str("</ul>\n</section>\n");
    }
    for section in &content.metrics {
        open(&mut out, section.metric.id(), section.metric.title());
        table(&mut out, &section.main);
        if let Some(opt_out) = &section.opt_out {
            table(&mut out, opt_out);
        }
        let _ = writeln!(out, "<details>\n<summary>{}</summary>", escaped(&section.intervals.caption));
        table(&mut out, &section.intervals);
        out.push_str("</details>\n</section>\n");
    }
    if content.training.is_some() || !content.figures.is_empty() {
        open(&mut out, "training", "Training");
        for figure in &content.figures {
            let caption = escaped(&figure.caption);
            let _ = writeln!(
                out,
                "<figure>\n<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n{}</div>\n<figcaption>{caption}</figcaption>\n</figure>",
                figure.svg
            );
        }
        content.training.iter().for_each(|training| table(&mut out, training));
        out.push_str("</section>\n");
    }
    if let Some(corpora) = &content.corpora {
        open(&mut out, "corpora", "Corpora");
        table(&mut out, corpora);
        out.push_str("</section>\n");
    }
    open(&mut out, "models", "Models");
    table(&mut out, &content.models);
    out.push_str("</section>\n");
    provenance(&mut out, lineage);
    out.push_str("</main>\n</body>\n</html>\n");
    out
}

fn sections(content: &Content) -> Vec<(&'static str, &'static str)> {
    let mut sections = Vec::new();
    if !content.headlines.is_empty() {
        sections.push(("findings", "Findings"));
    }
    sections.extend(content.metrics.iter().map(|section| (section.metric.id(), section.metric.title())));
    if content.training.is_some() || !content.figures.is_empty() {
        sections.push(("training", "Training"));
    }
    if content.corpora.is_some() {
        sections.push(("corpora", "Corpora"));
    }
    sections.extend([("models", "Models"), ("provenance", "Provenance")]);
    sections
}

fn open(out: &mut String, id: &str, title: &str) {
    let _ = writeln!(out, "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>");
}

fn table(out: &mut String, table: &Table) {
    let caption = escaped(&table.caption);
    let _ = writeln!(
        out,
        "<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n<table>\n<caption>{caption}</caption>"
    );
    let text: Vec<bool> = (0..table.columns.len())
        .map(|at| table.rows().any(|(_, row)| matches!(row.cells.get(at), Some(Cell { raw: Raw::Text(_), .. }))))
        .collect();
    let _ = write!(out, "<thead><tr><th scope=\"col\">{}</th>", escaped(&table.corner));
    for (column, is_text) in table.columns.iter().zip(&text) {
        let class = if *is_text { " class=\"text\"" } else { "" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escaped(&column.title));
    }
    out.push_str("</tr></thead>\n");
    for group in &table.groups {
        out.push_str("<tbody>\n");
        if let Some(title) = &group.title {
            let _ = writeln!(
                out,
                "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{}\">{}</th></tr>",
                table.columns.len() + 1,
                escaped(title)
            );
        }
        for row in &group.rows {
            let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escaped(&row.title));
            for (cell, is_text) in row.cells.iter().zip(&text) {
                data(out, cell, *is_text);
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n");
    }
    let _ = writeln!(out, "</table>\n</div>\n<p class=\"note\">{}</p>", escaped(&table.note));
}

fn data(out: &mut String, cell: &Cell, is_text: bool) {
    let mut classes = Vec::new();
    if is_text {
        classes.push("text");
    }
    match cell.tone {
        Tone::None => {}
        Tone::Better => classes.push("better"),
        Tone::Worse => classes.push("worse"),
    }
    if cell.is_own {
        classes.push("own");
    }
    let class = if classes.is_empty() { String::new() } else { format!(" class=\"{}\"", classes.join(" ")) };
    // The star hangs, so that the digits of a column stand below each other.
    let (digits, star) = match (&cell.raw, cell.text.strip_suffix('*')) {
        (Raw::Interval(_), Some(digits)) => (digits, "<span class=\"star\">*</span>"),
        _ => (cell.text.as_str(), ""),
    };
    let text = escaped(digits) + star;
    let _ = match (cell.mark, cell.is_own) {
        (Mark::Best, _) | (_, true) => write!(out, "<td{class}><strong>{text}</strong></td>"),
        (Mark::Second, _) => write!(out, "<td{class}><u>{text}</u></td>"),
        (Mark::None, false) => write!(out, "<td{class}>{text}</td>"),
    };
}

fn provenance(out: &mut String, lineage: &Lineage) {
    open(out, "provenance", "Provenance");
    out.push_str(
        "<p>Every artifact is known by the BLAKE3 digest of its files, every stage by the key of what it was made from. All \
         of this is in <code>ro-crate-metadata.json</code>, which makes this folder an RO-Crate 1.1.</p>\n",
    );
    let mut accepted = lineage.accepted().peekable();
    if accepted.peek().is_some() {
        out.push_str("<div class=\"accepted\"><p>Accepted by a person in place of a new run:</p>\n<ul>\n");
        for (stage, accepted) in accepted {
            let reason = escaped(&accepted.reason);
            let _ = write!(out, "<li><strong>{}</strong>: {reason}", escaped(&stage.name));
            if !accepted.changes.is_empty() {
                out.push_str("<ul>");
                for change in &accepted.changes {
                    let _ = write!(out, "<li>{}</li>", escaped(change));
                }
                out.push_str("</ul>");
            }
            out.push_str("</li>\n");
        }
        out.push_str("</ul></div>\n");
    }
    if !lineage.svg.is_empty() {
        let _ = writeln!(
            out,
            "<figure>\n<div class=\"scroll\" role=\"region\" aria-label=\"The graph of stages\" tabindex=\"0\">\n{}</div>\n<figcaption>The graph of stages.</figcaption>\n</figure>",
            lineage.svg
        );
    }
    out.push_str(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Stages\" tabindex=\"0\">\n<table>\n<caption>Stages</caption>\n<thead><tr>\
         <th scope=\"col\">Stage</th><th scope=\"col\" class=\"text\">Kind</th><th scope=\"col\" class=\"text\">Key</th>\
         <th scope=\"col\" class=\"text\">Artifact</th><th scope=\"col\">Size</th><th scope=\"col\">Took</th>\
         <th scope=\"col\" class=\"text\">Cached</th></tr></thead>\n<tbody>\n",
    );
    for stage in &lineage.stages {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"text\">{} {}</td><td class=\"text\">{}</td><td class=\"text\">{}</td><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>",
            escaped(&stage.name),
            escaped(&stage.kind),
            stage.kind_version,
            digest(&stage.key),
            digest(&stage.artifact),
            size(stage.bytes),
            duration(stage.seconds),
            if stage.cached { "yes" } else { "" }
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    sources(out, lineage);
    out.push_str("<details>\n<summary>Each stage in full</summary>\n");
    for stage in &lineage.stages {
        in_full(out, stage, lineage);
    }
    let _ = writeln!(
        out,
        "</details>\n<details>\n<summary>The recipe</summary>\n<pre><code>{}</code></pre>\n</details>\n</section>",
        escaped(&lineage.recipe_text)
    );
}

fn sources(out: &mut String, lineage: &Lineage) {
    let sources = lineage.sources();
    if sources.is_empty() {
        return;
    }
    out.push_str(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Sources\" tabindex=\"0\">\n<table>\n<caption>Sources</caption>\n<thead><tr>\
         <th scope=\"col\">Source</th><th scope=\"col\" class=\"text\">Digest</th><th scope=\"col\" class=\"text\">Read by</th>\
         </tr></thead>\n<tbody>\n",
    );
    for (source, stages) in sources {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"text\">{}</td><td class=\"text\">{}</td></tr>",
            escaped(&source.place),
            digest(&source.digest),
            escaped(&stages.join(", "))
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

fn digest(digest: &str) -> String {
    format!("<code title=\"{}\">{}</code>", escaped(digest), escaped(&short(digest)))
}

fn in_full(out: &mut String, stage: &StageLine, lineage: &Lineage) {
    let _ = writeln!(out, "<details class=\"stage\">\n<summary>{}</summary>\n<dl>", escaped(&stage.name));
    let _ = writeln!(out, "<dt>key</dt><dd><code>{}</code></dd>", escaped(&stage.key));
    let _ = writeln!(out, "<dt>artifact</dt><dd><code>{}</code></dd>", escaped(&stage.artifact));
    for (role, digest) in &stage.inputs {
        let maker = lineage.maker(digest).map_or_else(String::new, |maker| format!(" made by {}", maker.name));
        let _ = writeln!(
            out,
            "<dt>input {}</dt><dd><code>{}</code>{}</dd>",
            escaped(role),
            escaped(digest),
            escaped(&maker)
        );
    }
    for source in &stage.sources {
        let (place, digest) = (escaped(&source.place), escaped(&source.digest));
        let _ = writeln!(out, "<dt>source {place}</dt><dd><code>{digest}</code></dd>");
    }
    if let Some(started) = &stage.started {
        let host = stage.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
        let _ = writeln!(out, "<dt>made</dt><dd>{}{}</dd>", escaped(started), escaped(&host));
    }
    let _ = writeln!(out, "</dl>\n<pre><code>{}</code></pre>\n</details>", escaped(&json::text(&stage.params)));
}
