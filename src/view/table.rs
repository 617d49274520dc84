//! Columns that stand below each other.

use std::fmt::Write;

/// Rows as lines, each cell as wide as the widest of its column; `right` names the columns that hold numbers. The first row
/// is the heading.
pub fn text(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column > 0 { "  " } else { "" };
            // Writing to a String cannot fail.
            let _ = if right.contains(&column) {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:width$}")
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// A row of a table.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [row(["stage", "size", "name"]), row(["ä", "9 B", "x"]), row(["corpus", "10 B", ""])];
        assert_eq!(text(&rows, &[1]), "stage   size  name\nä        9 B  x\ncorpus  10 B\n");
        assert_eq!(text(&[], &[]), "");
    }
}
