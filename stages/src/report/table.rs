//! A table, before it is written in any language. A cell holds what is read (fixed decimals) and what was measured (all
//! digits): Markdown, HTML and TeX take the first, CSV and JSON the second.

use super::input::Estimate;

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Name of its files.
    pub id: String,
    /// What it shows.
    pub caption: String,
    /// How to read it.
    pub note: String,
    /// Above the first column.
    pub corner: String,
    /// The other columns.
    pub columns: Vec<Column>,
    /// Its rows, by group.
    pub groups: Vec<RowGroup>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name in CSV and JSON.
    pub key: String,
    /// What is read.
    pub title: String,
}

/// Rows under a common heading.
#[derive(Debug, Clone, PartialEq)]
pub struct RowGroup {
    /// The heading, where there is one.
    pub title: Option<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name in CSV and JSON.
    pub key: String,
    /// What is read.
    pub title: String,
    /// One for each column.
    pub cells: Vec<Cell>,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// What is read.
    pub text: String,
    /// What was measured.
    pub raw: Raw,
    /// Its rank in its column.
    pub mark: Mark,
    /// Whether a difference is a clear one.
    pub tone: Tone,
    /// Whether it is the one that its row is about.
    pub is_own: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// Nothing.
    Missing,
    /// A number.
    Number(f64),
    /// A count.
    Count(u64),
    /// A word.
    Text(String),
    /// A number with its 95% interval.
    Interval(Estimate),
}

/// Rank in a column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// Neither.
    #[default]
    None,
    /// The best: bold.
    Best,
    /// The second: underlined.
    Second,
}

/// Whether a difference is larger than chance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// No difference, or one within its interval.
    #[default]
    None,
    /// Clearly better.
    Better,
    /// Clearly worse.
    Worse,
}

impl Column {
    pub(super) fn new(key: impl Into<String>, title: impl Into<String>) -> Self {
        Self { key: key.into(), title: title.into() }
    }
}

impl Cell {
    pub(super) fn new(text: impl Into<String>, raw: Raw) -> Self {
        Self { text: text.into(), raw, mark: Mark::None, tone: Tone::None, is_own: false }
    }

    pub(super) fn missing() -> Self {
        Self::new("–", Raw::Missing)
    }

    pub(super) fn count(value: u64) -> Self {
        Self::new(super::metric::grouped(value), Raw::Count(value))
    }

    pub(super) fn text(text: &str) -> Self {
        Self::new(text, Raw::Text(text.to_owned()))
    }

    /// The number to rank by.
    fn value(&self) -> Option<f64> {
        match self.raw {
            Raw::Number(value) | Raw::Interval(Estimate { value, .. }) => Some(value),
            Raw::Count(_) | Raw::Text(_) | Raw::Missing => None,
        }
    }
}

impl Table {
    /// All rows, each with its group's heading.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Option<&str>, &Row)> {
        self.groups.iter().flat_map(|group| group.rows.iter().map(|row| (group.title.as_deref(), row)))
    }

    /// Marks the best and the second of each column among all rows, by the digits that are shown: what looks equal shares
    /// its rank. A column whose cells all look the same has neither.
    pub(super) fn rank(&mut self, lower_is_better: bool) {
        for column in 0..self.columns.len() {
            let mut values: Vec<(f64, String)> = Vec::new();
            for (_, row) in self.rows() {
                if let Some(cell) = row.cells.get(column)
                    && let Some(value) = cell.value()
                {
                    values.push((value, cell.text.clone()));
                }
            }
            values.sort_by(|a, b| if lower_is_better { a.0.total_cmp(&b.0) } else { b.0.total_cmp(&a.0) });
            values.dedup_by(|a, b| a.1 == b.1);
            let [(_, best), (_, second), ..] = values.as_slice() else { continue };
            for cell in self.groups.iter_mut().flat_map(|g| &mut g.rows).filter_map(|row| row.cells.get_mut(column)) {
                if cell.text == *best {
                    cell.mark = Mark::Best;
                } else if cell.text == *second {
                    cell.mark = Mark::Second;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(values: &[f64], lower_is_better: bool) -> Vec<Mark> {
        let row = |value: &f64| Row {
            key: String::new(),
            title: String::new(),
            cells: vec![if value.is_nan() {
                Cell::missing()
            } else {
                Cell::new(format!("{value:.1}"), Raw::Number(*value))
            }],
        };
        let mut table = Table {
            id: String::new(),
            caption: String::new(),
            note: String::new(),
            corner: String::new(),
            columns: vec![Column::new("a", "a")],
            groups: vec![RowGroup { title: None, rows: values.iter().map(row).collect() }],
        };
        table.rank(lower_is_better);
        table.rows().map(|(_, row)| row.cells[0].mark).collect()
    }

    #[test]
    fn what_looks_equal_shares_its_rank() {
        use Mark::{Best, None, Second};
        assert_eq!(marks(&[1.0, 2.0, 3.0], true), [Best, Second, None]);
        assert_eq!(marks(&[1.0, 2.0, 3.0], false), [None, Second, Best]);
        assert_eq!(marks(&[1.01, 1.04, 2.0, 2.04, 3.0], true), [Best, Best, Second, Second, None]);
        assert_eq!(marks(&[1.0, 1.0], true), [None, None]);
        assert_eq!(marks(&[1.0], true), [None]);
        assert_eq!(marks(&[f64::NAN, 2.0, 1.0], true), [None, Second, Best]);
        assert_eq!(marks(&[], true), []);
    }
}
