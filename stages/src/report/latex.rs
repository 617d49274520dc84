//! Tables as TeX, to be read with `\input` into a paper that uses the `booktabs` package.

use std::fmt::Write;

use super::{
    escape::latex as escaped,
    table::{Cell, Mark, Raw, Table},
};

pub(super) fn render(table: &Table) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "% {}", one_line(&table.caption));
    let _ = writeln!(out, "% {}", one_line(&table.note));
    out.push_str("% Needs \\usepackage{booktabs}.\n");
    let columns: String = (0..table.columns.len()).map(|at| if is_text(table, at) { 'l' } else { 'r' }).collect();
    let _ = writeln!(out, "\\begin{{tabular}}{{l{columns}}}\n\\toprule");
    let mut header = escaped(&table.corner);
    for column in &table.columns {
        let _ = write!(header, " & {}", escaped(&column.title));
    }
    let _ = writeln!(out, "{header} \\\\");
    for group in &table.groups {
        out.push_str("\\midrule\n");
        if let Some(title) = &group.title {
            let _ =
                writeln!(out, "\\multicolumn{{{}}}{{l}}{{\\emph{{{}}}}} \\\\", table.columns.len() + 1, escaped(title));
        }
        for row in &group.rows {
            let mut line = escaped(&row.title);
            for cell in &row.cells {
                let _ = write!(line, " & {}", of_cell(cell));
            }
            let _ = writeln!(out, "{line} \\\\");
        }
    }
    out.push_str("\\bottomrule\n\\end{tabular}\n");
    out
}

/// A star may follow `\\` and would be taken for its argument, so no cell begins with one; brackets stand within a cell.
fn of_cell(cell: &Cell) -> String {
    let text = escaped(&cell.text).replace('*', "$^{*}$");
    match (cell.mark, cell.is_own) {
        (Mark::Best, _) | (_, true) => format!("\\textbf{{{text}}}"),
        (Mark::Second, _) => format!("\\underline{{{text}}}"),
        (Mark::None, false) => text,
    }
}

fn is_text(table: &Table, column: usize) -> bool {
    table.rows().any(|(_, row)| matches!(row.cells.get(column), Some(Cell { raw: Raw::Text(_), .. })))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
