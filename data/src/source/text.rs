//! One document a file.

use std::io::Read;

use super::{
    Broken, Fault, Item, ResolvedFile, Take, doc_comments,
    files::{CheckedReader, Pack, check_digest},
    jsonl::unpack,
};
use crate::{Result, document::Document};

pub(super) fn read(
    file: &ResolvedFile,
    handle: std::fs::File,
    pack: Pack,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut checked = CheckedReader::new(file, handle);
    let mut bytes = Vec::with_capacity(file.size as usize);
    let outcome = unpack(&mut checked, pack).and_then(|mut stream| stream.read_to_end(&mut bytes));
    checked.finish()?;
    let broken = |fault, reason| Item::Broken(Broken { fault, place: file.name.clone(), reason });
    if let Err(error) = outcome {
        return sink(broken(Fault::Stream, format!("the compressed stream is damaged or cut off: {error}")));
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
    mut handle: std::fs::File,
    take: Take,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut bytes = Vec::with_capacity(file.size as usize);
    handle.read_to_end(&mut bytes)?;
    check_digest(file, &blake3::hash(&bytes))?;
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
