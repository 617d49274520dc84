//! What a plain scalar means: the core schema of YAML 1.2, with digits grouped by `_`.

use std::borrow::Cow;

use super::node::Value;
use crate::units::decimal;

/// A plain scalar by the core schema; none for a number that is not finite.
pub(super) fn resolve(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
            if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
                return None;
            }
            if let Some(whole) = radix(text) {
                return Some(Value::Int(whole));
            }
            // The core schema also takes `.5` and `5.`.
            let padded = match unsigned.strip_prefix('.') {
                Some(_) => format!("{}0{unsigned}", if text.starts_with('-') { "-" } else { "" }).into(),
                None => match text.strip_suffix('.') {
                    Some(whole) => Cow::from(format!("{whole}.0")),
                    None => Cow::from(text),
                },
            };
            let Some(number) = decimal(&padded).filter(|number| number.rest.is_empty()) else {
                // Either text, or a number with more digits than exact arithmetic holds: then the nearest float.
                return if is_long_number(&padded) { finite(&padded) } else { Some(Value::Str(text.to_owned())) };
            };
            match number.whole(1) {
                Ok(whole) if (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&whole) => Value::Int(whole),
                _ => return finite(&padded.replace('_', "")),
            }
        }
    })
}

fn finite(text: &str) -> Option<Value> {
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::Float)
}

fn is_long_number(text: &str) -> bool {
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    text.len() >= 20 && text.bytes().all(numeric) && text.parse::<f64>().is_ok()
}

fn radix(text: &str) -> Option<i128> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) => (digits, 8),
        _ => return None,
    };
    let fine = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    fine.then(|| u64::from_str_radix(digits, radix).ok()).flatten().map(i128::from)
}
