//! What curation kept and dropped: every whole number of each corpus' `statistics.json`. Those that are known by name stand
//! first; a rule or a count that this page has never heard of is shown all the same. Lists are left out: what they count by
//! source is summed beside them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    input::ReportInput,
    metric::fixed,
    table::{Cell, Column, Raw, Row, RowGroup, Table},
};

/// The parts of the table.
const SECTIONS: [&str; 5] = ["Documents", "Documents dropped", "Bytes", "Bytes dropped", "More"];

/// Rows are what was counted, columns the domains and their sum.
pub(super) fn table(input: &ReportInput) -> Option<Table> {
    if input.corpora.is_empty() {
        return None;
    }
    let domains = input.domains(input.corpora.keys());
    let counts: Vec<BTreeMap<String, u64>> = domains
        .iter()
        .map(|(name, _)| {
            let mut counts = BTreeMap::new();
            if let Some(statistics) = input.corpora.get(*name) {
                flatten("", statistics, &mut counts);
            }
            counts
        })
        .collect();
    let keys: BTreeSet<&str> = counts.iter().flat_map(|counts| counts.keys().map(String::as_str)).collect();
    let mut rows: Vec<(usize, usize, Row)> = Vec::new();
    for key in keys {
        let values: Vec<Option<u64>> = counts.iter().map(|counts| counts.get(key).copied()).collect();
        let known = values.iter().flatten().copied();
        let total =
            if key.ends_with("largest") { known.max().unwrap_or(0) } else { known.fold(0, u64::saturating_add) };
        let mut cells: Vec<Cell> = values.iter().map(|value| value.map_or_else(Cell::missing, Cell::count)).collect();
        cells.push(Cell::count(total));
        let (section, order, title) = place(key);
        rows.push((section, order, Row { key: key.to_owned(), title, cells }));
    }
    rows.extend(share(&counts).map(|row| (0, 2, row)));
    rows.sort_by(|a, b| (a.0, a.1, &a.2.key).cmp(&(b.0, b.1, &b.2.key)));
    let mut groups: Vec<RowGroup> =
        SECTIONS.iter().map(|title| RowGroup { title: Some((*title).to_owned()), rows: Vec::new() }).collect();
    for (section, _, row) in rows {
        groups[section].rows.push(row);
    }
    groups.retain(|group| !group.rows.is_empty());
    let mut columns: Vec<Column> = domains.iter().map(|(name, title)| Column::new(*name, *title)).collect();
    columns.push(Column::new("total", "Total"));
    Some(Table {
        id: "corpora".to_owned(),
        caption: "What curation kept and dropped".to_owned(),
        note: note(&domains, &counts),
        corner: "Count".to_owned(),
        columns,
        groups,
    })
}

/// Whole numbers by their path; the format's own version is none of them.
fn flatten(path: &str, value: &Value, counts: &mut BTreeMap<String, u64>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if path.is_empty() {
                    if name != "format" {
                        flatten(name, value, counts);
                    }
                } else {
                    flatten(&format!("{path}.{name}"), value, counts);
                }
            }
        }
        Value::Number(number) => {
            if let Some(count) = number.as_u64() {
                counts.insert(path.to_owned(), count);
            }
        }
        _ => {}
    }
}

/// Section, order within it, and title of a count.
fn place(key: &str) -> (usize, usize, String) {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["documents_in"] | ["read", "documents"] => (0, 0, "Read".to_owned()),
        ["kept"] | ["kept", "documents"] => (0, 1, "Kept".to_owned()),
        ["train"] | ["kept" | "splits", "train"] | ["splits", "train", "documents"] => (0, 3, "Train split".to_owned()),
        ["heldout"] | ["kept" | "splits", "heldout"] | ["splits", "heldout", "documents"] => {
            (0, 4, "Held-out split".to_owned())
        }
        ["dropped", reason] | ["dropped", reason, "documents"] => (1, 0, words(reason)),
        ["read", "bytes"] => (2, 0, "Read".to_owned()),
        ["kept", "bytes"] => (2, 1, "Kept".to_owned()),
        ["splits", "train", "bytes"] => (2, 2, "Train split, as written".to_owned()),
        ["splits", "heldout", "bytes"] => (2, 3, "Held-out split, as written".to_owned()),
        ["dropped", reason, "bytes"] => (3, 0, words(reason)),
        _ => (4, 0, words(key)),
    }
}

fn words(key: &str) -> String {
    let text = key.replace('.', ": ").replace(['_', '-'], " ");
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The sum of a domain's counts that stand in these places of the table.
fn sum(counts: &BTreeMap<String, u64>, is_meant: impl Fn(usize, usize) -> bool) -> Option<u64> {
    let meant = |key: &str| {
        let (section, order, _) = place(key);
        is_meant(section, order)
    };
    let mut values = counts.iter().filter(|(key, _)| meant(key)).map(|(_, value)| *value).peekable();
    values.peek()?;
    Some(values.fold(0, u64::saturating_add))
}

fn read(counts: &BTreeMap<String, u64>) -> Option<u64> {
    sum(counts, |section, order| (section, order) == (0, 0))
}

/// What was kept, or the splits where only those are given.
fn kept(counts: &BTreeMap<String, u64>) -> Option<u64> {
    sum(counts, |section, order| (section, order) == (0, 1))
        .or_else(|| sum(counts, |section, order| section == 0 && order > 2))
}

fn share(counts: &[BTreeMap<String, u64>]) -> Option<Row> {
    let pairs: Vec<Option<(u64, u64)>> = counts.iter().map(|counts| Some((kept(counts)?, read(counts)?))).collect();
    let total = pairs
        .iter()
        .flatten()
        .fold((0u64, 0u64), |sum, pair| (sum.0.saturating_add(pair.0), sum.1.saturating_add(pair.1)));
    if total.1 == 0 {
        return None;
    }
    let cell = |(kept, all): (u64, u64)| {
        if all == 0 {
            return Cell::missing();
        }
        let share = kept as f64 / all as f64;
        Cell::new(fixed(100.0 * share, 1), Raw::Number(share))
    };
    let cells = pairs.into_iter().chain([Some(total)]).map(|pair| pair.map_or_else(Cell::missing, cell)).collect();
    Some(Row { key: "share_kept".to_owned(), title: "Kept, %".to_owned(), cells })
}

/// Whether every document is accounted for.
fn note(domains: &[(&str, &str)], counts: &[BTreeMap<String, u64>]) -> String {
    let mut known = 0;
    let mut off = Vec::new();
    for ((_, title), counts) in domains.iter().zip(counts) {
        if let (Some(all), Some(kept)) = (read(counts), kept(counts)) {
            known += 1;
            let dropped = sum(counts, |section, _| section == 1).unwrap_or(0);
            if kept.checked_add(dropped) != Some(all) {
                off.push(*title);
            }
        }
    }
    match (known, off.is_empty()) {
        (0, _) => "Counts of each corpus' statistics.json.".to_owned(),
        (_, true) => "Every document is accounted for: read = kept + dropped.".to_owned(),
        (_, false) => format!("Read = kept + dropped does not hold for: {}.", off.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(statistics: Value) -> Table {
        let corpora = BTreeMap::from([("rust".to_owned(), statistics)]);
        table(&ReportInput { corpora, ..ReportInput::default() }).unwrap()
    }

    #[test]
    fn every_number_is_shown_and_the_sum_is_checked() {
        let table = of(json!({
            "format": 1, "documents_in": 10, "kept": {"train": 6, "heldout": 1}, "dropped": {"too_short": 2, "near": 1},
            "bytes": {"train": 9000}, "name": "x", "rate": 0.5, "negative": -1
        }));
        let rows: Vec<String> = table
            .rows()
            .map(|(group, row)| format!("{}/{} {}", group.unwrap_or(""), row.title, row.cells[1].text))
            .collect();
        assert_eq!(
            rows,
            [
                "Documents/Read 10",
                "Documents/Kept, % 70.0",
                "Documents/Train split 6",
                "Documents/Held-out split 1",
                "Documents dropped/Near 1",
                "Documents dropped/Too short 2",
                "More/Bytes: train 9,000",
            ]
        );
        assert!(table.note.starts_with("Every document"), "{}", table.note);
        let off = of(json!({"documents_in": 10, "kept": 6, "dropped": {"near": 1}}));
        assert_eq!(off.note, "Read = kept + dropped does not hold for: rust.");
    }

    #[test]
    fn the_curate_stages_own_file_is_known() {
        let table = of(json!({
            "broken": {"not_text": 0, "records": 3, "samples": ["a: b"], "streams": 0}, "domain": "rust",
            "dropped": {"exact-duplicate": {"bytes": 70, "documents": 2, "examples": ["x"]}}, "format": 1,
            "kept": {"bytes": 900, "documents": 8}, "near_duplicates": {"groups": 1, "largest": 4},
            "read": {"bytes": 970, "documents": 10}, "sources": [{"files": 7}],
            "splits": {"heldout": {"bytes": 100, "documents": 1, "rows": 1, "shards": 1}, "train": {"bytes": 800, "documents": 7,
            "rows": 9, "shards": 1}}
        }));
        let rows: Vec<String> = table
            .rows()
            .map(|(group, row)| format!("{}/{} {}", group.unwrap_or(""), row.title, row.cells[1].text))
            .collect();
        assert_eq!(
            rows[..11],
            [
                "Documents/Read 10",
                "Documents/Kept 8",
                "Documents/Kept, % 80.0",
                "Documents/Train split 7",
                "Documents/Held-out split 1",
                "Documents dropped/Exact duplicate 2",
                "Bytes/Read 970",
                "Bytes/Kept 900",
                "Bytes/Train split, as written 800",
                "Bytes/Held-out split, as written 100",
                "Bytes dropped/Exact duplicate 70",
            ]
        );
        assert!(rows.contains(&"More/Broken: records 3".to_owned()));
        assert!(table.note.starts_with("Every document"), "{}", table.note);
    }

    #[test]
    fn statistics_of_another_shape_are_no_reason_to_fail() {
        for statistics in [json!(null), json!([1, 2]), json!({}), json!({"kept": u64::MAX, "documents_in": 0})] {
            of(statistics);
        }
    }
}
