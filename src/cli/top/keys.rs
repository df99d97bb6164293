//! The keys of `haul top`, which are those of the dashboard where it has the same. Pure: what a terminal sends comes in.

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    /// So many rows down; up where it is negative.
    Rows(i64),
    /// As [`Key::Rows`], in screens.
    Screens(i64),
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
}

/// What the help lists.
pub(super) const HELP: &[(&str, &str)] = &[
    ("j k", "row down, row up; the arrows, PgUp, PgDn, Home and End too"),
    ("Enter", "open the row"),
    ("u", "back to the list"),
    ("g j, g h", "jobs, hosts"),
    ("Tab", "the next view of the list"),
    ("/", "search"),
    ("x", "select the job"),
    ("p", "pause or resume; on a host, end its pause"),
    ("c", "cancel, after a question"),
    ("r", "retry what failed or was cancelled"),
    ("f", "failures"),
    (".", "pause updates"),
    ("Esc", "close, clear the search and the selection"),
    ("?", "this help"),
    ("q", "quit"),
];

/// Reads the keys of what a terminal sent in one piece. Sequences of other keys are passed over.
pub(super) fn read(bytes: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(bytes);
    let (mut keys, mut rest) = (Vec::new(), text.as_ref());
    while let Some(letter) = rest.chars().next() {
        let length = match (letter, rest[letter.len_utf8()..].chars().next()) {
            ('\x1b', Some('[' | 'O')) => {
                // It ends with a letter or `~`; what was cut off before that is no key.
                let body = &rest[2..];
                let end = body.find(|end: char| ('@'..='~').contains(&end)).map_or(body.len(), |end| end + 1);
                keys.extend(sequence(&body[..end]));
                2 + end
            }
            // Alt with a key.
            ('\x1b', Some(other)) if other != '\x1b' => 1 + other.len_utf8(),
            _ => {
                keys.extend(single(letter));
                letter.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    keys
}

fn single(letter: char) -> Option<Key> {
    Some(match letter {
        '\r' | '\n' => Key::Enter,
        '\t' => Key::Tab,
        '\x1b' => Key::Escape,
        '\x03' => Key::Interrupt,
        '\x08' | '\x7f' => Key::Backspace,
        char::REPLACEMENT_CHARACTER => return None,
        letter if letter.is_control() => return None,
        letter => Key::Char(letter),
    })
}

/// The key of a sequence, without what introduced it.
fn sequence(body: &str) -> Option<Key> {
    Some(match body {
        "A" => Key::Rows(-1),
        "B" => Key::Rows(1),
        "5~" => Key::Screens(-1),
        "6~" => Key::Screens(1),
        "H" | "1~" | "7~" => Key::Home,
        "F" | "4~" | "8~" => Key::End,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_terminals_send_is_read() {
        for (sent, keys) in [
            (&b"jk"[..], &[Key::Char('j'), Key::Char('k')][..]),
            (b"\x1b[A\x1bOB\r", &[Key::Rows(-1), Key::Rows(1), Key::Enter]),
            (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", &[Key::Screens(-1), Key::Screens(1), Key::Home, Key::End]),
            (b"\x1b", &[Key::Escape]),
            (b"\x1b\x1b[B", &[Key::Escape, Key::Rows(1)]),
            (b"\x1bq\x1b[1;5Cq", &[Key::Char('q')]),
            (b"\x03\t\x7f", &[Key::Interrupt, Key::Tab, Key::Backspace]),
            ("é日".as_bytes(), &[Key::Char('é'), Key::Char('日')]),
            (b"\x1b[", &[]),
            (b"\xff\x01", &[]),
        ] {
            assert_eq!(read(sent), keys, "{sent:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            read(&bytes);
        }
    }
}
