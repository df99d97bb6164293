//! Reads every row of a database as the server reads it, and says which cannot be read.
//!
//! Rows of jobs come a page at a time, as all of them do; what is text alone is looked at where it has more than ASCII in it,
//! since only that can be damaged so that it cannot be read. Bags stay closed: their key may be elsewhere.

use futures_util::TryStreamExt as _;
use serde::de::{DeserializeOwned, IgnoredAny};
use sqlx::{AssertSqlSafe, SqliteConnection};
use uuid::Uuid;

use crate::model::access::{Principal, Token};
use crate::model::audit::AuditRow;
use crate::model::bag::BadBag;
use crate::model::failure::TaskError;
use crate::model::host::Host;
use crate::model::ids::TaskIndex;
use crate::model::job::Job;
use crate::model::limits::LimitsPatch;
use crate::model::tenant::Tenant;
use crate::store::sqlite::expiry;
use crate::store::sqlite::lines::{Page, judge, page_of, value};
use crate::store::sqlite::rows::{
    JobLine, StateLine, TaskLine, job_text, state_or_null, state_text, task_bytes, task_text,
};
use crate::store::sqlite::text::Text;
use crate::store::sqlite::upkeep;

/// Rows of a page.
const ROWS_MAX: u32 = 4096;

/// Findings of one kind that are told.
const TOLD_MAX: usize = 20;

/// What is found of one kind.
#[derive(Default)]
struct Findings {
    told: Vec<String>,
    more: u64,
}

impl Findings {
    fn add(&mut self, what: impl FnOnce() -> String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what());
        } else {
            self.more += 1;
        }
    }

    fn into_sentences(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("and {} more of that kind", self.more));
        }
        self.told
    }
}

/// A row of something of a job: its key, the id of the job, its place in the job, and what it is.
type Row<L> = (i64, IgnoredAny, TaskIndex, L);

/// A job and its lanes.
type Whole = (JobLine, Vec<(Host, TaskIndex)>);

/// Rows that a page is made of: what they are called, `id` and `bytes` of those behind the key `?1`, a line, and what it is of.
struct Kind {
    what: &'static str,
    places: &'static str,
    line: &'static str,
    rest: &'static str,
}

/// What stands of `$t` behind the key `?1`, of jobs that are not being removed.
macro_rules! behind {
    ($bytes:expr, $from:literal, $t:literal) => {
        concat!(
            "SELECT ",
            $t,
            ".id AS id, ",
            $bytes,
            " AS bytes FROM ",
            $from,
            " CROSS JOIN jobs j ON j.no = ",
            $t,
            ".id >> 32 AND j.deleted = 0 WHERE ",
            $t,
            ".id > ?1"
        )
    };
}

const JOBS: Kind = Kind {
    what: "job",
    places: "SELECT j.no AS id, octet_length(j.moving) + octet_length(p.spec) + coalesce(2 * octet_length(p.sealed), 0) \
             + coalesce((SELECT sum(octet_length(l.host) + 8) FROM lanes l WHERE l.id BETWEEN (j.no << 32) \
             AND ((j.no << 32) | 4294967295)), 0) AS bytes FROM jobs j CROSS JOIN job_specs p ON p.job = j.no \
             WHERE j.no > ?1 AND j.deleted = 0",
    line: concat!(
        "concat('[', ",
        job_text!(),
        ", ',[', (SELECT group_concat(l.line, ',') FROM (SELECT json_array(host, head) AS line FROM lanes \
         WHERE id BETWEEN (w.id << 32) AND ((w.id << 32) | 4294967295) ORDER BY id) l), ']]')"
    ),
    rest: "CROSS JOIN jobs j ON j.no = w.id CROSS JOIN job_specs p ON p.job = w.id",
};
const TASKS: Kind = Kind {
    what: "task",
    places: behind!(task_bytes!("s.log"), "tasks t LEFT JOIN task_states s ON s.id = t.id", "t"),
    line: task_text!("s.log"),
    rest: "CROSS JOIN tasks t ON t.id = w.id CROSS JOIN jobs j ON j.no = w.id >> 32 \
           LEFT JOIN task_states s ON s.id = w.id LEFT JOIN claims c ON c.id = w.id",
};
const OLD_STATES: Kind = Kind {
    what: "old state of task",
    places: concat!(
        behind!("sum(coalesce(octet_length(o.error), 0) + coalesce(octet_length(o.outcome), 0))", "old_states o", "o"),
        " GROUP BY o.id"
    ),
    line: concat!(
        "'[' || (SELECT group_concat(",
        state_text!("o", "NULL"),
        ", ',') FROM old_states o WHERE o.id = w.id) || ']'"
    ),
    rest: "CROSS JOIN jobs j ON j.no = w.id >> 32",
};
const ERRORS: Kind = Kind {
    what: "shared error",
    places: behind!("octet_length(x.error)", "shared_errors x", "x"),
    line: "x.error",
    rest: "CROSS JOIN shared_errors x ON x.id = w.id CROSS JOIN jobs j ON j.no = w.id >> 32",
};
const EVENTS: Kind = Kind {
    what: "event",
    places: concat!(behind!("octet_length(e.snapshot)", "events e", "e"), " AND e.snapshot IS NOT NULL"),
    line: "e.snapshot",
    rest: "CROSS JOIN events e ON e.id = w.id CROSS JOIN jobs j ON j.no = w.id >> 32",
};

/// Texts that are no JSON: what a row is called, and its columns.
const TEXTS: &[(&str, &str, &[&str])] = &[
    ("'setting ' || key", "settings", &["key", "value"]),
    ("'label of job ' || lower(hex(id))", "job_labels", &["key", "value"]),
    ("'request of job number ' || job", "requests", &["id"]),
    ("'chunk of job number ' || job", "chunks", &["id"]),
    ("'key of task ' || (task & 4294967295) || ' of job number ' || job", "task_keys", &["key"]),
    (
        "'page ' || page || ' of task ' || (task & 4294967295) || ' of job number ' || (task >> 32)",
        "pages",
        &["next", "file"],
    ),
    ("'credential of tenant number ' || tenant", "credentials", &["name"]),
    ("'pause of a host of tenant number ' || tenant", "host_pauses", &["host", "reason"]),
    ("'token with hash ' || hex(hash)", "tokens", &["id"]),
];

/// Returns what cannot be read, in sentences.
pub(super) async fn illegible(conn: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let no_bag = |is: bool| is.then(|| BadBag.to_string());
    let mut found = rows::<Whole>(conn, &JOBS, |it| no_bag(it.0.lacks_bag())).await?;
    found.extend(rows::<TaskLine>(conn, &TASKS, |it| no_bag(it.lacks_bag())).await?);
    found.extend(rows::<Vec<StateLine>>(conn, &OLD_STATES, |_| None).await?);
    found.extend(rows::<TaskError>(conn, &ERRORS, |_| None).await?);
    found.extend(rows::<Job>(conn, &EVENTS, |_| None).await?);
    for (name, table, columns) in TEXTS {
        for column in *columns {
            // Whatever is no UTF-8 has a byte beyond ASCII.
            let sql = format!(
                "SELECT {name}, CAST({column} AS BLOB) FROM {table} WHERE {column} GLOB '*[^ -~]*' OR instr({column}, char(0))"
            );
            found.extend(texts(conn, sql, is_text).await?);
        }
    }
    let json = "SELECT 'principal number ' || no, CAST(row AS BLOB) FROM principals";
    found.extend(texts(conn, json, parses::<Principal>).await?);
    let json = "SELECT 'tenant number ' || no, CAST(row AS BLOB) FROM tenants";
    found.extend(texts(conn, json, parses::<Tenant>).await?);
    let json = "SELECT 'token with hash ' || hex(hash), CAST(row AS BLOB) FROM tokens";
    found.extend(texts(conn, json, parses::<Token>).await?);
    let json = "SELECT 'row ' || seq || ' of the audit', CAST(row AS BLOB) FROM audit";
    found.extend(texts(conn, json, parses::<AuditRow>).await?);
    let json = "SELECT 'setting ' || key, CAST(value AS BLOB) FROM settings WHERE key = 'limits'";
    found.extend(texts(conn, json, parses::<LimitsPatch>).await?);
    let json = "SELECT 'setting ' || key, CAST(value AS BLOB) FROM settings WHERE key = 'sealing'";
    found.extend(texts(conn, json, parses::<upkeep::Progress>).await?);
    let json = "SELECT 'setting ' || key, CAST(value AS BLOB) FROM settings WHERE key = 'secrets_erased'";
    found.extend(texts(conn, json, parses::<expiry::Progress>).await?);
    Ok(found)
}

/// Reads all rows of a kind; `is_wrong` says what is wrong with one that parses.
async fn rows<L: DeserializeOwned>(
    conn: &mut SqliteConnection,
    Kind { what, places, line, rest }: &Kind,
    is_wrong: impl Fn(&L) -> Option<String>,
) -> Result<Vec<String>, sqlx::Error> {
    let places = format!("{places} ORDER BY id LIMIT {ROWS_MAX}");
    let line = format!("concat('[', w.id, ',\"', hex(j.id), '\",', w.id & 4294967295, ',', {line}, ']')");
    let sql = page_of(&places, &line, rest, "");
    let mut found = Findings::default();
    let mut after = -1_i64;
    loop {
        let page: (Text, bool) = sqlx::query_as(AssertSqlSafe(sql.clone())).bind(after).fetch_one(&mut *conn).await?;
        let page = Page { text: page.0, is_cut: page.1 };
        let is_wrong = |(.., row): &Row<L>| is_wrong(row);
        let tell = |[_, job, place]: [&str; 3], why: String| {
            let job = Uuid::parse_str(job).map_or_else(|_| job.to_owned(), |id| id.to_string());
            found.add(|| match *what {
                "job" => format!("job {job} cannot be read: {why}"),
                what => format!("{what} {place} of job {job} cannot be read: {why}"),
            });
        };
        let (count, last) = judge::<Row<L>, 3>(page.text.as_ref(), is_wrong, tell);
        let last = last.filter(|_| page.is_full(count, ROWS_MAX)).and_then(|[key, ..]| key.parse().ok());
        match last {
            Some(last) if last > after => after = last,
            _ => return Ok(found.into_sentences()),
        }
    }
}

/// Reads texts with the names of their rows.
async fn texts(
    conn: &mut SqliteConnection,
    sql: impl Into<String>,
    read: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Vec<String>, sqlx::Error> {
    let (sql, mut found): (String, _) = (sql.into(), Findings::default());
    let mut rows = sqlx::query_as::<_, (Text, Text)>(AssertSqlSafe(sql)).fetch(conn);
    while let Some((name, text)) = rows.try_next().await? {
        if let Err(error) = read(text.as_ref()) {
            found.add(|| format!("{} cannot be read: {error}", name.shown()));
        }
    }
    Ok(found.into_sentences())
}

fn parses<T: DeserializeOwned>(text: &[u8]) -> Result<(), String> {
    value::<T>(text).map(drop)
}

fn is_text(text: &[u8]) -> Result<(), String> {
    std::str::from_utf8(text).map(drop).map_err(|error| error.to_string())
}
