//! Where things stand in the picture: the layered layout of Sugiyama, Tagawa and Toda (1981), columns from left to right.
//!
//! ```text
//! edges ─ layers ─▶ column of each node ─ lanes ─▶ places where long edges pass ─ order ─▶ few crossings ─ rows ─▶ y
//! ```
//!
//! All edges that leave one node share one lane through the columns that they pass, so that what is needed by everybody
//! (a tokenizer) draws one line and not fifty. Nothing here depends on anything but the arguments.

/// Distance between nodes of a column.
const GAP: f64 = 12.0;
/// Height that a lane takes in a column.
const LANE: f64 = 6.0;
/// Distance between columns, where the edges bend.
const CHANNEL: f64 = 56.0;
/// Around everything.
pub(super) const MARGIN: f64 = 16.0;
const SWEEPS: usize = 16;

/// The picture.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    pub width: f64,
    pub height: f64,
    /// Of each node.
    pub boxes: Vec<Place>,
    /// Of each node that something leaves.
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Place {
    pub x: f64,
    /// Of the middle.
    pub y: f64,
    pub width: f64,
}

/// All that leaves one node.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub from: usize,
    /// Bends in the channels between columns, each from a point to a point further right.
    pub bends: Vec<[(f64, f64); 2]>,
    /// Straight pieces through columns: from x, to x, at y.
    pub lanes: Vec<(f64, f64, f64)>,
    /// Where the arrows' heads are.
    pub heads: Vec<(f64, f64)>,
}

/// Something that takes room in a column: a node, or the lane of one node's edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    column: usize,
    source: usize,
    is_lane: bool,
}

/// Places nodes of these widths and one height; `links` are pairs of nodes. Links that close a cycle are left out.
pub(super) fn layout(widths: &[f64], height: f64, links: &[(usize, usize)]) -> Layout {
    let (column_of, links) = layers(widths.len(), links);
    let mut net = Net::new(&column_of, &links);
    net.reduce_crossings();
    let y = net.rows(height);

    let columns = net.columns.len();
    let mut column_width = vec![0.0_f64; columns];
    for (node, &column) in column_of.iter().enumerate() {
        column_width[column] = column_width[column].max(widths[node]);
    }
    let mut left = vec![MARGIN; columns];
    for column in 1..columns {
        left[column] = left[column - 1] + column_width[column - 1] + CHANNEL;
    }
    let top = y.iter().zip(&net.slots).map(|(y, slot)| y - slot.height(height) / 2.0).fold(f64::INFINITY, f64::min);
    let y: Vec<f64> = y.iter().map(|y| round(y - top + MARGIN)).collect();
    let bottom = y.iter().zip(&net.slots).map(|(y, slot)| y + slot.height(height) / 2.0).fold(0.0, f64::max);

    let boxes: Vec<Place> = column_of
        .iter()
        .enumerate()
        .map(|(node, &column)| Place { x: left[column], y: y[node], width: column_width[column] })
        .collect();
    let right = |slot: usize| left[net.slots[slot].column] + column_width[net.slots[slot].column];
    let mut lines: Vec<Line> = Vec::new();
    for source in 0..widths.len() {
        let mut line = Line { from: source, bends: Vec::new(), lanes: Vec::new(), heads: Vec::new() };
        let mut at = Some(source);
        while let Some(slot) = at {
            if net.slots[slot].is_lane {
                line.lanes.push((left[net.slots[slot].column], right(slot), y[slot]));
            }
            at = None;
            for &next in &net.after[slot] {
                let end = (left[net.slots[next].column], y[next]);
                line.bends.push([(right(slot), y[slot]), end]);
                if net.slots[next].is_lane {
                    at = Some(next);
                } else {
                    line.heads.push(end);
                }
            }
        }
        if !line.bends.is_empty() {
            lines.push(line);
        }
    }
    let width = match (left.last(), column_width.last()) {
        (Some(left), Some(width)) => left + width + MARGIN,
        _ => 2.0 * MARGIN,
    };
    Layout { width, height: bottom + MARGIN, boxes, lines }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The column of each node, the longest way from a node without inputs; such a node itself moves right until it stands
/// before the first that takes from it. Also the links that were used.
fn layers(nodes: usize, links: &[(usize, usize)]) -> (Vec<usize>, Vec<(usize, usize)>) {
    // In a graph with a cycle, those links that go down the list have none.
    let (mut columns, links) = if let Some(columns) = longest(nodes, links) {
        (columns, links.to_vec())
    } else {
        let down: Vec<_> = links.iter().copied().filter(|(from, to)| from < to).collect();
        (longest(nodes, &down).unwrap_or_else(|| vec![0; nodes]), down)
    };
    for node in 0..nodes {
        if links.iter().all(|(_, to)| *to != node)
            && let Some(first) = links.iter().filter(|(from, _)| *from == node).map(|(_, to)| columns[*to]).min()
        {
            columns[node] = first - 1;
        }
    }
    (columns, links)
}

fn longest(nodes: usize, links: &[(usize, usize)]) -> Option<Vec<usize>> {
    let mut columns = vec![0; nodes];
    for _ in 0..=nodes {
        let mut moved = false;
        for &(from, to) in links {
            if columns[to] <= columns[from] {
                columns[to] = columns[from] + 1;
                moved = true;
            }
        }
        if !moved {
            return Some(columns);
        }
    }
    None
}

/// Nodes and lanes in their columns; links only between neighbouring columns.
struct Net {
    slots: Vec<Slot>,
    columns: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl Slot {
    fn height(self, node: f64) -> f64 {
        if self.is_lane { LANE } else { node }
    }
}

impl Net {
    /// Slots `0..column_of.len()` are the nodes.
    fn new(column_of: &[usize], links: &[(usize, usize)]) -> Self {
        let mut slots: Vec<Slot> =
            column_of.iter().enumerate().map(|(source, &column)| Slot { column, source, is_lane: false }).collect();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for source in 0..column_of.len() {
            let targets: Vec<usize> = links.iter().filter(|(from, _)| *from == source).map(|(_, to)| *to).collect();
            let last = targets.iter().map(|to| column_of[*to]).max().unwrap_or(0);
            let mut at = source;
            for column in column_of[source] + 1..=last {
                pairs.extend(targets.iter().filter(|to| column_of[**to] == column).map(|to| (at, *to)));
                if column < last {
                    slots.push(Slot { column, source, is_lane: true });
                    pairs.push((at, slots.len() - 1));
                    at = slots.len() - 1;
                }
            }
        }
        let mut columns = vec![Vec::new(); slots.iter().map(|slot| slot.column + 1).max().unwrap_or(0)];
        for (at, slot) in slots.iter().enumerate() {
            columns[slot.column].push(at);
        }
        let (mut before, mut after) = (vec![Vec::new(); slots.len()], vec![Vec::new(); slots.len()]);
        for (from, to) in pairs {
            after[from].push(to);
            before[to].push(from);
        }
        Self { slots, columns, before, after }
    }

    fn positions(&self) -> Vec<usize> {
        let mut positions = vec![0; self.slots.len()];
        for column in &self.columns {
            for (position, &slot) in column.iter().enumerate() {
                positions[slot] = position;
            }
        }
        positions
    }

    /// Barycentre sweeps to the right and back, then exchanges of neighbours; the best order that was met is kept.
    fn reduce_crossings(&mut self) {
        let mut best = (usize::MAX, self.columns.clone());
        for sweep in 0..SWEEPS {
            self.sweep(sweep % 2 == 0);
            self.exchange();
            let crossings = self.crossings();
            if crossings < best.0 {
                best = (crossings, self.columns.clone());
            }
        }
        self.columns = best.1;
    }

    fn sweep(&mut self, to_the_right: bool) {
        let mut positions = self.positions();
        let count = self.columns.len();
        for step in 0..count {
            let at = if to_the_right { step } else { count - 1 - step };
            let mut column = std::mem::take(&mut self.columns[at]);
            let neighbours = if to_the_right { &self.before } else { &self.after };
            let centre = |slot: usize| {
                let near = &neighbours[slot];
                if near.is_empty() {
                    return positions[slot] as f64;
                }
                near.iter().map(|n| positions[*n] as f64).sum::<f64>() / near.len() as f64
            };
            let keys: Vec<f64> =
                (0..self.slots.len()).map(|s| if self.slots[s].column == at { centre(s) } else { 0.0 }).collect();
            column.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]));
            for (position, &slot) in column.iter().enumerate() {
                positions[slot] = position;
            }
            self.columns[at] = column;
        }
    }

    /// Exchanges neighbours of a column as long as that takes crossings away.
    fn exchange(&mut self) {
        let mut positions = self.positions();
        for _ in 0..4 {
            let mut improved = false;
            for column in &mut self.columns {
                for place in 1..column.len() {
                    let (a, b) = (column[place - 1], column[place]);
                    let (mut now, mut then) = (0, 0);
                    for near in [&self.before, &self.after] {
                        for &i in &near[a] {
                            for &j in &near[b] {
                                now += usize::from(positions[i] > positions[j]);
                                then += usize::from(positions[i] < positions[j]);
                            }
                        }
                    }
                    if then < now {
                        column.swap(place - 1, place);
                        positions.swap(a, b);
                        improved = true;
                    }
                }
            }
            if !improved {
                break;
            }
        }
    }

    fn crossings(&self) -> usize {
        let positions = self.positions();
        let mut total = 0;
        for column in &self.columns {
            let mut ends: Vec<(usize, usize)> = column
                .iter()
                .flat_map(|slot| self.after[*slot].iter().map(|to| (positions[*slot], positions[*to])))
                .collect();
            ends.sort_unstable();
            let mut passed: Vec<usize> = Vec::with_capacity(ends.len());
            for (_, end) in ends {
                let place = passed.partition_point(|other| *other <= end);
                total += passed.len() - place;
                passed.insert(place, end);
            }
        }
        total
    }

    /// The y of each slot: as near to its neighbours' as the order of the column and the distances allow.
    fn rows(&self, node: f64) -> Vec<f64> {
        let mut y = vec![0.0; self.slots.len()];
        for column in &self.columns {
            let offsets = self.offsets(column, node);
            let middle = offsets.last().map_or(0.0, |last| last / 2.0);
            for (&slot, offset) in column.iter().zip(offsets) {
                y[slot] = offset - middle;
            }
        }
        for sweep in 0..SWEEPS {
            let last = sweep + 2 >= SWEEPS;
            let count = self.columns.len();
            for step in 0..count {
                let column = &self.columns[if sweep % 2 == 0 { step } else { count - 1 - step }];
                let wishes: Vec<(f64, f64)> = column
                    .iter()
                    .map(|&slot| {
                        let sides: &[&Vec<usize>] = match (last, sweep % 2 == 0) {
                            (true, _) => &[&self.before[slot], &self.after[slot]],
                            (false, true) => &[&self.before[slot]],
                            (false, false) => &[&self.after[slot]],
                        };
                        self.wish(slot, sides, &y)
                    })
                    .collect();
                let offsets = self.offsets(column, node);
                for (&slot, place) in column.iter().zip(spread(&wishes, &offsets)) {
                    y[slot] = place;
                }
            }
        }
        y
    }

    /// Where a slot would like to stand, and how much: a lane wants to be straight.
    fn wish(&self, slot: usize, sides: &[&Vec<usize>], y: &[f64]) -> (f64, f64) {
        let is_lane = self.slots[slot].is_lane;
        let (mut sum, mut weight) = (0.0, 0.0);
        for &near in sides.iter().copied().flatten() {
            let both = is_lane && (self.slots[near].is_lane || self.slots[near].source == self.slots[slot].source);
            let pull = if both { 6.0 } else { 1.0 };
            sum += pull * y[near];
            weight += pull;
        }
        if weight == 0.0 { (y[slot], 0.1) } else { (sum / weight, if is_lane { 2.0 } else { 1.0 }) }
    }

    /// Smallest distances of a column's slots from its first.
    fn offsets(&self, column: &[usize], node: f64) -> Vec<f64> {
        let mut offsets = Vec::with_capacity(column.len());
        let mut at = 0.0;
        for (place, &slot) in column.iter().enumerate() {
            if place > 0 {
                let (a, b) = (self.slots[column[place - 1]], self.slots[slot]);
                let gap = if a.is_lane && b.is_lane { LANE } else { GAP };
                at += f64::midpoint(a.height(node), b.height(node)) + gap;
            }
            offsets.push(at);
        }
        offsets
    }
}

/// The places that are least far from `wishes` (value, weight; in squares) and at least as far apart as `offsets`: isotonic
/// regression by pooling adjacent violators.
fn spread(wishes: &[(f64, f64)], offsets: &[f64]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (&(wish, weight), offset) in wishes.iter().zip(offsets) {
        let mut pool = (wish - offset, weight, 1);
        while let Some(&(value, weight, count)) = pools.last()
            && value > pool.0
        {
            pools.pop();
            let sum = weight + pool.1;
            pool = ((value * weight + pool.0 * pool.1) / sum, sum, count + pool.2);
        }
        pools.push(pool);
    }
    let values = pools.into_iter().flat_map(|(value, _, count)| std::iter::repeat_n(value, count));
    values.zip(offsets).map(|(value, offset)| value + offset).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_node_stands_right_of_all_that_it_takes() {
        // 0 → 1 → 2, 0 → 2, and 3, which only 2 takes from, stands beside 1.
        let (columns, _) = layers(4, &[(0, 1), (1, 2), (0, 2), (3, 2)]);
        assert_eq!(columns, [0, 1, 2, 1]);
    }

    #[test]
    fn a_cycle_is_drawn_without_the_link_that_closes_it() {
        let (columns, links) = layers(3, &[(0, 1), (1, 2), (2, 0)]);
        assert_eq!((columns, links), (vec![0, 1, 2], vec![(0, 1), (1, 2)]));
    }

    #[test]
    fn two_crossed_pairs_are_uncrossed() {
        let mut net = Net::new(&[0, 0, 1, 1], &[(0, 3), (1, 2)]);
        assert_eq!(net.crossings(), 1);
        net.reduce_crossings();
        assert_eq!(net.crossings(), 0);
    }

    #[test]
    fn long_edges_of_one_node_share_a_lane() {
        let net = Net::new(&[0, 1, 2, 2], &[(0, 1), (1, 2), (0, 2), (0, 3)]);
        assert_eq!(net.slots.len(), 5);
        assert_eq!(net.after[4], [2, 3]);
    }

    #[test]
    fn places_keep_their_distance_and_move_as_little_as_they_can() {
        assert_eq!(spread(&[(0.0, 1.0), (0.0, 1.0), (50.0, 1.0)], &[0.0, 10.0, 20.0]), [-5.0, 5.0, 50.0]);
    }

    proptest! {
        #[test]
        fn boxes_never_overlap_and_edges_go_right(edges in prop::collection::vec((0usize..24, 0usize..24), 0..60)) {
            let links: Vec<_> = edges.into_iter().filter(|(a, b)| a < b).collect();
            let widths: Vec<f64> = (0..24).map(|n| 60.0 + f64::from(n)).collect();
            let layout = layout(&widths, 30.0, &links);
            for (i, a) in layout.boxes.iter().enumerate() {
                prop_assert!(a.x >= MARGIN && a.x + a.width <= layout.width);
                prop_assert!(a.y >= MARGIN + 15.0 - 0.1 && a.y + 15.0 <= layout.height);
                for b in &layout.boxes[..i] {
                    let apart = (a.y - b.y).abs() >= 30.0 || a.x + a.width <= b.x || b.x + b.width <= a.x;
                    prop_assert!(apart, "{a:?} lies on {b:?}");
                }
            }
            for [from, to] in layout.lines.iter().flat_map(|line| &line.bends) {
                prop_assert!(from.0 < to.0);
            }
        }
    }
}
