//! Numbers of JSON, judged by their own text. A double holds 53 bits, so a reader that goes by way of one changes what is
//! larger or more precise, and nobody is told. Pure.

/// The parts of a number as JSON has it (RFC 8259, 6).
struct Parts<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
    /// Beyond 64 bits the least or the greatest.
    exponent: i64,
}

/// Returns the integer that a text says. `None`: it has a fraction, takes more than 128 bits, or is no number of JSON.
pub fn integer(text: &str) -> Option<i128> {
    let parts = parts(text)?;
    let (mut value, mut zeros) = (0_i128, 0_i64);
    for digit in parts.whole.bytes().chain(parts.fraction.bytes()).map(|byte| byte - b'0') {
        // Zeros are put in before the next digit: the last ones may stand behind the point, and the first ones say nothing.
        if digit == 0 {
            zeros += i64::from(value != 0);
        } else {
            value = value.checked_mul(power_of_ten(zeros + 1)?)?.checked_add(i128::from(digit))?;
            zeros = 0;
        }
    }
    if value == 0 {
        return Some(0);
    }
    let zeros = zeros.saturating_add(parts.exponent).saturating_sub(parts.fraction.len() as i64);
    let value = value.checked_mul(power_of_ten(zeros)?)?;
    Some(if parts.is_negative { -value } else { value })
}

/// Returns the double that is next to what a text says. `None`: all doubles are smaller, or it is no number of JSON.
pub fn double(text: &str) -> Option<f64> {
    parts(text)?;
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn power_of_ten(exponent: i64) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn parts(text: &str) -> Option<Parts<'_>> {
    let (is_negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, self::exponent(exponent)?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, digits(fraction)?),
        None => (mantissa, ""),
    };
    let is_padded = whole.len() > 1 && whole.starts_with('0');
    digits(whole).filter(|_| !is_padded).map(|whole| Parts { is_negative, whole, fraction, exponent })
}

fn exponent(text: &str) -> Option<i64> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let size = digits(unsigned)?
        .bytes()
        .fold(0_i64, |size, byte| size.saturating_mul(10).saturating_add(i64::from(byte - b'0')));
    Some(sign * size)
}

/// Returns a text that is digits, at least one.
fn digits(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_integer_is_exact_or_none() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("7", Some(7)),
            ("-7.00", Some(-7)),
            ("1e3", Some(1_000)),
            ("1E+3", Some(1_000)),
            ("1200e-2", Some(12)),
            ("0.5e1", Some(5)),
            ("0.000e99999999999999999999", Some(0)),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("18446744073709551616", Some(i128::from(u64::MAX) + 1)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("0.99999999999999999999", None),
            ("1e-400", None),
            ("1.5", None),
            ("15e-2", None),
            ("1e39", None),
            ("-1e99999999999999999999", None),
            ("1e-99999999999999999999", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
    }

    #[test]
    fn what_json_does_not_have_is_no_number() {
        for text in [
            "", "-", "+1", "01", "-01", "1.", ".5", "1.e3", "1e", "1e+", "1e1.0", "1e1e1", "1.0.0", " 1", "1 ",
            "1_000", "0x1", "NaN", "inf", "Infinity", "--1", "\u{661}",
        ] {
            assert_eq!((integer(text), double(text)), (None, None), "{text}");
        }
        assert_eq!(double("1e400"), None);
        assert_eq!(double("0.1"), Some(0.1));
        assert_eq!(double("1e-400"), Some(0.0));
    }

    /// What a number is when its point is moved by hand: the digits before the point and behind it.
    fn written_out(text: &str) -> (String, String) {
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let (mut before, mut behind): (Vec<char>, Vec<char>) = (whole.chars().collect(), fraction.chars().collect());
        for _ in 0..exponent.parse::<i32>().unwrap().abs() {
            if exponent.starts_with('-') {
                behind.insert(0, before.pop().unwrap_or('0'));
            } else {
                before.push(if behind.is_empty() { '0' } else { behind.remove(0) });
            }
        }
        (before.iter().collect(), behind.iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

        #[test]
        fn any_number_is_exactly_its_integer_or_none(
            text in "(0|[1-9][0-9]{0,24})(\\.(0{0,8}|[0-9]{1,12}0{0,4}))?(e[+-]?[0-9]{1,2})?".prop_filter("a point has digits behind it", |it| !it.ends_with('.') && !it.contains(".e")),
            is_negative: bool,
        ) {
            let (before, behind) = written_out(&text);
            let text = if is_negative { format!("-{text}") } else { text };
            let before = before.trim_start_matches('0');
            let expected = if before.is_empty() { Some(0) } else { before.parse::<i128>().ok() };
            let expected = expected.filter(|_| behind.bytes().all(|digit| digit == b'0'));
            prop_assert_eq!(integer(&text), expected.map(|it| if is_negative { -it } else { it }), "{}", text);
        }

        #[test]
        fn an_integer_is_the_same_however_it_is_written(number: i128, behind in 0_usize..20, zeros in 0_usize..20, shift in -20_i64..20) {
            // The point is moved to the left by some digits, and the exponent moves it back.
            let number = number >> (behind * 5);
            let digits = format!("{:0>width$}", number.unsigned_abs(), width = behind + 1);
            let (whole, fraction) = digits.split_at(digits.len() - behind);
            let sign = if number < 0 { "-" } else { "" };
            let text = format!("{sign}{whole}.{fraction}0{}e{behind}", "0".repeat(zeros));
            prop_assert_eq!(integer(&text), Some(number), "{}", text);
            // Another exponent is another number, which is an integer where it loses no digit.
            let moved = format!("{sign}{whole}.{fraction}0e{}", behind as i64 + shift);
            let ten = 10_i128.pow(shift.unsigned_abs() as u32);
            let expected = if shift >= 0 { number.checked_mul(ten) } else { Some(number / ten).filter(|_| number % ten == 0) };
            prop_assert_eq!(integer(&moved), expected, "{}", moved);
        }

        #[test]
        fn any_text_is_judged_as_json_judges_it(text in "[-+0-9.eE ]{0,12}") {
            let is_number = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok_and(|it| it.get() == text);
            prop_assert_eq!(parts(&text).is_some(), is_number, "{}", text);
        }
    }
}
