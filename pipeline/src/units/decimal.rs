//! Decimals as people write them, in exact arithmetic.

/// A decimal as written, `mantissa × 10^exponent`, and what follows it.
pub(crate) struct Decimal<'a> {
    mantissa: u128,
    exponent: i64,
    negative: bool,
    /// The text after the number, without blanks around it.
    pub(crate) rest: &'a str,
}

/// The decimal at the start of a text; none where there is no number, or more than 36 significant digits.
pub(crate) fn decimal(text: &str) -> Option<Decimal<'_>> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, after) = digits(body)?;
    let (part, after) = match after.strip_prefix('.') {
        Some(after) => digits(after)?,
        None => ("", after),
    };
    let (power, after) = match after.strip_prefix(['e', 'E']) {
        Some(after) => {
            let (sign, after) = match after.strip_prefix('-') {
                Some(after) => (-1, after),
                None => (1, after.strip_prefix('+').unwrap_or(after)),
            };
            let (power, after) = digits(after)?;
            // Beyond four digits no power fits any quantity.
            (
                sign * power
                    .replace('_', "")
                    .trim_start_matches('0')
                    .parse::<i64>()
                    .or_else(|error| empty(power, error))
                    .ok()?
                    .min(9999),
                after,
            )
        }
        None => (0, after),
    };
    let mut mantissa = 0_u128;
    for digit in whole.bytes().chain(part.bytes()).filter(u8::is_ascii_digit) {
        mantissa = mantissa.checked_mul(10)?.checked_add(u128::from(digit - b'0'))?;
    }
    let places = part.bytes().filter(u8::is_ascii_digit).count() as i64;
    Some(Decimal { mantissa, exponent: power - places, negative, rest: after.trim() })
}

/// "000" has no digit left once its zeros are trimmed, and is nought all the same.
fn empty(power: &str, error: std::num::ParseIntError) -> Result<i64, std::num::ParseIntError> {
    if power.bytes().all(|b| b == b'0' || b == b'_') { Ok(0) } else { Err(error) }
}

/// Digits with single `_` between them, and the rest of the text.
fn digits(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'_').unwrap_or(text.len());
    let (found, rest) = text.split_at(end);
    let fine =
        found.bytes().next().is_some_and(|b| b.is_ascii_digit()) && !found.ends_with('_') && !found.contains("__");
    fine.then_some((found, rest))
}

/// Why [`Decimal::whole`] has no answer.
pub(crate) enum Inexact {
    /// The number is not whole.
    Fraction,
    /// The number does not fit.
    Range,
}

impl Decimal<'_> {
    /// The number times `factor`, if it is whole.
    pub(crate) fn whole(&self, factor: u128) -> Result<i128, Inexact> {
        if self.mantissa == 0 {
            return Ok(0);
        }
        let mut value = self.mantissa.checked_mul(factor).ok_or(Inexact::Range)?;
        for _ in 0..self.exponent.max(0) {
            value = value.checked_mul(10).ok_or(Inexact::Range)?;
        }
        for _ in self.exponent.min(0)..0 {
            if value % 10 != 0 {
                return Err(Inexact::Fraction);
            }
            value /= 10;
        }
        let value = i128::try_from(value).map_err(|_| Inexact::Range)?;
        Ok(if self.negative { -value } else { value })
    }
}
