//! DOT, the language of Graphviz.

use std::fmt::Write;

use super::{Drawing, NodeState, paint_of};

pub(super) fn render(drawing: &Drawing) -> String {
    let (_, kinds) = drawing.kinds();
    let mut out = String::from(
        "digraph flow {\n  rankdir=LR;\n  bgcolor=\"transparent\";\n  nodesep=0.2;\n  ranksep=0.7;\n  \
         node [shape=box, style=\"rounded,filled\", fontname=\"Helvetica\", fontsize=11, fontcolor=\"#1a1d21\", margin=\"0.14,0.07\"];\n  \
         edge [color=\"#8a919c\", arrowsize=0.6];\n",
    );
    for (box_number, (group, places)) in drawing.groups().into_iter().enumerate() {
        let framed = group.filter(|_| places.len() > 1);
        let indent = if framed.is_some() { "    " } else { "  " };
        if let Some(group) = framed {
            let _ = writeln!(
                out,
                "  subgraph cluster_{box_number} {{\n    label={}; color=\"#c4c9d1\"; fontcolor=\"#767d88\"; fontname=\"Helvetica\"; fontsize=10; style=rounded;",
                quoted(group)
            );
        }
        for place in places {
            let node = &drawing.nodes[place];
            let paint = paint_of(kinds[place]);
            let style = match node.state {
                Some(NodeState::Failed) => ", penwidth=2.5, color=\"#c62828\"",
                Some(NodeState::Running) => ", penwidth=2.5",
                Some(state) if state.is_open() => ", style=\"rounded,filled,dashed\"",
                _ => "",
            };
            // A later attribute of the same name wins, so a failed node is red.
            let _ = writeln!(
                out,
                "{indent}n{place} [label={}, fillcolor=\"{}\", color=\"{}\"{style}];",
                label(&node.label, &node.caption()),
                paint.fill,
                paint.line
            );
        }
        if framed.is_some() {
            out.push_str("  }\n");
        }
    }
    for (from, to) in drawing.links() {
        let _ = writeln!(out, "  n{from} -> n{to};");
    }
    out.push_str("}\n");
    out
}

fn label(first: &str, second: &str) -> String {
    format!("\"{}\\n{}\"", escaped(first), escaped(second))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Within double quotes DOT knows `\"` and its own escapes such as `\N`, so a backslash is doubled. An entity is read too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '&' => out.push_str("&amp;"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, hostile, small};

    #[test]
    fn dot_text() {
        golden("small.dot", &small().dot());
    }

    #[test]
    fn a_label_stays_within_its_quotes() {
        golden("hostile.dot", &hostile().dot());
    }
}
