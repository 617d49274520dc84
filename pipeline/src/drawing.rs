//! The graph of stages as text: DOT for Graphviz, Mermaid for Markdown, SVG for a page. Data in, text out; the same
//! drawing gives the same bytes.
//!
//! Nodes and edges keep the order in which they are given, which should be the recipe's. An edge whose end is no node is
//! not drawn. Labels may hold any text: each rendering escapes it for its own language.

mod dot;
mod layout;
mod mermaid;
mod svg;

use std::collections::{BTreeMap, BTreeSet};

/// A graph to draw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawing {
    /// What is drawn, in the recipe's order.
    pub nodes: Vec<DrawNode>,
    /// From the id of the stage that makes something to the id of the one that takes it.
    pub edges: Vec<(String, String)>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawNode {
    /// What edges name; unique.
    pub id: String,
    /// What is read.
    pub label: String,
    /// The kind of stage, which gives the colour.
    pub kind: String,
    /// The stage that `foreach` made it from.
    pub group: Option<String>,
    /// Where it stands, if that is to be shown.
    pub state: Option<NodeState>,
}

/// Where a stage stands. The order decides what a group is shown as: what most wants to be seen comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeState {
    /// Its artifact was there before.
    Cached,
    /// Its artifact was made in this run.
    Finished,
    /// It would run, or its turn has not come.
    WillRun,
    /// Another run is doing it.
    Waiting,
    /// It was stopped.
    Stopped,
    /// A stage that it needs failed.
    Skipped,
    /// It is running.
    Running,
    /// It failed.
    Failed,
}

impl NodeState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Cached,
        Self::Finished,
        Self::WillRun,
        Self::Waiting,
        Self::Stopped,
        Self::Skipped,
        Self::Running,
        Self::Failed,
    ];

    /// The word beside the kind.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cached => "cached",
            Self::Finished => "finished",
            Self::WillRun => "will run",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Skipped => "skipped",
            Self::Running => "running",
            Self::Failed => "failed",
        }
    }

    /// Whether its artifact is not there yet: drawn with a broken line.
    fn is_open(self) -> bool {
        matches!(self, Self::WillRun | Self::Waiting | Self::Stopped | Self::Skipped)
    }
}

impl Drawing {
    /// The same graph with one node for all instances of a `foreach`, labelled with their number. A group stands where its
    /// first instance stood; edges between instances of one group are left out.
    pub fn collapsed(&self) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut states: BTreeMap<&str, Option<NodeState>> = BTreeMap::new();
        for node in &self.nodes {
            if let Some(group) = node.group.as_deref() {
                *counts.entry(group).or_default() += 1;
                let state = states.entry(group).or_default();
                *state = (*state).max(node.state);
            }
        }
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut nodes = Vec::new();
        for node in &self.nodes {
            let Some(group) = node.group.as_deref() else {
                names.insert(&node.id, node.id.clone());
                nodes.push(node.clone());
                continue;
            };
            // A stage that has the group's name without being of it keeps its own node.
            let id = format!("{group}[*]");
            names.insert(&node.id, id.clone());
            if seen.insert(group) {
                let label = match counts.get(group) {
                    Some(count) => format!("{group} ×{count}"),
                    None => group.to_owned(),
                };
                let state = states.get(group).copied().flatten();
                nodes.push(DrawNode { id, label, kind: node.kind.clone(), group: Some(group.to_owned()), state });
            }
        }
        let mut drawn = BTreeSet::new();
        let mut edges = Vec::new();
        for (from, to) in &self.edges {
            if let (Some(from), Some(to)) = (names.get(from.as_str()), names.get(to.as_str()))
                && from != to
                && drawn.insert((from, to))
            {
                edges.push((from.clone(), to.clone()));
            }
        }
        Self { nodes, edges }
    }

    /// [Graphviz](https://graphviz.org/doc/info/lang.html) text, instances of a `foreach` in a box of their own.
    pub fn dot(&self) -> String {
        dot::render(self)
    }

    /// [Mermaid](https://mermaid.js.org/syntax/flowchart.html) text. Its own limits are 500 edges and 50,000 characters:
    /// draw a large graph [`collapsed`](Self::collapsed).
    pub fn mermaid(&self) -> String {
        mermaid::render(self)
    }

    /// A picture that needs nothing from outside and follows the reader's light or dark theme. It may stand in an HTML page
    /// as it is: its style rules touch nothing else there.
    pub fn svg(&self) -> String {
        svg::render(self)
    }

    /// Edges as places in `nodes`, each once, without loops.
    fn links(&self) -> Vec<(usize, usize)> {
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (place, node) in self.nodes.iter().enumerate() {
            places.entry(&node.id).or_insert(place);
        }
        let mut seen = BTreeSet::new();
        let ends = self.edges.iter().filter_map(|(from, to)| {
            Some((*places.get(from.as_str())?, *places.get(to.as_str())?)).filter(|(from, to)| from != to)
        });
        ends.filter(|link| seen.insert(*link)).collect()
    }

    /// Kinds in the order in which they first stand in `nodes`, and each node's place among them.
    fn kinds(&self) -> (Vec<&str>, Vec<usize>) {
        let mut kinds: Vec<&str> = Vec::new();
        let mut places = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let place = kinds.iter().position(|kind| *kind == node.kind).unwrap_or_else(|| {
                kinds.push(&node.kind);
                kinds.len() - 1
            });
            places.push(place);
        }
        (kinds, places)
    }

    /// Runs of nodes that stand together in one group, in order: (group, places).
    fn groups(&self) -> Vec<(Option<&str>, Vec<usize>)> {
        let mut groups: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let group = node.group.as_deref();
            match groups.iter_mut().find(|(name, _)| group.is_some() && *name == group) {
                Some((_, places)) => places.push(place),
                None => groups.push((group, vec![place])),
            }
        }
        groups
    }
}

impl DrawNode {
    /// Whether it stands for all instances of a `foreach`.
    fn is_stack(&self) -> bool {
        self.group.as_ref().is_some_and(|group| self.id.strip_suffix("[*]") == Some(group))
    }

    /// The line under the label.
    fn caption(&self) -> String {
        match self.state {
            Some(state) => format!("{} · {}", self.kind, state.word()),
            None => self.kind.clone(),
        }
    }
}

/// How one kind is painted.
#[derive(Debug, Clone, Copy)]
struct Paint {
    fill: &'static str,
    line: &'static str,
    dark_fill: &'static str,
    dark_line: &'static str,
}

const fn paint(fill: &'static str, line: &'static str, dark_fill: &'static str, dark_line: &'static str) -> Paint {
    Paint { fill, line, dark_fill, dark_line }
}

/// Neighbours differ in hue and in lightness, so that they are told apart without colour sight too; the kind is written in
/// every node besides.
const PALETTE: [Paint; 12] = [
    paint("#e3f0fd", "#2f78bd", "#16304a", "#6fb1ee"),
    paint("#fdf0d9", "#b7791f", "#43310f", "#e6b354"),
    paint("#e4f5e6", "#3a8a47", "#17381d", "#75c983"),
    paint("#f9e4ee", "#b23a76", "#441a31", "#ec86b6"),
    paint("#eae6fb", "#6a51c4", "#2b2352", "#a995f2"),
    paint("#dff5f4", "#1f857f", "#0f3836", "#5fcac3"),
    paint("#fce6df", "#c2502a", "#48200f", "#f19372"),
    paint("#eef3d6", "#6f8519", "#2f3610", "#b4cb58"),
    paint("#e8ebf0", "#586579", "#2a303a", "#a3b0c4"),
    paint("#f6e6fb", "#8f3fae", "#3a1a47", "#cf8be9"),
    paint("#f3eae2", "#8a6d52", "#382b20", "#c9a888"),
    paint("#dfe4ff", "#3d56c5", "#1b2454", "#8fa3ff"),
];

fn paint_of(kind: usize) -> Paint {
    PALETTE[kind % PALETTE.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with the file of that name; with `FLOW_UPDATE_SAMPLES` set it writes the file instead.
    pub(super) fn golden(name: &str, text: &str) {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/drawing").join(name);
        if std::env::var_os("FLOW_UPDATE_SAMPLES").is_some() {
            fs_err::write(&file, text).unwrap();
        }
        assert_eq!(text, fs_err::read_to_string(&file).unwrap(), "{name}");
    }

    pub(super) fn node(id: &str, kind: &str, group: Option<&str>, state: Option<NodeState>) -> DrawNode {
        DrawNode { id: id.into(), label: id.into(), kind: kind.into(), group: group.map(Into::into), state }
    }

    /// Two domains through the whole life, small enough to read.
    pub(super) fn small() -> Drawing {
        let mut drawing = Drawing::default();
        for domain in ["public", "rust"] {
            let state = if domain == "rust" { NodeState::Failed } else { NodeState::Cached };
            drawing.nodes.push(node(&format!("corpus[{domain}]"), "curate", Some("corpus"), Some(state)));
        }
        drawing.nodes.push(node("tokenizer", "train-tokenizer", None, Some(NodeState::WillRun)));
        drawing.nodes.push(node("report", "report", None, None));
        for (from, to) in [
            ("corpus[public]", "tokenizer"),
            ("corpus[rust]", "tokenizer"),
            ("tokenizer", "report"),
            ("corpus[rust]", "report"),
            ("corpus[rust]", "report"),
            ("nowhere", "report"),
        ] {
            drawing.edges.push((from.into(), to.into()));
        }
        drawing
    }

    /// Labels that try to leave their place in each of the three languages.
    pub(super) fn hostile() -> Drawing {
        let text = "\"]; <script>alert(1)</script> & `x` \\\" \n]]> --> end";
        let mut hostile = node(text, text, Some(text), Some(NodeState::Running));
        hostile.label = text.into();
        Drawing { nodes: vec![hostile, node("b", "b", None, None)], edges: vec![(text.into(), "b".into())] }
    }

    #[test]
    fn a_group_is_drawn_as_one_with_its_count_and_its_worst_state() {
        let drawing = small().collapsed();
        let nodes: Vec<_> = drawing.nodes.iter().map(|n| (n.id.as_str(), n.label.as_str(), n.state)).collect();
        assert_eq!(
            nodes,
            [
                ("corpus[*]", "corpus ×2", Some(NodeState::Failed)),
                ("tokenizer", "tokenizer", Some(NodeState::WillRun)),
                ("report", "report", None),
            ]
        );
        let edges: Vec<_> = drawing.edges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(edges, [("corpus[*]", "tokenizer"), ("tokenizer", "report"), ("corpus[*]", "report")]);
        let twice = drawing.collapsed();
        assert_eq!(twice.nodes.len(), 3);
    }

    #[test]
    fn links_are_unique_and_their_ends_are_nodes() {
        assert_eq!(small().links(), [(0, 2), (1, 2), (2, 3), (1, 3)]);
    }
}
