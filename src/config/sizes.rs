//! Sizes in bytes as people write them.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

use crate::model::text::shown;

/// Reads a size: a number, or one with a unit of 1024 (`10MiB`, `10M`, `512k`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{}` is not a size; write it like `500000`, `512k` or `10MiB`", shown(text));
    let too_large = || format!("`{}` is too large; the most are {} bytes", shown(text), u64::MAX);
    let at = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let power = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    if power == 0 && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) {
        return number.parse().map_err(|_| too_large());
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * 1024f64.powi(power);
    if value < u64::MAX as f64 { Ok(value as u64) } else { Err(too_large()) }
}

/// Reads a size of the settings file: a number, or a text as a flag has it.
pub(super) fn of_file<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size like `500000`, `\"512k\"` or `\"10MiB\"`")
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
            u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }

        fn visit_u64<E>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).map_err(E::custom)
        }
    }

    from.deserialize_any(Size).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let texts = ["0", "123", "1k", "1.5KiB", "10MB", "2 G", "18446744073709551615"];
        let read = [0, 123, 1024, 1536, 10 << 20, 2 << 30, u64::MAX];
        assert_eq!(texts.map(|text| parse_size(text).unwrap()), read);
        for text in ["", "k", "-1", "1x", "1.2.3", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["99999999999999999999", "99999999999T"] {
            assert!(parse_size(text).unwrap_err().contains("is too large"), "{text}");
        }
    }
}
