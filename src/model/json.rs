//! Documents of JSON whose objects have each key once, and that are not too large in memory. The parsers that make messages
//! of them take the last of several keys, and a person who wrote one twice would not learn that the first was dropped.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Reads any JSON and keeps nothing; fails where an object has a key twice.
#[derive(Clone, Copy, Debug)]
pub struct Once<'a> {
    /// How many more entries there may be; `None`: any number.
    left: Option<&'a Cell<usize>>,
}

/// The most entries of one list of a document that others send.
const LIST_ENTRIES_MAX: usize = 10_000;
/// The most entries of all its lists and objects.
const ENTRIES_MAX: usize = 400_000;

/// Reads a document that others send as [`Once`] does; fails too where it has more entries than there should be memory for.
pub fn check<'de, D: Deserializer<'de>>(document: D) -> Result<(), D::Error> {
    Once { left: Some(&Cell::new(ENTRIES_MAX)) }.deserialize(document)
}

impl Once<'_> {
    /// Reads documents of any size.
    pub fn unbounded() -> Once<'static> {
        Once { left: None }
    }

    fn entry<E: serde::de::Error>(self) -> Result<(), E> {
        let Some(left) = self.left else { return Ok(()) };
        let now = left.get().checked_sub(1).ok_or_else(|| E::custom("there are too many entries in the document"))?;
        left.set(now);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Once<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut count = 0;
        while items.next_element_seed(self)?.is_some() {
            self.entry()?;
            count += 1;
            if count > LIST_ENTRIES_MAX && self.left.is_some() {
                return Err(A::Error::custom(format!("the list has more than {LIST_ENTRIES_MAX} entries")));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if keys.contains(&key) {
                // As an error of the value, so that the path names the key.
                return map.next_value_seed(Twice);
            }
            self.entry()?;
            keys.insert(key);
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// The value of a key that stands there a second time.
struct Twice;

impl<'de> DeserializeSeed<'de> for Twice {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(D::Error::custom("the key is given twice"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_others_have_a_bound_before_they_have_memory() {
        let bounded = |text: &str| check(&mut serde_json::Deserializer::from_str(text)).map_err(|it| it.to_string());
        let list = |item: &str, count| format!("[{}]", vec![item; count].join(","));
        assert_eq!(bounded(&list("{}", LIST_ENTRIES_MAX)), Ok(()));
        let long = list("{}", LIST_ENTRIES_MAX + 1);
        assert!(bounded(&long).unwrap_err().contains("more than 10000 entries"));
        let nested = list(&list("1", 100), ENTRIES_MAX / 100);
        assert!(bounded(&nested).unwrap_err().contains("too many entries"));
        assert!(Once::unbounded().deserialize(&mut serde_json::Deserializer::from_str(&long)).is_ok());
    }
}
