//! Tables as JSON: names and titles, all digits, ranks. Keys are sorted whatever features `serde_json` was built with.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::table::{Cell, Mark, Raw, Table, Tone};

pub(super) fn render(table: &Table) -> String {
    let columns: Vec<Value> =
        table.columns.iter().map(|column| json!({ "key": column.key, "title": column.title })).collect();
    let rows: Vec<Value> = table
        .rows()
        .map(|(group, row)| {
            let cells: BTreeMap<&str, Value> = table
                .columns
                .iter()
                .zip(&row.cells)
                .map(|(column, cell)| (column.key.as_str(), of_cell(cell)))
                .collect();
            json!({ "cells": cells, "group": group, "key": row.key, "title": row.title })
        })
        .collect();
    text(&json!({
        "caption": table.caption,
        "columns": columns,
        "format": 1,
        "id": table.id,
        "note": table.note,
        "rows": rows,
    }))
}

fn of_cell(cell: &Cell) -> Value {
    let mut fields: BTreeMap<&str, Value> = BTreeMap::from([("shown", json!(cell.text))]);
    match &cell.raw {
        Raw::Missing => return Value::Null,
        Raw::Number(value) => drop(fields.insert("value", json!(value))),
        Raw::Count(count) => drop(fields.insert("value", json!(count))),
        Raw::Text(text) => drop(fields.insert("value", json!(text))),
        Raw::Interval(estimate) => {
            fields.extend([
                ("value", json!(estimate.value)),
                ("low", json!(estimate.low)),
                ("high", json!(estimate.high)),
            ]);
        }
    }
    match cell.mark {
        Mark::None => {}
        Mark::Best => drop(fields.insert("rank", json!("best"))),
        Mark::Second => drop(fields.insert("rank", json!("second"))),
    }
    match cell.tone {
        Tone::None => {}
        Tone::Better => drop(fields.insert("clearly", json!("better"))),
        Tone::Worse => drop(fields.insert("clearly", json!("worse"))),
    }
    json!(fields)
}

/// Pretty-printed, keys sorted, a newline at the end.
pub(super) fn text(value: &Value) -> String {
    format!("{:#}\n", sorted(value))
}

pub(super) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> = fields.iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(fields.into_iter().map(|(name, value)| (name.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}
