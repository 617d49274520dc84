//! One document a file.

use std::io::Read;

use super::{
    Broken, Fault, Item, ResolvedFile, Take, doc_comments,
    files::{CheckedReader, Pack},
    jsonl::{MAX_LINE, unpack},
};
use crate::{Result, document::Document};

pub(super) fn read(
    file: &ResolvedFile,
    handle: std::fs::File,
    pack: Pack,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    read_up_to(MAX_LINE, file, handle, pack, sink)
}

fn read_up_to(
    most: usize,
    file: &ResolvedFile,
    handle: std::fs::File,
    pack: Pack,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut checked = CheckedReader::new(file, handle);
    let mut bytes = Vec::with_capacity((file.size as usize).min(most));
    let outcome = unpack(&mut checked, pack).and_then(|stream| stream.take(most as u64 + 1).read_to_end(&mut bytes));
    checked.finish()?;
    let broken = |fault, reason| Item::Broken(Broken { fault, place: file.name.clone(), reason });
    if let Err(error) = outcome {
        return sink(broken(Fault::Stream, format!("the compressed stream is damaged or cut off: {error}")));
    }
    if bytes.len() > most {
        return sink(broken(Fault::Record, format!("the document is longer than {most} bytes")));
    }
    match String::from_utf8(bytes) {
        Ok(text) => sink(Item::Document(whole_file(file, file.name.clone(), text))),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            sink(broken(Fault::Record, format!("invalid UTF-8 at byte {at}")))
        }
    }
}

fn whole_file(file: &ResolvedFile, source: String, text: String) -> Document {
    let id = Document::derived_id(&file.name, &text);
    Document { id, text, source, domain: String::new(), provenance: file.name.clone() }
}

/// A file of a package; its source is the package, the first part of its name.
pub(super) fn read_package_file(
    file: &ResolvedFile,
    handle: std::fs::File,
    take: Take,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    read_package_file_up_to(MAX_LINE, file, handle, take, sink)
}

fn read_package_file_up_to(
    most: usize,
    file: &ResolvedFile,
    handle: std::fs::File,
    take: Take,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut checked = CheckedReader::new(file, handle);
    let mut bytes = Vec::with_capacity((file.size as usize).min(most));
    checked.by_ref().take(most as u64 + 1).read_to_end(&mut bytes)?;
    checked.finish()?;
    if bytes.len() > most {
        let reason = format!("the document is longer than {most} bytes");
        return sink(Item::Broken(Broken { fault: Fault::Record, place: file.name.clone(), reason }));
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        _ => {
            let reason = "not UTF-8 text".to_string();
            return sink(Item::Broken(Broken { fault: Fault::NotText, place: file.name.clone(), reason }));
        }
    };
    let text = match take {
        Take::Files => text,
        Take::DocComments => doc_comments::extract(&text),
    };
    if take == Take::DocComments && text.is_empty() {
        return Ok(());
    }
    let package = file.name.split('/').next().unwrap_or_default().to_string();
    sink(Item::Document(whole_file(file, package, text)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_small_file_that_unpacks_to_a_large_one_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt.gz");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(&vec![b'x'; 100_000]).unwrap();
        let packed = packed.finish().unwrap();
        fs_err::write(&path, &packed).unwrap();
        let file = ResolvedFile {
            name: "a.txt.gz".into(),
            location: path.display().to_string(),
            size: packed.len() as u64,
            digest: blake3::hash(&packed).to_hex().to_string(),
        };
        let given = |most| {
            let mut items = Vec::new();
            read_up_to(most, &file, std::fs::File::open(&path).unwrap(), Pack::Gzip, &mut |item| {
                items.push(item);
                Ok(())
            })
            .unwrap();
            items
        };
        assert!(matches!(&given(100_000)[..], [Item::Document(document)] if document.text.len() == 100_000));
        let [Item::Broken(broken)] = &given(99_999)[..] else { panic!("one broken document") };
        assert_eq!((broken.fault, &*broken.reason), (Fault::Record, "the document is longer than 99999 bytes"));
    }

    #[test]
    fn a_long_file_of_a_package_is_broken_and_checked_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.rs");
        fs_err::write(&path, "x".repeat(1000)).unwrap();
        let file = |digest: blake3::Hash| ResolvedFile {
            name: "a-1.0.0/lib.rs".into(),
            location: path.display().to_string(),
            size: 1000,
            digest: digest.to_hex().to_string(),
        };
        let given = |most, file: &ResolvedFile| {
            let mut items = Vec::new();
            let handle = std::fs::File::open(&path).unwrap();
            let read = read_package_file_up_to(most, file, handle, Take::Files, &mut |item| {
                items.push(item);
                Ok(())
            });
            read.map(|()| items)
        };
        let whole = file(blake3::hash("x".repeat(1000).as_bytes()));
        assert!(matches!(&given(1000, &whole).unwrap()[..], [Item::Document(_)]));
        let [Item::Broken(broken)] = &given(999, &whole).unwrap()[..] else { panic!("one broken document") };
        assert_eq!((broken.fault, &*broken.reason), (Fault::Record, "the document is longer than 999 bytes"));
        for most in [999, 1000] {
            assert!(given(most, &file(blake3::hash(b"other"))).is_err(), "what changed is told");
        }
    }
}
