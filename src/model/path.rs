//! Paths that clients give, judged as text: which of them can name a file below the download root.

use crate::model::text::is_misleading;

/// The longest name that common file systems take, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest path, in bytes: a directory and a path of 1,024 bytes each, and the slash between them. Linux takes 4,096
/// with the root in front of it.
pub const PATH_BYTES_MAX: usize = 2_049;
/// The prefix of part files and of what belongs to them.
pub const OWN_PREFIX: &str = ".haul-";

/// Device names of Windows, which shared and synced directories cannot hold; with any extension too.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// Returns why a relative path cannot be used, as the rest of a sentence about it; `None` when it can.
///
/// What links make of it is judged when it is opened.
pub fn objection(path: &str) -> Option<&'static str> {
    if path.len() > PATH_BYTES_MAX {
        return Some("is longer than 2,049 bytes");
    }
    if path.starts_with('/') {
        return Some("is absolute, and only relative paths are accepted");
    }
    path.split('/').find_map(|name| match name {
        "" => Some("has an empty part"),
        "." | ".." => Some("has a part that is `.` or `..`"),
        _ if name.len() > NAME_BYTES_MAX => Some("has a part of more than 255 bytes"),
        _ if name.chars().any(is_misleading) => Some("has a control, format or line separator character"),
        _ if is_own(name) => Some("has a part that begins with `.haul-`, which is for files of the server's own"),
        _ if is_device(name) => Some("has a part that is a reserved device name"),
        _ => None,
    })
}

/// Returns whether a name begins as those of the server's own files do, in any case of letters: there are file systems for
/// which these are one name.
pub fn is_own(name: &str) -> bool {
    name.get(..OWN_PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(OWN_PREFIX))
}

/// Returns whether a name is that of a device on Windows.
pub fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end();
    let numbered = |prefix: &str| {
        let rest = stem.get(..3).filter(|head| head.eq_ignore_ascii_case(prefix)).and(stem.get(3..));
        let mut digits = rest.unwrap_or_default().chars();
        let is_digit = digits.next().is_some_and(|digit| digit.is_ascii_digit() || matches!(digit, '¹' | '²' | '³'));
        is_digit && digits.next().is_none()
    };
    DEVICES.iter().any(|device| stem.eq_ignore_ascii_case(device)) || numbered("com") || numbered("lpt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_name_a_file_is_refused_with_the_reason() {
        let (long_part, long_path) = ("x".repeat(256), "x/".repeat(1_100) + "x");
        for (path, why) in [
            ("/etc/x", "absolute"),
            ("a//b", "empty"),
            ("a/", "empty"),
            ("", "empty"),
            ("./a", "`.`"),
            ("a/../b", "`..`"),
            ("tab\there", "control"),
            ("gnp\u{202e}.exe", "format"),
            ("a\u{2028}b", "separator"),
            ("sub/NUL.txt", "device"),
            ("lpt1 .x", "device"),
            (".haul-x.part", ".haul-"),
            (".HAUL-tenants/b", ".haul-"),
            ("a/.Haul-x", ".haul-"),
            (&long_part, "255"),
            (&long_path, "2,049"),
        ] {
            assert!(objection(path).is_some_and(|it| it.contains(why)), "{path:?} {:?}", objection(path));
        }
        for good in ["a", "a/b.txt", "console", "com10", ".hidden", "name .", "München/日本.bin"] {
            assert_eq!(objection(good), None, "{good}");
        }
    }
}
