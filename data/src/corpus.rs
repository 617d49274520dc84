//! A corpus on the disk: what `curate` writes and every later step reads.
//!
//! ```text
//! statistics.json                 every document accounted for
//! train/part-00000.parquet …      id, text, source, domain, provenance (UTF-8, zstd), in the order of reading
//! heldout/part-00000.parquet …    the same
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, RecordBatch, StringArray,
    builder::{ArrayBuilder, StringBuilder},
};
use arrow_schema::{DataType, Field, Schema};
use fs_err as fs;
use parquet::{
    arrow::{
        ArrowWriter,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, document::Document, tally::Statistics, whole};

/// The two parts of a corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What models learn from.
    #[default]
    Train,
    /// What they are measured on.
    Heldout,
}

impl Split {
    /// Name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Heldout => "heldout",
        }
    }
}

const COLUMNS: [&str; 5] = ["id", "text", "source", "domain", "provenance"];
const STATISTICS: &str = "statistics.json";
/// Bytes of it that are read.
const STATISTICS_MOST: u64 = 64 << 20;

/// A corpus that is whole.
#[derive(Debug, Clone)]
pub struct Corpus {
    folder: PathBuf,
    /// Its statistics file.
    pub statistics: Statistics,
}

impl Corpus {
    /// Opens the corpus in `folder`.
    ///
    /// # Errors
    /// A statistics file that is missing or of another version.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(STATISTICS);
        let json = |source| Error::Json { place: path.display().to_string(), source };
        let statistics = serde_json::from_slice(&whole::read(&path, STATISTICS_MOST)?).map_err(json)?;
        Ok(Corpus { folder: folder.to_path_buf(), statistics })
    }

    /// The documents of a split in their order. A split that was not made gives none.
    ///
    /// # Errors
    /// A folder that cannot be listed; each item may tell of a damaged file.
    pub fn documents(&self, split: Split) -> Result<Documents> {
        let folder = self.folder.join(split.name());
        let mut shards = Vec::new();
        if folder.is_dir() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "parquet") {
                    shards.push(path);
                }
            }
        }
        // Taken from the end.
        shards.sort_by(|a, b| b.cmp(a));
        Ok(Documents { shards, reader: None, batch: None })
    }
}

/// Iterator over a split: one batch of rows in memory.
pub struct Documents {
    shards: Vec<PathBuf>,
    reader: Option<(PathBuf, ParquetRecordBatchReader)>,
    batch: Option<([StringArray; 5], usize)>,
}

impl Documents {
    fn step(&mut self) -> Result<Option<Document>> {
        loop {
            if let Some((columns, row)) = &mut self.batch {
                if *row < columns[0].len() {
                    let [id, text, source, domain, provenance] = columns.each_ref().map(|c| c.value(*row).to_string());
                    *row += 1;
                    return Ok(Some(Document { id, text, source, domain, provenance }));
                }
                self.batch = None;
            }
            if let Some((path, reader)) = &mut self.reader {
                let file = || path.display().to_string();
                if let Some(batch) = reader.next() {
                    let batch = batch.map_err(|source| Error::Parquet { file: file(), source: source.into() })?;
                    self.batch = Some((columns(&batch, path)?, 0));
                    continue;
                }
                self.reader = None;
            }
            let Some(path) = self.shards.pop() else { return Ok(None) };
            let (file, _) = fs::File::open(&path)?.into_parts();
            let damaged = |source| Error::Parquet { file: path.display().to_string(), source };
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
            let reader = builder.with_batch_size(128).build().map_err(damaged)?;
            self.reader = Some((path, reader));
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step().transpose();
        if matches!(item, Some(Err(_))) {
            *self = Documents { shards: Vec::new(), reader: None, batch: None };
        }
        item
    }
}

fn columns(batch: &RecordBatch, path: &Path) -> Result<[StringArray; 5]> {
    let column = |name: &str| {
        batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<StringArray>()).cloned().ok_or_else(
            || {
                let reason = "a corpus has this column, as text".to_string();
                Error::Column { file: path.display().to_string(), column: name.to_string(), reason }
            },
        )
    };
    let [id, text, source, domain, provenance] = COLUMNS.map(column);
    Ok([id?, text?, source?, domain?, provenance?])
}

/// Writes one split, shard after shard. The bytes depend on the documents and the sizes alone.
pub(crate) struct SplitWriter {
    folder: PathBuf,
    shard_bytes: u64,
    shards: u64,
    writer: Option<(PathBuf, ArrowWriter<std::fs::File>)>,
    in_shard: u64,
    columns: [StringBuilder; 5],
    pending: u64,
}

/// Text in one batch handed to the encoder; four of them make a row group.
const BATCH_BYTES: u64 = 4 << 20;
const GROUP_BYTES: u64 = 16 << 20;

impl SplitWriter {
    pub(crate) fn create(corpus: &Path, split: Split, shard_bytes: u64) -> Result<Self> {
        let folder = corpus.join(split.name());
        fs::create_dir_all(&folder)?;
        let columns = Default::default();
        Ok(SplitWriter { folder, shard_bytes, shards: 0, writer: None, in_shard: 0, columns, pending: 0 })
    }

    /// Appends a row: the values in the order of the columns.
    pub(crate) fn push(&mut self, row: [&str; 5]) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.append_value(value);
        }
        let bytes = row[1].len() as u64;
        self.pending += bytes;
        self.in_shard += bytes;
        if self.pending >= BATCH_BYTES {
            self.flush()?;
        }
        if self.in_shard >= self.shard_bytes { self.close_shard() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let schema = schema();
        if self.writer.is_none() {
            let path = self.folder.join(format!("part-{:05}.parquet", self.shards));
            let (file, _) = fs::File::create(&path)?.into_parts();
            let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()));
            self.writer = Some((path.clone(), writer.map_err(|source| parquet_error(&path, source))?));
            self.shards += 1;
        }
        let columns = self.columns.each_mut().map(|column| Arc::new(column.finish()) as ArrayRef);
        self.pending = 0;
        let Some((path, writer)) = &mut self.writer else { return Ok(()) };
        let batch = RecordBatch::try_new(schema, columns.to_vec()).map_err(Into::into);
        let written = batch.and_then(|batch| writer.write(&batch));
        written.map_err(|source| parquet_error(path, source))?;
        if writer.in_progress_size() as u64 >= GROUP_BYTES {
            writer.flush().map_err(|source| parquet_error(path, source))?;
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        if self.columns[0].len() > 0 {
            self.flush()?;
        }
        self.in_shard = 0;
        if let Some((path, writer)) = self.writer.take() {
            let file = writer.into_inner().map_err(|source| parquet_error(&path, source))?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Ends the last shard; how many there are.
    pub(crate) fn finish(mut self) -> Result<u64> {
        if self.columns[0].len() > 0 || self.writer.is_some() {
            self.close_shard()?;
        }
        Ok(self.shards)
    }
}

fn parquet_error(path: &Path, source: parquet::errors::ParquetError) -> Error {
    Error::Parquet { file: path.display().to_string(), source }
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(COLUMNS.map(|name| Field::new(name, DataType::Utf8, false)).to_vec()))
}

fn properties() -> WriterProperties {
    // The library would write its own version here: an update must not change a digest by that alone.
    let zstd = ZstdLevel::try_new(3).unwrap_or_default();
    let builder = WriterProperties::builder().set_created_by("flow".into()).set_compression(Compression::ZSTD(zstd));
    builder.set_dictionary_enabled(false).set_max_row_group_row_count(None).build()
}

pub(crate) fn write_statistics(corpus: &Path, statistics: &Statistics) -> Result<()> {
    let path = corpus.join(STATISTICS);
    let json = |source| Error::Json { place: STATISTICS.into(), source };
    // Through a value: its maps are sorted.
    let value = serde_json::to_value(statistics).map_err(json)?;
    let mut text = serde_json::to_string_pretty(&value).map_err(json)?;
    text.push('\n');
    fs::write(path, text)?;
    Ok(())
}
