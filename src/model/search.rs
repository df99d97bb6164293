//! A text that is looked for: plain data, and where it is found.

/// A text that is looked for. Letters of ASCII are found in any case, and no character has a meaning of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search(String);

impl Search {
    /// Looks for `text`; an empty one is everywhere.
    pub fn new(text: &str) -> Search {
        Search(text.to_ascii_lowercase())
    }

    /// Returns whether it is everywhere.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text, its ASCII letters in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether it is in `text`.
    pub fn is_in(&self, text: &str) -> bool {
        text.to_ascii_lowercase().contains(&self.0)
    }

    /// Returns whether `text`, which is of lower case, begins with it.
    pub fn begins(&self, text: &str) -> bool {
        text.starts_with(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_ascii_are_found_in_any_case_and_signs_mean_themselves() {
        for (search, text, is_in) in [
            ("", "x", true),
            ("MIRROR", "nightly mirror", true),
            ("Ü", "ü", false),
            ("ü", "früh", true),
            ("50%", "at 50%", true),
            ("5_", "50", false),
            ("%", "x", false),
        ] {
            assert_eq!(Search::new(search).is_in(text), is_in, "{search} in {text}");
        }
    }
}
