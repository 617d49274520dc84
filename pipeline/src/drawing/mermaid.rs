//! Mermaid, which GitHub draws from a fenced block.

use std::fmt::Write;

use super::{Drawing, NodeState, paint_of};

pub(super) fn render(drawing: &Drawing) -> String {
    let (names, kinds) = drawing.kinds();
    let mut out = String::from("flowchart LR\n");
    for (box_number, (group, places)) in drawing.groups().into_iter().enumerate() {
        let framed = group.filter(|_| places.len() > 1);
        let indent = if framed.is_some() { "    " } else { "  " };
        if let Some(group) = framed {
            let _ = writeln!(out, "  subgraph g{box_number}[\"{}\"]", escaped(group));
        }
        for place in places {
            let node = &drawing.nodes[place];
            let (label, caption) = (escaped(&node.label), escaped(&node.caption()));
            let _ = writeln!(out, "{indent}n{place}[\"{label}<br/><small>{caption}</small>\"]:::k{}", kinds[place]);
        }
        if framed.is_some() {
            out.push_str("  end\n");
        }
    }
    for (from, to) in drawing.links() {
        let _ = writeln!(out, "  n{from} --> n{to}");
    }
    // The text is dark on a light ground in either theme: Mermaid has one palette for both.
    for kind in 0..names.len() {
        let paint = paint_of(kind);
        let _ = writeln!(out, "  classDef k{kind} fill:{},stroke:{},color:#1a1d21", paint.fill, paint.line);
    }
    for (place, node) in drawing.nodes.iter().enumerate() {
        let style = match node.state {
            Some(NodeState::Failed) => "stroke:#c62828,stroke-width:3px",
            Some(NodeState::Running) => "stroke-width:3px",
            Some(state) if state.is_open() => "stroke-dasharray:4 3",
            _ => continue,
        };
        let _ = writeln!(out, "  style n{place} {style}");
    }
    out
}

/// Letters, digits and a few marks as they are, all else as Mermaid's `#number;`: nothing is left that could end the quotes,
/// open a Markdown string, be taken for HTML or close the fence around the block.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            letter if letter.is_control() => out.push(' '),
            letter if letter.is_alphanumeric() || " -_.,:/()[]×·+".contains(letter) => out.push(letter),
            letter => {
                let _ = write!(out, "#{};", u32::from(letter));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, hostile, small};

    #[test]
    fn mermaid_text() {
        golden("small.mmd", &small().mermaid());
    }

    #[test]
    fn a_label_stays_within_its_quotes() {
        golden("hostile.mmd", &hostile().mermaid());
    }
}
