//! A request whose response is kept, and a listing that goes on over many.

use serde::{Deserialize, Serialize};

use crate::model::failure::is_default;

/// An HTTP request whose response is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FetchSpec {
    /// http or https, checked at the edge.
    pub url: String,
    /// Empty: GET.
    #[serde(skip_serializing_if = "is_default")]
    pub method: String,
    /// The request's body.
    #[serde(skip_serializing_if = "is_default", with = "base64_text")]
    pub body: Vec<u8>,
    /// `None`: [`FetchSpec::RESPONSE_BYTES_DEFAULT`].
    #[serde(skip_serializing_if = "is_default")]
    pub max_response_bytes: Option<u64>,
    /// Statuses that count as success, both ends included. Empty: 200 to 299.
    #[serde(skip_serializing_if = "is_default")]
    pub accept_statuses: Vec<(u16, u16)>,
    /// The body must be JSON.
    #[serde(skip_serializing_if = "is_default")]
    pub expect_json: bool,
    /// Follow a listing over many pages.
    #[serde(skip_serializing_if = "is_default")]
    pub pagination: Option<Pagination>,
}

impl FetchSpec {
    /// How much of a response is kept when nothing is said: 1 MiB.
    pub const RESPONSE_BYTES_DEFAULT: u64 = 1 << 20;
    /// The most that may be asked for, since a page of JSON is held in memory: 64 MiB.
    pub const RESPONSE_BYTES_MAX: u64 = 64 << 20;

    /// The limit that is in force.
    pub fn response_bytes_max(&self) -> u64 {
        self.max_response_bytes.unwrap_or(Self::RESPONSE_BYTES_DEFAULT)
    }

    /// Whether a status counts as success.
    pub fn accepts(&self, status: u16) -> bool {
        if self.accept_statuses.is_empty() {
            return (200..300).contains(&status);
        }
        self.accept_statuses.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

/// How a listing goes on from page to page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pagination {
    /// Where the next page is.
    pub style: PageStyle,
    /// JSON Pointer (RFC 6901) to the items; empty: the whole page.
    #[serde(default, skip_serializing_if = "is_default")]
    pub items_pointer: String,
    /// 0: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_pages: u32,
    /// 0: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_items: u64,
}

impl Pagination {
    /// The memory beside the struct itself, in bytes, roughly.
    pub(super) fn memory_bytes(&self) -> usize {
        let style = match &self.style {
            PageStyle::LinkHeader => 0,
            PageStyle::PageNumber { param, size_param: other, .. }
            | PageStyle::Offset { param, limit_param: other, .. }
            | PageStyle::Cursor { param, next_pointer: other } => param.len() + other.len(),
            PageStyle::NextUrl { next_pointer } => next_pointer.len(),
        };
        self.items_pointer.len() + style
    }
}

/// Where the next page of a listing is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageStyle {
    /// The `Link` header with `rel="next"` (RFC 8288).
    LinkHeader,
    /// A query parameter that counts pages.
    PageNumber {
        /// Its name.
        param: String,
        /// The number of the first page.
        first: u64,
        /// The parameter for the page's size; empty: none.
        size_param: String,
        /// The page's size.
        size: u64,
    },
    /// A query parameter that counts items.
    Offset {
        /// Its name.
        param: String,
        /// The parameter for the page's size; empty: none.
        limit_param: String,
        /// The page's size.
        limit: u64,
    },
    /// A query parameter with an opaque value from the page before.
    Cursor {
        /// Its name.
        param: String,
        /// JSON Pointer to the next value.
        next_pointer: String,
    },
    /// A page that says where the next one is.
    NextUrl {
        /// JSON Pointer to the next URL.
        next_pointer: String,
    },
}

/// Bytes as base64 text: 4 characters for 3 bytes, where JSON's array of numbers takes up to 4 for each.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_stored_as_base64() {
        let spec = FetchSpec { body: vec![0, 255, 10, 34], ..FetchSpec::default() };
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"url":"","body":"AP8KIg=="}"#);
        assert_eq!(serde_json::from_str::<FetchSpec>(&json).unwrap(), spec);
    }
}
