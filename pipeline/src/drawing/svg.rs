//! SVG: the layout painted, in the reader's own theme.

use std::fmt::Write;

use super::{DrawNode, Drawing, NodeState, layout::layout, paint_of};

const NODE_HEIGHT: f64 = 36.0;
/// Letters of a label that are shown; the whole stands in the node's title.
const LONGEST: usize = 36;

pub(super) fn render(drawing: &Drawing) -> String {
    let (names, kinds) = drawing.kinds();
    let widths: Vec<f64> = drawing.nodes.iter().map(node_width).collect();
    let layout = layout(&widths, NODE_HEIGHT, &drawing.links());
    let (width, height) = (layout.width, layout.height);

    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"flow-drawing\" role=\"img\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">"
    );
    let _ = writeln!(out, "<title>{} stages and what each takes from which</title>", drawing.nodes.len());
    style(&mut out, names.len());

    out.push_str("<g class=\"edges\">\n");
    for line in &layout.lines {
        let mut path = String::new();
        for [(x0, y0), (x1, y1)] in &line.bends {
            let bend = (x0 + x1) / 2.0;
            let _ = write!(path, "M{x0:.1} {y0:.1}C{bend:.1} {y0:.1} {bend:.1} {y1:.1} {x1:.1} {y1:.1}");
        }
        for (x0, x1, y) in &line.lanes {
            let _ = write!(path, "M{x0:.1} {y:.1}H{x1:.1}");
        }
        let mut heads = String::new();
        for (x, y) in &line.heads {
            let _ = write!(heads, "M{x:.1} {y:.1}l-6.5 -3.4v6.8z");
        }
        let title = escaped(&drawing.nodes[line.from].label);
        let _ = writeln!(
            out,
            "<g class=\"edge\"><title>from {title}</title><path class=\"line\" d=\"{path}\"/><path class=\"head\" d=\"{heads}\"/></g>"
        );
    }
    out.push_str("</g>\n");

    for (place, (node, at)) in drawing.nodes.iter().zip(&layout.boxes).enumerate() {
        let state = match node.state {
            Some(NodeState::Failed) => " failed",
            Some(NodeState::Running) => " running",
            Some(state) if state.is_open() => " open",
            _ => "",
        };
        let (x, y, width) = (at.x, at.y - NODE_HEIGHT / 2.0, at.width);
        let title = match &node.group {
            Some(group) if *group != node.label => format!("{}, {}, of {group}", node.label, node.caption()),
            _ => format!("{}, {}", node.label, node.caption()),
        };
        let _ = write!(out, "<g class=\"node k{}{state}\"><title>{}</title>", kinds[place], escaped(&title));
        // A stack of cards: the one behind first.
        let cards: &[f64] = if node.is_stack() { &[3.5, 0.0] } else { &[0.0] };
        for shift in cards {
            let (x, y) = (x + shift, y + shift);
            let _ = write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{NODE_HEIGHT:.1}\" rx=\"6\"/>"
            );
        }
        let _ = write!(
            out,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 10.0,
            y + 15.5,
            escaped(&cut(&node.label))
        );
        let _ = writeln!(
            out,
            "<text class=\"kind\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            x + 10.0,
            y + 28.5,
            escaped(&cut(&node.caption()))
        );
    }
    out.push_str("</svg>\n");
    out
}

fn style(out: &mut String, kinds: usize) {
    out.push_str(
        "<style>\n\
         .flow-drawing{font-family:system-ui,-apple-system,\"Segoe UI\",Helvetica,Arial,sans-serif}\n\
         .flow-drawing .line{fill:none;stroke:#8a919c;stroke-width:1.1}\n\
         .flow-drawing .head{fill:#8a919c}\n\
         .flow-drawing .edge:hover .line{stroke:#1f6feb;stroke-width:2.2}\n\
         .flow-drawing .edge:hover .head{fill:#1f6feb}\n\
         .flow-drawing rect{stroke-width:1.2}\n\
         .flow-drawing .open rect{stroke-dasharray:4 3}\n\
         .flow-drawing .running rect{stroke-width:2.6}\n\
         .flow-drawing .name{font-size:12.5px;fill:#1a1d21}\n\
         .flow-drawing .kind{font-size:10px;fill:#555d68}\n",
    );
    for kind in 0..kinds {
        let paint = paint_of(kind);
        let _ = writeln!(out, ".flow-drawing .k{kind} rect{{fill:{};stroke:{}}}", paint.fill, paint.line);
    }
    out.push_str(".flow-drawing .failed rect{stroke:#c62828;stroke-width:2.6}\n@media (prefers-color-scheme:dark){\n");
    out.push_str(
        ".flow-drawing .line{stroke:#6d7683}\n.flow-drawing .head{fill:#6d7683}\n\
         .flow-drawing .edge:hover .line{stroke:#79b8ff}\n.flow-drawing .edge:hover .head{fill:#79b8ff}\n\
         .flow-drawing .name{fill:#eceef1}\n.flow-drawing .kind{fill:#adb5c0}\n",
    );
    for kind in 0..kinds {
        let paint = paint_of(kind);
        let _ = writeln!(out, ".flow-drawing .k{kind} rect{{fill:{};stroke:{}}}", paint.dark_fill, paint.dark_line);
    }
    out.push_str(".flow-drawing .failed rect{stroke:#ff6b6b}\n}\n</style>\n");
}

fn node_width(node: &DrawNode) -> f64 {
    let label = text_width(&cut(&node.label)) * 12.5;
    let caption = text_width(&cut(&node.caption())) * 10.0;
    (label.max(caption) + 20.0).max(72.0).ceil()
}

/// The width of a text in units of its font size. No font can be asked, so this is a generous guess that holds for the
/// usual sans-serif ones.
fn text_width(text: &str) -> f64 {
    text.chars()
        .map(|letter| match letter {
            'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | 'I' => 0.32,
            'f' | 't' | 'r' | '(' | ')' | '[' | ']' | '-' | '/' | ' ' | '·' => 0.42,
            'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.95,
            'A'..='Z' => 0.74,
            letter if letter < '\u{1100}' => 0.62,
            _ => 1.05,
        })
        .sum()
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// Text for an element; what XML 1.0 does not allow becomes a space.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{golden, hostile, node, small};
    use super::*;

    #[test]
    fn svg_text() {
        golden("small.svg", &small().svg());
        golden("hostile.svg", &hostile().svg());
    }

    #[test]
    fn every_node_has_its_title_and_every_tag_is_closed() {
        for drawing in [small(), hostile(), Drawing::default(), small().collapsed()] {
            let svg = drawing.svg();
            assert_eq!(svg.matches("<g class=\"node").count(), drawing.nodes.len());
            for tag in ["svg", "g", "title", "text", "style"] {
                let opened = svg.matches(&format!("<{tag}>")).count() + svg.matches(&format!("<{tag} ")).count();
                assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
            }
            assert!(!svg.contains("<script"), "{svg}");
        }
    }

    #[test]
    fn a_long_label_is_cut_where_it_is_read_and_whole_in_the_title() {
        let long = "x".repeat(50);
        let svg = Drawing { nodes: vec![node(&long, "kind", None, None)], edges: vec![] }.svg();
        assert!(svg.contains(&format!("<title>{long}, kind</title>")));
        assert!(svg.contains(&format!(">{}…</text>", "x".repeat(35))));
    }

    #[test]
    fn hundreds_of_nodes_are_laid_out_and_the_same_each_time() {
        let mut drawing = Drawing::default();
        for step in 0..10 {
            for domain in 0..30 {
                drawing.nodes.push(node(
                    &format!("s{step}[{domain}]"),
                    &format!("kind-{step}"),
                    Some(&format!("s{step}")),
                    None,
                ));
                if step > 0 {
                    let from =
                        if step % 3 == 0 { format!("s{}[0]", step - 1) } else { format!("s{}[{domain}]", step - 1) };
                    drawing.edges.push((from, format!("s{step}[{domain}]")));
                    drawing.edges.push((format!("s0[{domain}]"), format!("s{step}[{domain}]")));
                }
            }
        }
        let started = std::time::Instant::now();
        let svg = drawing.svg();
        assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
        assert_eq!(svg, drawing.svg());
    }
}
