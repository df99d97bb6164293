//! What a parser says of a value of another type, in the words of all messages.

/// What types are called by parsers, and in messages.
const WORDS: [(&str, &str); 12] = [
    ("a boolean", "`true` or `false`"),
    ("a map", "a table"),
    ("map", "a table"),
    ("a sequence", "a list"),
    ("path string", "a string"),
    ("f64", "a number"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("i64", "a whole number from -9223372036854775808 to 9223372036854775807"),
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number from 0 to 18446744073709551615"),
];

/// Returns what a value must be, where the message of a parser is that it is something else. What was given is left out: it may be
/// a secret in the wrong place.
pub fn wanted(message: &str) -> Option<String> {
    // What is one of a few words may be a table to the parser, too.
    if message == "wanted string or table" {
        return Some("a string".to_owned());
    }
    let is_of_type = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    let (_, wanted) = message.rsplit_once(", expected ").filter(|_| is_of_type)?;
    let wanted = wanted.rsplit_once(" at line ").map_or(wanted, |(wanted, _)| wanted);
    if wanted.starts_with("struct ") {
        return Some("a table".to_owned());
    }
    let known = WORDS.iter().find(|(name, _)| *name == wanted);
    Some(known.map_or_else(|| wanted.to_owned(), |(_, word)| (*word).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_in_words() {
        for (message, word) in [
            ("invalid type: string \"a, expected u16\", expected u32", Some("a whole number from 0 to 4294967295")),
            ("invalid value: integer `-1`, expected u8", Some("a whole number from 0 to 255")),
            ("invalid type: null, expected a string at line 1 column 2", Some("a string")),
            ("invalid type: map, expected a time like `10s`", Some("a time like `10s`")),
            ("invalid type: integer `5`, expected struct TenantArgs", Some("a table")),
            ("expected value at line 1", None),
            ("unknown field `x`, expected `y`", None),
        ] {
            assert_eq!(wanted(message).as_deref(), word, "{message}");
        }
    }
}
