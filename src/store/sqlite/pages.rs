//! Pages of fetches. Their heads are small and lie together; the bytes are apart, so that a listing does not read them.

use crate::model::ids::TaskId;
use crate::store::sqlite::columns::blob;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::insert::{Insert, Values};
use crate::store::sqlite::numbers::Numbers;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::rows::job_no;
use crate::store::sqlite::script::Script;
use crate::store::sqlite::sealed::{self, Place};
use crate::store::sqlite::text::Text;
use crate::store::{Content, NewPage, PageHead, StoreError};
use crate::vault::Vault;

static PAGES: Insert = Insert::new("pages (task, page, first_item, items, bytes, next, sealed, file, body)", 9, "");
static BODIES: Insert = Insert::new("bodies (id, data)", 2, "");

pub(super) async fn insert(
    script: &mut Script<'_>,
    numbers: &mut Numbers,
    vault: &Vault,
    pages: &[NewPage],
) -> Result<(), Fault> {
    let mut bodies = Vec::new();
    let mut heads = Vec::with_capacity(pages.len());
    for page in pages {
        let (bytes, file, body) = match &page.content {
            Content::Inline(data) if data.is_empty() => (0, None, None),
            Content::Inline(data) => {
                let id = numbers.new_body();
                bodies.push((id, data));
                (data.len() as u64, None, Some(id))
            }
            Content::File { name, bytes } => (*bytes, Some(name.as_str()), None),
        };
        heads.push((page, bytes, file, body));
    }
    script.insert(&BODIES, &bodies, |row, (id, data)| row.add(*id)?.add(data.to_vec()).map(drop), None).await?;
    let bind = |row: &mut Values, (page, bytes, file, body): &(&NewPage, u64, Option<&str>, Option<i64>)| {
        row.add(numbers.task(page.id)?)?.add(i64::from(page.page))?.add(page.first_item as i64)?;
        let place = Place::Page(page.id.job, page.id.index, page.page);
        let (next, bag) = sealed::next(vault, place, page.next.as_deref())?;
        row.add(page.items as i64)?.add(*bytes as i64)?.add(next)?.add(bag)?.add(*file)?;
        row.add(*body).map(drop)
    };
    script.insert(&PAGES, &heads, bind, None).await
}

/// Removes all pages of tasks.
pub(super) async fn drop_all(script: &mut Script<'_>, numbers: &Numbers, tasks: &[TaskId]) -> Result<(), Fault> {
    for id in tasks {
        let task = numbers.task(*id)?;
        let bodies = "DELETE FROM bodies WHERE id IN (SELECT body FROM pages WHERE task = ?1 AND body IS NOT NULL)";
        for sql in [bodies, "DELETE FROM pages WHERE task = ?1"] {
            sqlx::query(sql).bind(task).execute(script.conn().await?).await?;
        }
    }
    Ok(())
}

/// Whoever has stored a page of a listing has made progress: crashes of the server before are not held against it.
pub(super) fn note_progress(script: &mut Script<'_>, numbers: &Numbers, pages: &[NewPage]) -> Result<(), Fault> {
    let of_listings = pages.iter().filter(|page| page.next.is_some());
    let tasks: Vec<i64> = of_listings.map(|page| numbers.task(page.id)).collect::<Result<_, _>>()?;
    if tasks.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE claims SET crashes = 0 WHERE id IN (SELECT value FROM json_each(?)) AND crashes > 0";
    script.statement(sql, serde_json::to_string(&tasks)?)
}

/// Page, first item, items, bytes, next, bag.
type HeadRow = (u32, i64, i64, i64, Option<Text>, Option<Vec<u8>>);

fn head(vault: &Vault, id: TaskId, row: HeadRow) -> Result<PageHead, StoreError> {
    let (page, first_item, items, bytes, next, bag) = row;
    let place = Place::Page(id.job, id.index, page);
    let next = next.map(|next| next.string(format_args!("{place:?}"))).transpose()?;
    let next = sealed::whole_next(vault, place, next, bag.as_deref())?;
    Ok(PageHead { page, first_item: first_item as u64, items: items as u64, bytes: bytes as u64, next })
}

/// Heads of the task `?1`, `?2`.
macro_rules! heads_where {
    ($rest:literal) => {
        concat!(
            "SELECT page, first_item, items, bytes, next, sealed FROM pages WHERE task = ((",
            job_no!(),
            " << 32) | ?2) ",
            $rest
        )
    };
}

pub(super) async fn heads(reader: &Reader, id: TaskId, from: u32, limit: u32) -> Result<Vec<PageHead>, StoreError> {
    let sql = heads_where!("AND page >= ?3 ORDER BY page LIMIT ?4 + 0");
    let found: Vec<HeadRow> =
        reader.all(Ask::new(sql).bind(blob(id.job)).bind(id.index).bind(from).bind(limit)).await?;
    found.into_iter().map(|row| head(&reader.vault, id, row)).collect()
}

/// From the end backwards: a reader that follows a fetch asks for one of the last pages.
pub(super) async fn of_item(reader: &Reader, id: TaskId, item: u64) -> Result<Option<PageHead>, StoreError> {
    let sql = heads_where!("AND first_item <= ?3 ORDER BY page DESC LIMIT 1");
    let item = i64::try_from(item).unwrap_or(i64::MAX);
    let found: Option<HeadRow> = reader.first(Ask::new(sql).bind(blob(id.job)).bind(id.index).bind(item)).await?;
    found.map(|row| head(&reader.vault, id, row)).transpose()
}

pub(super) async fn last(reader: &Reader, id: TaskId) -> Result<Option<PageHead>, StoreError> {
    let sql = heads_where!("ORDER BY page DESC LIMIT 1");
    let found: Option<HeadRow> = reader.first(Ask::new(sql).bind(blob(id.job)).bind(id.index)).await?;
    found.map(|row| head(&reader.vault, id, row)).transpose()
}

pub(super) async fn content(reader: &Reader, id: TaskId, page: u32) -> Result<Option<Content>, StoreError> {
    let sql = concat!(
        "SELECT p.bytes, p.file, b.data FROM pages p LEFT JOIN bodies b ON b.id = p.body WHERE p.task = ((",
        job_no!(),
        " << 32) | ?2) AND p.page = ?3"
    );
    let found: Option<(i64, Option<Text>, Option<Vec<u8>>)> =
        reader.first(Ask::new(sql).bind(blob(id.job)).bind(id.index).bind(page)).await?;
    let Some((bytes, file, data)) = found else { return Ok(None) };
    Ok(Some(match file {
        Some(name) => {
            let name = name.string(format_args!("{:?}", Place::Page(id.job, id.index, page)))?;
            Content::File { name, bytes: bytes as u64 }
        }
        None => Content::Inline(data.unwrap_or_default().into()),
    }))
}
