//! Tables as CSV (RFC 4180, but lines end with `\n`): names instead of titles, all digits. A value with an interval takes
//! three columns: `rust`, `rust_low`, `rust_high`.

use super::table::{Cell, Raw, Table};

pub(super) fn render(table: &Table) -> String {
    let is_grouped = table.groups.iter().any(|group| group.title.is_some());
    let wide: Vec<bool> = (0..table.columns.len())
        .map(|at| table.rows().any(|(_, row)| matches!(row.cells.get(at), Some(Cell { raw: Raw::Interval(_), .. }))))
        .collect();

    let mut header = Vec::new();
    if is_grouped {
        header.push("group".to_owned());
    }
    header.extend(["key".to_owned(), "title".to_owned()]);
    for (column, wide) in table.columns.iter().zip(&wide) {
        header.push(column.key.clone());
        if *wide {
            header.extend([format!("{}_low", column.key), format!("{}_high", column.key)]);
        }
    }
    let mut out = line(&header);
    for (group, row) in table.rows() {
        let mut fields = Vec::new();
        if is_grouped {
            fields.push(group.unwrap_or_default().to_owned());
        }
        fields.extend([row.key.clone(), row.title.clone()]);
        for (cell, wide) in row.cells.iter().zip(&wide) {
            match &cell.raw {
                Raw::Missing => fields.push(String::new()),
                Raw::Number(value) => fields.push(value.to_string()),
                Raw::Count(count) => fields.push(count.to_string()),
                Raw::Text(text) => fields.push(text.clone()),
                Raw::Interval(e) => fields.extend([e.value, e.low, e.high].map(|value| value.to_string())),
            }
            if *wide && !matches!(cell.raw, Raw::Interval(_)) {
                fields.extend([String::new(), String::new()]);
            }
        }
        out.push_str(&line(&fields));
    }
    out
}

fn line(fields: &[String]) -> String {
    let quoted: Vec<String> = fields
        .iter()
        .map(|field| {
            if field.contains(['"', ',', '\n', '\r']) {
                format!("\"{}\"", field.replace('"', "\"\""))
            } else {
                field.clone()
            }
        })
        .collect();
    quoted.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_field_stays_one_field() {
        assert_eq!(line(&["a,\"b\"\n".to_owned(), "c".to_owned(), String::new()]), "\"a,\"\"b\"\"\n\",c,\n");
    }
}
