//! What a person sees: lines with colours, tables that fit, bars that stay in their place.
//!
//! Everything that goes to a terminal is a [`line::Line`] and is written by [`screen`], which makes the text of others
//! harmless; a whole page goes through [`page`]. No other part of the command line writes to stdout or stderr.

pub(crate) mod bars;
pub(crate) mod fields;
pub(crate) mod line;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod words;
