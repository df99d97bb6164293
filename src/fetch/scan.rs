//! One pass through a JSON text, for two places in it: how many items are at one, and what value is at the other.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::fetch::mark::Mark;

/// What was found on the way.
#[derive(Default)]
pub(super) struct Found<'de> {
    pub(super) items: Items,
    pub(super) next: Option<&'de RawValue>,
}

/// What is where the items should be.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Items {
    #[default]
    Missing,
    NotAList,
    /// A list of so many, with a fingerprint of them all, whatever stands between them. `null` is an empty one, as some languages
    /// write theirs.
    List(u64, Mark),
}

type Steps<'p> = &'p [Cow<'p, str>];

/// A value, and the steps from it to the two places; `None` where a place is not within it.
pub(super) struct Node<'p, 'o, 'de> {
    pub(super) items: Option<Steps<'p>>,
    pub(super) next: Option<Steps<'p>>,
    pub(super) found: &'o mut Found<'de>,
}

impl<'p> Node<'p, '_, '_> {
    /// Returns whether the items are to be this value.
    fn is_list(&self) -> bool {
        self.items.is_some_and(<[_]>::is_empty)
    }

    /// The steps behind one with this name.
    fn within(&self, name: &str) -> (Option<Steps<'p>>, Option<Steps<'p>>) {
        let behind =
            |steps: Option<Steps<'p>>| steps?.split_first().filter(|(step, _)| *step == name).map(|(_, rest)| rest);
        (behind(self.items), behind(self.next))
    }

    /// Takes a value for the items that is not a list.
    fn scalar(self) {
        if self.is_list() {
            self.found.items = Items::NotAList;
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match (self.items, self.next) {
            (None, None) => IgnoredAny::deserialize(deserializer).map(drop),
            (items, Some([])) => {
                let value: &RawValue = Deserialize::deserialize(deserializer)?;
                self.found.next = Some(value);
                if items.is_none() {
                    return Ok(());
                }
                // The one case in which something is read twice: the items are within the value that leads on.
                let node = Node { items, next: None, found: self.found };
                node.deserialize(&mut serde_json::Deserializer::from_str(value.get())).map_err(D::Error::custom)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let (items, next) = self.within(&key.0);
            // The last of several keys of one name counts, as for nearly every reader of JSON.
            if items.is_some() {
                self.found.items = Items::Missing;
            }
            if next.is_some() {
                self.found.next = None;
            }
            map.next_value_seed(Node { items, next, found: &mut *self.found })?;
        }
        self.scalar();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut count = 0;
        if self.is_list() && self.next.is_none() {
            let mut mark = Mark::default();
            while let Some(item) = list.next_element::<&RawValue>()? {
                mark = mark.and(item.get().as_bytes()).and(b",");
                count += 1;
            }
            self.found.items = Items::List(count, mark);
            return Ok(());
        }
        loop {
            // Indexes have no leading zeros (RFC 6901, section 4), so that they can be compared as text.
            let is_path = [self.items, self.next].into_iter().flatten().any(|steps| !steps.is_empty());
            let (items, next) = if is_path { self.within(&count.to_string()) } else { (None, None) };
            if list.next_element_seed(Node { items, next, found: &mut *self.found })?.is_none() {
                break;
            }
            count += 1;
        }
        if self.is_list() {
            self.found.items = Items::List(count, Mark::default());
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        if self.is_list() {
            self.found.items = Items::List(0, Mark::default());
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.scalar();
        Ok(())
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
