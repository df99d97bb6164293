//! What holds between the rows of a data directory, as `haul check` asks for it.

/// What is wrong when the query returns a row: how to say it, and the query. Its one column is a text that names a row.
/// Jobs that are being removed are left out, since parts of them are gone.
#[rustfmt::skip]
pub(super) const RULES: &[(&str, &str)] = &[
    ("has another number of tasks than its total says",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN (SELECT id >> 32 AS no, count(*) AS n FROM tasks GROUP BY 1) t \
      ON t.no = j.no WHERE j.deleted = 0 AND j.total <> coalesce(t.n, 0)"),
    ("has counts that its tasks do not have",
     "WITH moved AS (SELECT s.id >> 32 AS no, sum(s.state = 3 AND c.id IS NULL) AS backing_off, sum(s.state = 4) AS succeeded, \
      sum(s.state = 5) AS failed, sum(s.state = 6) AS cancelled FROM task_states s LEFT JOIN claims c ON c.id = s.id GROUP BY 1), \
      running AS (SELECT id >> 32 AS no, count(*) AS n FROM claims GROUP BY 1) \
      SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN moved m ON m.no = j.no LEFT JOIN running r ON r.no = j.no \
      WHERE j.deleted = 0 AND CASE WHEN json_valid(j.moving) THEN (coalesce(j.moving ->> '$.counts.running', 0), coalesce(j.moving ->> '$.counts.backing_off', 0), \
      coalesce(j.moving ->> '$.counts.succeeded', 0), coalesce(j.moving ->> '$.counts.failed', 0), \
      coalesce(j.moving ->> '$.counts.cancelled', 0)) <> (coalesce(r.n, 0), coalesce(m.backing_off, 0), \
      coalesce(m.succeeded, 0), coalesce(m.failed, 0), coalesce(m.cancelled, 0)) END"),
    ("has a gap in its events, or another number of them than its sequence says",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j LEFT JOIN (SELECT id >> 32 AS no, count(*) AS n, \
      max(id & 4294967295) AS last FROM events GROUP BY 1) e ON e.no = j.no WHERE j.deleted = 0 \
      AND CASE WHEN json_valid(j.moving) THEN coalesce(e.n, 0) <> coalesce(j.moving ->> '$.sequence', -1) \
      OR coalesce(e.last, 0) <> coalesce(j.moving ->> '$.sequence', -1) END"),
    ("stores another number of bytes than its jobs",
     "SELECT 'tenant ' || tenant FROM (SELECT tenant, stored FROM tenant_usage UNION ALL SELECT tenant, -sum(stored) FROM jobs \
      GROUP BY tenant) GROUP BY tenant HAVING sum(stored) <> 0"),
    ("has no spec",
     "SELECT 'job ' || lower(hex(id)) FROM jobs WHERE no NOT IN (SELECT job FROM job_specs)"),
    ("is neither there nor deleted", "SELECT 'job ' || lower(hex(id)) FROM jobs WHERE deleted NOT IN (0, 1)"),
    ("has ended without a time of its end, or has one and has not ended",
     "SELECT 'job ' || lower(hex(id)) FROM jobs WHERE deleted = 0 AND (state > 4) <> (end_time IS NOT NULL)"),
    ("has ended, and not all of its tasks have",
     "SELECT 'job ' || lower(hex(id)) FROM jobs WHERE deleted = 0 AND state > 4 AND CASE WHEN json_valid(moving) THEN \
      total <> coalesce(moving ->> '$.counts.succeeded', 0) + coalesce(moving ->> '$.counts.failed', 0) \
      + coalesce(moving ->> '$.counts.cancelled', 0) END"),
    ("has ended, and tasks of it run",
     "SELECT 'job ' || lower(hex(j.id)) FROM jobs j WHERE j.state > 4 AND EXISTS \
      (SELECT 1 FROM claims c WHERE c.id BETWEEN (j.no << 32) AND ((j.no << 32) | 4294967295))"),
    ("has no job", "SELECT 'spec ' || job FROM job_specs WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'label ' || key || '=' || value FROM job_labels WHERE id NOT IN (SELECT id FROM jobs)"),
    ("has no job", "SELECT 'request of job number ' || job FROM requests WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'chunk of job number ' || job FROM chunks WHERE job NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'shared error ' || id FROM shared_errors WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'lane ' || id FROM lanes WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'task ' || id FROM tasks WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'event ' || id FROM events WHERE id >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no job", "SELECT 'page of task ' || task FROM pages WHERE task >> 32 NOT IN (SELECT no FROM jobs)"),
    ("has no lane",
     "SELECT 'task ' || t.id FROM tasks t CROSS JOIN jobs j ON j.no = t.id >> 32 \
      WHERE j.deleted = 0 AND t.lane NOT IN (SELECT id FROM lanes)"),
    ("has no task", "SELECT 'claim ' || id FROM claims WHERE id NOT IN (SELECT id FROM tasks)"),
    ("has no task", "SELECT 'state ' || id FROM task_states WHERE id NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'old state ' || o.id FROM old_states o CROSS JOIN jobs j ON j.no = o.id >> 32 \
      WHERE j.deleted = 0 AND o.id NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'key of job number ' || k.job FROM task_keys k CROSS JOIN jobs j ON j.no = k.job \
      WHERE j.deleted = 0 AND k.task NOT IN (SELECT id FROM tasks)"),
    ("has no task",
     "SELECT 'event ' || e.id FROM events e WHERE e.kind = 1 AND (e.id >> 32 << 32) + e.task NOT IN (SELECT id FROM tasks)"),
    ("has no task", "SELECT 'page of task ' || task FROM pages WHERE task NOT IN (SELECT id FROM tasks)"),
    ("has an error that is not there",
     "SELECT 'state ' || s.id FROM task_states s WHERE typeof(s.error) = 'integer' \
      AND (s.id >> 32 << 32) + s.error NOT IN (SELECT id FROM shared_errors)"),
    ("is PENDING before the head of its lane",
     "SELECT 'task ' || t.id FROM lanes l CROSS JOIN tasks t INDEXED BY tasks_lane ON t.lane = l.id \
      AND t.id < (l.id >> 32 << 32) + l.head CROSS JOIN jobs j ON j.no = l.id >> 32 \
      LEFT JOIN task_states s ON s.id = t.id LEFT JOIN claims c ON c.id = t.id \
      WHERE j.deleted = 0 AND c.id IS NULL AND (s.id IS NULL OR s.state = 1)"),
    ("is BACKING_OFF and is never due", "SELECT 'state ' || id FROM task_states WHERE state = 3 AND due IS NULL"),
    ("has ended without a time of its end", "SELECT 'state ' || id FROM task_states WHERE state > 3 AND end_time IS NULL"),
    ("has succeeded without a result", "SELECT 'state ' || id FROM task_states WHERE state = 4 AND outcome IS NULL"),
    ("cannot be shown",
     "SELECT 'event ' || (e.id & 4294967295) || ' of job ' || lower(hex(j.id)) FROM events e CROSS JOIN jobs j ON j.no = e.id >> 32 \
      WHERE j.deleted = 0 AND (typeof(e.time) <> 'integer' OR CASE e.kind WHEN 1 THEN e.task IS NULL WHEN 2 THEN e.snapshot IS NULL \
      WHEN 3 THEN e.snapshot IS NULL ELSE 1 END)"),
    ("has a gap in its pages",
     "SELECT 'task ' || p.task FROM pages p CROSS JOIN jobs j ON j.no = p.task >> 32 WHERE j.deleted = 0 \
      GROUP BY p.task HAVING count(*) <> max(p.page) + 1"),
    ("has a body of another size",
     "SELECT 'page of task ' || p.task FROM pages p CROSS JOIN bodies b ON b.id = p.body WHERE p.bytes <> octet_length(b.data)"),
    ("has a body that is not there",
     "SELECT 'page of task ' || task FROM pages WHERE body IS NOT NULL AND body NOT IN (SELECT id FROM bodies)"),
    ("belongs to no page",
     "SELECT 'body ' || id FROM bodies WHERE id NOT IN (SELECT body FROM pages WHERE body IS NOT NULL)"),
    ("has a digest that is none",
     "SELECT 'request of job number ' || job FROM requests WHERE octet_length(digest) NOT IN (32, 33)"),
    ("has a digest that is none",
     "SELECT 'chunk of job number ' || job FROM chunks WHERE octet_length(digest) NOT IN (32, 33)"),
    ("is not there, and no start can do without",
     "SELECT 'data key for purpose ' || column1 FROM (VALUES (1), (2)) WHERE EXISTS (SELECT 1 FROM data_keys) \
      AND column1 NOT IN (SELECT purpose FROM data_keys)"),
    ("is sealed with a key that is not there",
     "SELECT 'spec ' || job FROM job_specs WHERE octet_length(sealed) > 0 \
      AND hex(substr(sealed, 2, 4)) NOT IN (SELECT printf('%08X', id) FROM data_keys)"),
    ("is sealed with a key that is not there",
     "SELECT 'task ' || id FROM tasks WHERE octet_length(sealed) > 0 \
      AND hex(substr(sealed, 2, 4)) NOT IN (SELECT printf('%08X', id) FROM data_keys)"),
    ("is sealed with a key that is not there",
     "SELECT 'page of task ' || task FROM pages WHERE octet_length(sealed) > 0 \
      AND hex(substr(sealed, 2, 4)) NOT IN (SELECT printf('%08X', id) FROM data_keys)"),
    ("cannot be read",
     "SELECT 'row ' || seq || ' of the audit' FROM audit WHERE typeof(time) <> 'integer' OR octet_length(chain) <> 32"),
];
