//! Texts about hosts, as they are kept.

/// Bytes that are kept of a text about a host, so that memory stays bounded whatever origins and resolvers say.
const TEXT_BYTES_MAX: usize = 300;

/// Returns the beginning of `text`, at most [`TEXT_BYTES_MAX`] bytes of it.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}
