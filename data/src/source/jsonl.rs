//! One JSON object a line, plain or compressed. A bad line is told with its number and the next one is read.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read},
};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{
    Broken, Fault, Fields, Item, ResolvedFile,
    files::{CheckedReader, Pack},
};
use crate::{Result, document::Document};

/// Longer lines, and files that are one document each, are broken: what has no end, or a small file that unpacks to a large one,
/// must not take all memory.
pub(super) const MAX_LINE: usize = 256 << 20;

/// The stream inside a file.
pub(super) fn unpack<'r>(reader: impl Read + 'r, pack: Pack) -> io::Result<Box<dyn Read + 'r>> {
    Ok(match pack {
        Pack::None => Box::new(reader),
        Pack::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        Pack::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(reader)?;
            // Corpora packed with `--long=31` are common.
            decoder.window_log_max(31)?;
            Box::new(decoder)
        }
    })
}

pub(super) fn read(
    file: &ResolvedFile,
    handle: std::fs::File,
    pack: Pack,
    fields: Fields<'_>,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let mut checked = CheckedReader::new(file, handle);
    read_lines(&file.name, &mut checked, pack, fields, sink)?;
    checked.finish()
}

fn read_lines(
    name: &str,
    reader: impl Read,
    pack: Pack,
    fields: Fields<'_>,
    sink: &mut dyn FnMut(Item) -> Result<()>,
) -> Result<()> {
    let broken = |fault, place, reason| Item::Broken(Broken { fault, place, reason });
    let cut_off = |line: u64, error: io::Error| {
        let reason = format!("the stream is damaged or cut off: {error}");
        broken(Fault::Stream, format!("{name}:{line}"), reason)
    };
    let mut lines = match unpack(reader, pack) {
        Ok(stream) => BufReader::with_capacity(1 << 17, stream),
        Err(error) => return sink(cut_off(1, error)),
    };
    let mut buffer = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        let place = || format!("{name}:{number}");
        match next_line(&mut lines, &mut buffer) {
            Err(error) => return sink(cut_off(number, error)),
            Ok(Line::End) => return Ok(()),
            Ok(Line::TooLong) => {
                sink(broken(Fault::Record, place(), format!("the line is longer than {MAX_LINE} bytes")))?;
            }
            Ok(Line::Whole) if buffer.iter().all(u8::is_ascii_whitespace) => {}
            Ok(Line::Whole) => match parse(&buffer, fields) {
                Ok((text, id)) => sink(Item::Document(Document {
                    id: id.unwrap_or_else(|| Document::derived_id(name, &text)),
                    text,
                    source: name.to_string(),
                    domain: String::new(),
                    provenance: place(),
                }))?,
                Err(reason) => sink(broken(Fault::Record, place(), reason))?,
            },
        }
    }
}

enum Line {
    Whole,
    TooLong,
    End,
}

fn next_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>) -> io::Result<Line> {
    buffer.clear();
    let mut any = false;
    let mut long = false;
    loop {
        let chunk = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        if chunk.is_empty() {
            return Ok(if long {
                Line::TooLong
            } else if any {
                Line::Whole
            } else {
                Line::End
            });
        }
        any = true;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let content = &chunk[..end.unwrap_or(chunk.len())];
        if buffer.len() + content.len() > MAX_LINE {
            long = true;
            buffer.clear();
        } else if !long {
            buffer.extend_from_slice(content);
        }
        let used = end.map_or(chunk.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(if long { Line::TooLong } else { Line::Whole });
        }
    }
}

/// Text and id of one line, or why it has none.
fn parse(line: &[u8], fields: Fields<'_>) -> Result<(String, Option<String>), String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to()))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let record = Record { fields }.deserialize(&mut json).and_then(|record| json.end().map(|()| record));
    let (text, id) = record.map_err(|error| format!("not a JSON record: {error}"))?;
    match text {
        Some(Scalar::Text(text)) => Ok((text, id.and_then(Scalar::into_id))),
        Some(_) => Err(format!("field `{}` is no text", fields.text)),
        None => Err(format!("no field `{}`", fields.text)),
    }
}

enum Scalar {
    Text(String),
    Number(String),
    Other,
}

impl Scalar {
    fn into_id(self) -> Option<String> {
        match self {
            Scalar::Text(text) | Scalar::Number(text) => Some(text),
            Scalar::Other => None,
        }
    }
}

/// Takes two fields of an object and passes over the others without building them.
struct Record<'a> {
    fields: Fields<'a>,
}

impl<'de> DeserializeSeed<'de> for Record<'_> {
    type Value = (Option<Scalar>, Option<Scalar>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Record<'_> {
    type Value = (Option<Scalar>, Option<Scalar>);

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut text, mut id) = (None, None);
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if key.0 == self.fields.text {
                text = Some(map.next_value::<Scalar>()?);
            } else if key.0 == self.fields.id {
                id = Some(map.next_value::<Scalar>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((text, id))
    }
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("any value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(text.to_string()))
            }
            fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
                Ok(Scalar::Text(text))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(number.to_string()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FIELDS: Fields<'static> = Fields { text: "text", id: "id" };

    fn items(bytes: &[u8], pack: Pack) -> Vec<Item> {
        let mut items = Vec::new();
        read_lines("f", bytes, pack, FIELDS, &mut |item| {
            items.push(item);
            Ok(())
        })
        .unwrap();
        items
    }

    fn told(item: &Item) -> String {
        match item {
            Item::Document(document) => format!("{} {} {}", document.provenance, document.id, document.text),
            Item::Broken(broken) => format!("{} {:?} {}", broken.place, broken.fault, broken.reason),
        }
    }

    #[test]
    fn each_broken_line_has_its_place_and_the_rest_is_read() {
        let bytes = b"{\"id\":7,\"text\":\"a\\u00e9\",\"x\":{\"text\":[1]}}\n\nnope\n{\"id\":1}\n{\"text\":3}\n{\"text\":\"\xff\"}\n[]\n{\"text\":\"b\"} x\n{\"te\\u0078t\":\"last\",\"id\":\"i\"}";
        let told: Vec<String> = items(bytes, Pack::None).iter().map(told).collect();
        assert_eq!(told[0], "f:1 7 aé");
        assert!(told[1].starts_with("f:3 Record not a JSON record"), "{}", told[1]);
        assert_eq!(told[2], "f:4 Record no field `text`");
        assert_eq!(told[3], "f:5 Record field `text` is no text");
        assert_eq!(told[4], "f:6 Record invalid UTF-8 at byte 9");
        assert!(told[5].starts_with("f:7 Record not a JSON record"), "{}", told[5]);
        assert!(told[6].starts_with("f:8 Record not a JSON record: trailing"), "{}", told[6]);
        assert_eq!(told[7], "f:9 i last");
        assert_eq!(told.len(), 8);
    }

    #[test]
    fn a_stream_that_is_cut_off_is_told_once_after_what_it_held() {
        let lines: Vec<String> = (0..20_000).map(|n| format!("{{\"text\":\"line {}\"}}\n", n * 7919 % 10007)).collect();
        let lines = lines.concat();
        let zstd = zstd::encode_all(lines.as_bytes(), 3).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(lines.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        for (packed, pack) in [(zstd, Pack::Zstd), (gzip, Pack::Gzip)] {
            assert_eq!(items(&packed, pack).len(), 20_000);
            let cut = items(&packed[..packed.len() / 2], pack);
            let streams = cut.iter().filter(|item| matches!(item, Item::Broken(b) if b.fault == Fault::Stream)).count();
            assert_eq!(streams, 1, "{pack:?}");
            assert!(matches!(cut.last(), Some(Item::Broken(_))));
            assert!(items(b"not packed at all", pack).len() == 1);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for pack in [Pack::None, Pack::Gzip, Pack::Zstd] {
                items(&bytes, pack);
            }
        }
    }
}
