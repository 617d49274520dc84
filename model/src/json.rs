//! How this crate writes JSON: pretty, keys sorted, one newline at the end, in place at once.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use flow_data::whole;

use crate::error::{Error, Result};

/// Bytes of a JSON file. The index of a model of a million tensors has a tenth.
pub(crate) const MOST: u64 = 1 << 30;

/// The text of `value`: the same bytes for equal values.
///
/// Keys are sorted here because `serde_json` keeps them in order of insertion when any crate of a build turns `preserve_order` on.
pub fn text(value: &Value) -> String {
    fn sorted(value: &Value) -> Sorted {
        match value {
            Value::Object(map) => Sorted::Map(map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect()),
            Value::Array(items) => Sorted::List(items.iter().map(sorted).collect()),
            other => Sorted::Leaf(other.clone()),
        }
    }
    // Maps with text keys and plain values always have a text.
    serde_json::to_string_pretty(&sorted(value)).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
#[serde(untagged)]
enum Sorted {
    Map(BTreeMap<String, Sorted>),
    List(Vec<Sorted>),
    Leaf(Value),
}

/// Writes `value` to `path`.
///
/// # Errors
/// [`Error::Io`], and [`Error::Json`] where a value has no JSON form, as NaN in a map's key.
pub fn write(path: &Path, value: &impl Serialize) -> Result<()> {
    let value = serde_json::to_value(value).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    write_bytes(path, text(&value).as_bytes())
}

/// Writes a whole file under another name first, so that no reader ever sees half of it.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_name(path);
    let mut file = fs_err::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&temporary, path)?;
    Ok(())
}

/// The name under which a file is written before it gets its own.
pub(crate) fn temporary_name(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.partial"))
}

/// Reads a JSON file.
///
/// # Errors
/// [`Error::Io`] and [`Error::Json`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = whole::read(path, MOST)?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({ "b": [{ "z": 1, "a": 2.5 }], "a": null });
        assert_eq!(
            text(&value),
            "{\n  \"a\": null,\n  \"b\": [\n    {\n      \"a\": 2.5,\n      \"z\": 1\n    }\n  ]\n}\n"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write(&path, &json!({ "x": [1, 0.1] })).unwrap();
        assert_eq!(read::<Value>(&path).unwrap(), json!({ "x": [1, 0.1] }));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
        fs_err::write(&path, "{").unwrap();
        assert!(matches!(read::<Value>(&path), Err(Error::Json { .. })));
    }
}
