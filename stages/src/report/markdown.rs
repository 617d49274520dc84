//! `report.md`: plain Markdown that reads well on GitHub and in a terminal.

use std::fmt::Write;

use super::{
    content::Content,
    escape::{fence, markdown as escaped},
    json,
    lineage::{Lineage, duration, short, size},
    table::{Cell, Mark, Raw, Table},
};

pub(super) fn render(content: &Content, lineage: &Lineage) -> String {
    let mut out = format!("# {}\n\n{}\n\n", escaped(&lineage.recipe), escaped(&lineage.summary()));
    let _ = writeln!(out, "{}\n", escaped(&lineage.numerics_sentence()));
    if !content.headlines.is_empty() {
        out.push_str("## Findings\n\n");
        for headline in &content.headlines {
            let (claim, text) = (escaped(&headline.claim), escaped(&headline.text));
            let _ = writeln!(out, "- **{}.** *{claim}:* {text}", headline.verdict.word());
        }
        out.push('\n');
    }
    for section in &content.metrics {
        let _ = writeln!(out, "## {}\n", section.metric.title());
        table(&mut out, &section.main);
        if let Some(opt_out) = &section.opt_out {
            table(&mut out, opt_out);
        }
        folded(&mut out, &section.intervals.caption, |out| table(out, &section.intervals));
    }
    if content.training.is_some() || !content.figures.is_empty() {
        out.push_str("## Training\n\n");
        for figure in &content.figures {
            let caption = escaped(&figure.caption);
            let _ = writeln!(out, "![{caption}](figures/{}.svg)\n\n{caption}\n", figure.id);
        }
        if let Some(training) = &content.training {
            table(&mut out, training);
        }
    }
    if let Some(corpora) = &content.corpora {
        out.push_str("## Corpora\n\n");
        table(&mut out, corpora);
    }
    out.push_str("## Models\n\n");
    table(&mut out, &content.models);
    provenance(&mut out, lineage);
    out
}

fn provenance(out: &mut String, lineage: &Lineage) {
    out.push_str("## Provenance\n\n");
    out.push_str(
        "Every artifact is known by the BLAKE3 digest of its files, every stage by the key of what it was made from. All \
         of this is in `ro-crate-metadata.json`, which makes this folder an RO-Crate 1.1.\n\n",
    );
    let mut accepted = lineage.accepted().peekable();
    if accepted.peek().is_some() {
        out.push_str("Accepted by a person in place of a new run:\n\n");
        for (stage, accepted) in accepted {
            let _ = writeln!(out, "- **{}**: {}", escaped(&stage.name), escaped(&accepted.reason));
            for change in &accepted.changes {
                let _ = writeln!(out, "  - {}", escaped(change));
            }
        }
        out.push('\n');
    }
    if !lineage.mermaid.is_empty() {
        code(out, "mermaid", &lineage.mermaid);
    }
    out.push_str("| Stage | Kind | Key | Artifact | Size | Took | |\n| :-- | :-- | :-- | :-- | --: | --: | :-- |\n");
    for stage in &lineage.stages {
        let _ = writeln!(
            out,
            "| {} | {} {} | {} | {} | {} | {} | {} |",
            escaped(&stage.name),
            escaped(&stage.kind),
            stage.kind_version,
            escaped(&short(&stage.key)),
            escaped(&short(&stage.artifact)),
            size(stage.bytes),
            duration(stage.seconds),
            if stage.cached { "cached" } else { "" }
        );
    }
    out.push('\n');
    let sources = lineage.sources();
    if !sources.is_empty() {
        out.push_str("| Source | Digest | Read by |\n| :-- | :-- | :-- |\n");
        for (source, stages) in sources {
            let (place, stages) = (escaped(&source.place), escaped(&stages.join(", ")));
            let _ = writeln!(out, "| {place} | {} | {stages} |", escaped(&source.digest));
        }
        out.push('\n');
    }
    folded(out, "Each stage in full", |out| {
        for stage in &lineage.stages {
            let _ = writeln!(out, "**{}**\n", escaped(&stage.name));
            let _ = writeln!(out, "- key {}", escaped(&stage.key));
            let _ = writeln!(out, "- artifact {}", escaped(&stage.artifact));
            for (role, digest) in &stage.inputs {
                let maker = lineage.maker(digest).map_or_else(String::new, |maker| format!(", made by {}", maker.name));
                let _ = writeln!(out, "- input {} {}{}", escaped(role), escaped(digest), escaped(&maker));
            }
            for source in &stage.sources {
                let _ = writeln!(out, "- source {} {}", escaped(&source.place), escaped(&source.digest));
            }
            if let Some(started) = &stage.started {
                let host = stage.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
                let _ = writeln!(out, "- made {}{}", escaped(started), escaped(&host));
            }
            out.push('\n');
            code(out, "json", &json::text(&stage.params));
        }
    });
    folded(out, "The recipe", |out| code(out, "json", &lineage.recipe_text));
}

/// A block that GitHub shows closed.
fn folded(out: &mut String, title: &str, inside: impl FnOnce(&mut String)) {
    let _ = writeln!(out, "<details>\n<summary>{}</summary>\n", super::escape::html(title));
    inside(out);
    out.push_str("</details>\n\n");
}

fn code(out: &mut String, language: &str, text: &str) {
    let fence = fence(text);
    let _ = writeln!(out, "{fence}{language}\n{}\n{fence}\n", text.trim_end());
}

/// Best in bold, second in `<ins>`, the one underline that GitHub lets through.
fn table(out: &mut String, table: &Table) {
    let _ = writeln!(out, "**{}**\n", escaped(&table.caption));
    let _ = write!(out, "| {} |", escaped(&table.corner));
    for column in &table.columns {
        let _ = write!(out, " {} |", escaped(&column.title));
    }
    out.push_str("\n| :-- |");
    for at in 0..table.columns.len() {
        let is_text = table.rows().any(|(_, row)| matches!(row.cells.get(at), Some(Cell { raw: Raw::Text(_), .. })));
        out.push_str(if is_text { " :-- |" } else { " --: |" });
    }
    out.push('\n');
    for group in &table.groups {
        if let Some(title) = &group.title {
            let _ = writeln!(out, "| *{}* |{}", escaped(title), " |".repeat(table.columns.len()));
        }
        for row in &group.rows {
            let _ = write!(out, "| {} |", escaped(&row.title));
            for cell in &row.cells {
                let text = escaped(&cell.text);
                let _ = match (cell.mark, cell.is_own) {
                    (Mark::Best, _) | (_, true) => write!(out, " **{text}** |"),
                    (Mark::Second, _) => write!(out, " <ins>{text}</ins> |"),
                    (Mark::None, false) => write!(out, " {text} |"),
                };
            }
            out.push('\n');
        }
    }
    let _ = writeln!(out, "\n{}\n", escaped(&table.note));
}
