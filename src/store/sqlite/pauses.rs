//! Pauses of hosts. All of them are in memory, so they are read once, at the start.

use sqlx::SqliteConnection;

use crate::model::host::Host;
use crate::model::pause::{HostPause, PauseCause, PauseChange, PauseKey};
use crate::model::tenant::TenantNo;
use crate::model::time::Timestamp;
use crate::store::StoreError;
use crate::store::sqlite::errors::Fault;
use crate::store::sqlite::lines::opened;
use crate::store::sqlite::reader::{Ask, Reader};
use crate::store::sqlite::text::Text;

/// Tenant, host, cause, time, end, failures, reason.
type Row = (TenantNo, Text, i64, i64, i64, u32, Text);

fn number_of(cause: PauseCause) -> i64 {
    match cause {
        PauseCause::Asked => 1,
        PauseCause::Failures => 2,
    }
}

/// Stores pauses, and removes those that are over.
pub(super) async fn write(conn: &mut SqliteConnection, changes: &[PauseChange]) -> Result<(), Fault> {
    for (PauseKey { tenant, host, cause }, pause) in changes {
        let Some(pause) = pause else {
            let sql = "DELETE FROM host_pauses WHERE tenant = ?1 AND host = ?2 AND cause = ?3";
            sqlx::query(sql).bind(tenant).bind(host.as_str()).bind(number_of(*cause)).execute(&mut *conn).await?;
            continue;
        };
        let sql = "REPLACE INTO host_pauses (tenant, host, cause, time, until, failures, reason) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = sqlx::query(sql).bind(tenant).bind(host.as_str()).bind(number_of(*cause));
        let row = row.bind(pause.time.0).bind(pause.until.0).bind(pause.failures).bind(&pause.reason);
        row.execute(&mut *conn).await?;
    }
    Ok(())
}

/// Reads all pauses, those first that were begun first.
pub(super) async fn all(reader: &Reader) -> Result<Vec<(PauseKey, HostPause)>, StoreError> {
    // A number that is damaged is taken for what it is most like, or for none: the pause of a row fails no other.
    let sql = "SELECT tenant, CAST(host AS TEXT), CAST(cause AS INTEGER), CAST(time AS INTEGER), CAST(until AS INTEGER), \
               min(max(CAST(failures AS INTEGER), 0), 4294967295), CAST(reason AS TEXT) FROM host_pauses \
               WHERE typeof(tenant) = 'integer' AND tenant BETWEEN 0 AND 4294967295 ORDER BY time, tenant, host, cause";
    let rows: Vec<Row> = reader.all(Ask::new(sql)).await?;
    let read = |(tenant, host, cause, time, until, failures, reason): Row| {
        let cause = [PauseCause::Asked, PauseCause::Failures].into_iter().find(|it| number_of(*it) == cause)?;
        Some(host.string("host of a pause").map(|host| {
            let key = PauseKey { tenant, host: Host::new(&host), cause };
            // The reason is for people: a pause whose reason is damaged is one all the same.
            let reason = reason.shown();
            (key, HostPause { time: Timestamp(time), until: Timestamp(until), failures, reason })
        }))
    };
    // Of a kind that this binary does not know none is written by it.
    Ok(opened(rows.into_iter().filter_map(read)))
}
