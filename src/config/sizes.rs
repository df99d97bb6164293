//! Sizes in bytes as people write them.

/// Reads a size: a number, or one with a unit of 1024 (`10MiB`, `10M`, `512k`).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write it like `500000`, `512k` or `10MiB`");
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
    if let (0, Ok(count)) = (power, number.parse()) {
        return Ok(count);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * 1024f64.powi(power);
    if value < u64::MAX as f64 { Ok(value as u64) } else { Err(wrong()) }
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
    }
}
