//! Graphs of any size, as a recipe for flow and as a build file for ninja.

use std::fmt::Write;

/// The shape of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Each stage takes the one before it.
    Chain,
    /// All stages are free but the last, which takes them all.
    Wide,
    /// Ten layers; each stage takes two of the layer above, chosen by a fixed rule that looks random.
    Layered,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chain, Self::Wide, Self::Layered];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Wide => "wide",
            Self::Layered => "layered",
        }
    }

    /// The stages that `stage` of `count` takes.
    fn inputs(self, stage: usize, count: usize) -> Vec<usize> {
        match self {
            Self::Chain => stage.checked_sub(1).into_iter().collect(),
            Self::Wide if stage + 1 == count => (0..stage).collect(),
            Self::Wide => Vec::new(),
            Self::Layered => {
                let width = count.div_ceil(10);
                let Some(above) = (stage / width).checked_sub(1) else { return Vec::new() };
                let pick = |salt: u64| above * width + (mix(stage as u64 * 2 + salt) % width as u64) as usize;
                let (a, b) = (pick(0), pick(1));
                if a == b { vec![a] } else { vec![a, b] }
            }
        }
    }
}

/// One round of `SplitMix64`.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A graph of so many stages, in which one stage may have been edited.
#[derive(Clone, Copy)]
pub struct Graph {
    /// Its shape.
    pub shape: Shape,
    /// Its stages.
    pub count: usize,
    /// The stage whose text is another than it was.
    pub edited: Option<usize>,
}

impl Graph {
    /// The recipe.
    pub fn recipe(&self) -> String {
        let mut text = String::from("flow: 1\nname: size\nstages:\n");
        for stage in 0..self.count {
            let word = if self.edited == Some(stage) { "edited" } else { "text" };
            // Writing to a string cannot fail.
            let _ = write!(text, "  s{stage}:\n    kind: line\n    with: {{ text: {word} {stage} }}\n");
            let inputs: Vec<String> = self.inputs(stage).iter().map(|input| format!("s{input}")).collect();
            if !inputs.is_empty() {
                let _ = writeln!(text, "    inputs: {{ parts: [{}] }}", inputs.join(", "));
            }
        }
        text
    }

    /// The build file: the same graph with files in the place of artifacts.
    pub fn ninja(&self) -> String {
        let mut text = String::from("rule line\n  command = : > $out\n");
        for stage in 0..self.count {
            let _ = write!(text, "build s{stage}: line");
            for input in self.inputs(stage) {
                let _ = write!(text, " s{input}");
            }
            text.push('\n');
        }
        text
    }

    /// Stages that depend on `stage`, and itself.
    pub fn reached_from(&self, stage: usize) -> usize {
        let mut reached = vec![false; self.count];
        for at in stage..self.count {
            reached[at] = at == stage || self.inputs(at).iter().any(|&input| reached[input]);
        }
        reached.into_iter().filter(|&one| one).count()
    }

    fn inputs(&self, stage: usize) -> Vec<usize> {
        self.shape.inputs(stage, self.count)
    }
}
