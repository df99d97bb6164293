//! Ports that HTTP is not spoken at.
//!
//! A request has a body, and lines of it are commands to a mail server, a database or a printer. Browsers therefore refuse
//! the ports of such services, and so does haul: web servers are not found there.

/// The ports that browsers refuse (<https://fetch.spec.whatwg.org/#port-blocking>), without 0, which no URL may have.
const BLOCKED: [u16; 81] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
    6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697,
];
/// Ports that newer lists have, and databases that read lines of text.
const BLOCKED_TOO: [u16; 3] = [6379, 10080, 11211];

/// Returns whether a port is refused unless the operator allows it.
pub(super) fn is_blocked(port: u16) -> bool {
    BLOCKED.binary_search(&port).is_ok() || BLOCKED_TOO.contains(&port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_other_services_are_blocked_and_those_of_the_web_are_not() {
        assert!(BLOCKED.is_sorted());
        for port in [22, 25, 6000, 6379, 6697, 10080] {
            assert!(is_blocked(port), "{port}");
        }
        for port in [80, 81, 443, 3000, 4285, 5000, 5432, 8000, 8080, 8443, 9000, 65535] {
            assert!(!is_blocked(port), "{port}");
        }
    }
}
