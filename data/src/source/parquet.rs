//! One document a row of a Parquet file.

use std::io::Seek;

use arrow_array::{Array, LargeStringArray, StringArray, StringViewArray, cast::AsArray, types::Int64Type};
use arrow_schema::DataType;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{Broken, Fault, Fields, Item, ResolvedFile, files::check_digest, jsonl::MAX_LINE};
use crate::{Error, Result, document::Document};

pub(super) fn read(
    file: &ResolvedFile,
    handle: std::fs::File,
    fields: Fields<'_>,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    read_up_to(MAX_LINE, file, handle, fields, sink)
}

fn read_up_to(
    most: usize,
    file: &ResolvedFile,
    mut handle: std::fs::File,
    fields: Fields<'_>,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&handle)?;
    check_digest(file, &hasher.finalize())?;
    handle.rewind()?;

    let damaged = |source| Error::Parquet { file: file.name.clone(), source };
    let builder = ParquetRecordBatchReaderBuilder::try_new(handle).map_err(damaged)?;
    let schema = builder.schema().clone();
    let index = |name: &str| schema.fields().iter().position(|field| field.name() == name);
    let column_error =
        |reason: String| Error::Column { file: file.name.clone(), column: fields.text.to_string(), reason };
    let Some(text_column) = index(fields.text) else {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        return Err(column_error(format!("there is none; there are: {}", names.join(", "))));
    };
    if !is_text(schema.field(text_column).data_type()) {
        return Err(column_error(format!("it holds {}, not text", schema.field(text_column).data_type())));
    }
    let id_column = index(fields.id);
    let mask = ProjectionMask::roots(builder.parquet_schema(), id_column.into_iter().chain([text_column]));
    let reader = builder.with_projection(mask).with_batch_size(256).build().map_err(damaged)?;
    let mut row = 0u64;
    for batch in reader {
        let batch = batch.map_err(|source| damaged(source.into()))?;
        let texts = batch.column_by_name(fields.text);
        let ids = batch.column_by_name(fields.id);
        for index in 0..batch.num_rows() {
            row += 1;
            let place = format!("{}:{row}", file.name);
            let Some(text) = texts.and_then(|column| string_at(&**column, index)) else {
                let reason = format!("no value in column `{}`", fields.text);
                sink(Item::Broken(Broken { fault: Fault::Record, place, reason }))?;
                continue;
            };
            if text.len() > most {
                let reason = format!("the document is longer than {most} bytes");
                sink(Item::Broken(Broken { fault: Fault::Record, place, reason }))?;
                continue;
            }
            let id = ids.and_then(|column| string_at(&**column, index));
            sink(Item::Document(Document {
                id: id.unwrap_or_else(|| Document::derived_id(&file.name, &text)),
                text,
                source: file.name.clone(),
                domain: String::new(),
                provenance: place,
            }))?;
        }
    }
    Ok(())
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn string_at(column: &dyn Array, index: usize) -> Option<String> {
    if column.is_null(index) {
        return None;
    }
    let any = column.as_any();
    if let Some(column) = any.downcast_ref::<StringArray>() {
        return Some(column.value(index).to_string());
    }
    if let Some(column) = any.downcast_ref::<LargeStringArray>() {
        return Some(column.value(index).to_string());
    }
    if let Some(column) = any.downcast_ref::<StringViewArray>() {
        return Some(column.value(index).to_string());
    }
    column.as_primitive_opt::<Int64Type>().map(|column| column.value(index).to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, RecordBatch};
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn a_long_document_is_broken_as_in_other_formats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["short", &"long".repeat(10), "last"]));
        let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let bytes = fs_err::read(&path).unwrap();
        let file = ResolvedFile {
            name: "a.parquet".into(),
            location: path.display().to_string(),
            size: bytes.len() as u64,
            digest: blake3::hash(&bytes).to_hex().to_string(),
        };
        let mut told = Vec::new();
        let fields = Fields { text: "text", id: "id" };
        read_up_to(39, &file, std::fs::File::open(&path).unwrap(), fields, &mut |item| {
            told.push(match item {
                Item::Document(document) => document.text,
                Item::Broken(broken) => format!("{}: {}", broken.place, broken.reason),
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(told, ["short", "a.parquet:2: the document is longer than 39 bytes", "last"]);
    }
}
