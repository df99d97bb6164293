//! Lists that a server answers page by page.

use tonic::Status;

use crate::cli::client::Client;

/// The most entries of a page that a server sends.
const PAGE_MAX: usize = 1000;

/// Reads the first `limit` entries of a list (0: all of them), and whether there are more. `ask` calls for a page of a size,
/// from a token on, and returns its entries and the token of the next.
pub(crate) async fn read<T>(
    client: &Client,
    limit: usize,
    mut ask: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Status>,
) -> anyhow::Result<(Vec<T>, bool)> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let asked = ask(page_size(limit, all.len()), token).await;
        let (page, next) = asked.map_err(|status| client.explain(&status))?;
        all.extend(page);
        if next.is_empty() || is_enough(limit, all.len()) {
            return Ok((all, !next.is_empty()));
        }
        token = next;
    }
}

/// The size of the next page of a list that has so many entries already.
pub(crate) fn page_size(limit: usize, have: usize) -> i32 {
    let wanted = if limit == 0 { PAGE_MAX } else { limit.saturating_sub(have).min(PAGE_MAX) };
    i32::try_from(wanted).unwrap_or(i32::MAX)
}

/// Whether a list has as many entries as were asked for.
pub(crate) fn is_enough(limit: usize, have: usize) -> bool {
    limit > 0 && have >= limit
}
