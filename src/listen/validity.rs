//! When a certificate or a list of revoked ones ends: what the libraries of TLS know of them and do not tell.

use crate::model::time::Timestamp;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version of a certificate, which those of the first version leave out.
const VERSION: u8 = 0xa0;

/// Returns when a certificate ends (RFC 5280, 4.1.2.5); `None` where it cannot be read.
pub(super) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (body, _) = expect(SEQUENCE, certificate)?;
    let (mut body, _) = expect(SEQUENCE, body)?;
    if body.first() == Some(&VERSION) {
        (_, _, body) = element(body)?;
    }
    // The serial number, the algorithm, and who issued it.
    for _ in 0..3 {
        (_, _, body) = element(body)?;
    }
    let (validity, _) = expect(SEQUENCE, body)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    time_of(tag, time)
}

/// Returns when a list of revoked certificates should be replaced by a newer one (RFC 5280, 5.1.2.5); `None` where that cannot
/// be read.
pub(super) fn next_update(list: &[u8]) -> Option<Timestamp> {
    let (body, _) = expect(SEQUENCE, list)?;
    let (mut body, _) = expect(SEQUENCE, body)?;
    // Those of the first version do not say so.
    if body.first() == Some(&INTEGER) {
        (_, _, body) = element(body)?;
    }
    // The algorithm, who issued it, and when.
    for _ in 0..3 {
        (_, _, body) = element(body)?;
    }
    let (tag, time, _) = element(body)?;
    time_of(tag, time)
}

fn expect(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Splits the first element of DER off: its tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, mut bytes) = bytes.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let digits = bytes.get(..count)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        bytes = &bytes[count..];
    }
    let content = bytes.get(..length)?;
    Some((tag, content, &bytes[length..]))
}

/// Reads `YYMMDDHHMMSSZ` and `YYYYMMDDHHMMSSZ`.
fn time_of(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let years = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    let number = |from: usize, digits: usize| text.get(from..from + digits)?.parse::<i64>().ok();
    let year = match (tag, number(0, years)?) {
        (UTC_TIME, year) if year < 50 => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(years + at, 2));
    let (month, day) = (month?, day?);
    if text.len() != years + 10 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour? * 3_600 + minute? * 60 + second?;
    Some(Timestamp(seconds * 1_000_000).min(Timestamp::MAX))
}

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar, whose years are counted from March here, so that
/// the day of a leap year is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyIdMethod,
        KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;

    #[test]
    fn the_end_is_read_in_both_forms_and_nothing_is_read_from_what_is_cut() {
        let key = KeyPair::generate().unwrap();
        for (year, month, day, seconds) in [
            (1999, 12, 31, 946_598_400),
            (2000, 2, 29, 951_782_400),
            (2049, 12, 31, 2_524_521_600_i64),
            (2050, 1, 1, 2_524_608_000),
            (2120, 3, 1, 4_738_694_400),
        ] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(1990, 1, 1), date_time_ymd(year, month, day));
            let certificate = params.self_signed(&key).unwrap();
            let bytes: &[u8] = certificate.der();
            assert_eq!(not_after(bytes), Some(Timestamp(seconds * 1_000_000)), "{year}");
            for length in 0..bytes.len() {
                // It must only not panic.
                let _ = not_after(&bytes[..length]);
                assert_eq!(not_after(&bytes[..length]).filter(|_| length < 60), None);
            }
        }
        assert_eq!(time_of(UTC_TIME, b"260230"), None);
        assert_eq!(time_of(UTC_TIME, b"2613300000000Z"), None);
    }

    #[test]
    fn the_end_of_a_list_is_read() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        for (year, seconds) in [(2049, 2_493_072_000_i64), (2051, 2_556_144_000)] {
            let params = CertificateRevocationListParams {
                this_update: date_time_ymd(2020, 1, 1),
                next_update: date_time_ymd(year, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let list = params.signed_by(&issuer).unwrap();
            let bytes: &[u8] = list.der();
            assert_eq!(next_update(bytes), Some(Timestamp(seconds * 1_000_000)), "{year}");
            for length in 0..bytes.len() {
                // It must only not panic.
                let _ = next_update(&bytes[..length]);
            }
        }
    }
}
