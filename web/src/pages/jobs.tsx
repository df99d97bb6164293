// The list of jobs: found, looked over, and steered, one or many at a time.
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { bulk, control, filterOfIds } from "../core/bulk";
import { JobAction, type Job } from "../core/contract";
import { count, plural } from "../core/format";
import { JobList } from "../core/joblist";
import { focusedRow, useKeys } from "../core/keys";
import { tell } from "../core/notice";
import { filterOf, isFiltered, readQuery, type JobsQuery } from "../core/query";
import { whyNot } from "../core/roles";
import { go, place, setQuery } from "../core/router";
import { onlyOf } from "../core/selection";
import { canPause } from "../core/words";
import { Button, ButtonLink, Empty, ErrorBox, Heading, Skeleton } from "../ui/bits";
import { Icon } from "../ui/icons";
import { FirstRun } from "./first-run";
import { JobRow } from "./job-row";
import { JobsFilter } from "./jobs-filter";
import { useReady } from "./ready";

const ACTIONS: [JobAction, string, string][] = [
  [JobAction.PAUSE, "Pause", "bulk-pause"],
  [JobAction.RESUME, "Resume", "bulk-resume"],
  [JobAction.CANCEL, "Cancel…", "bulk-cancel"],
  [JobAction.RETRY, "Retry…", "bulk-retry"],
  [JobAction.DELETE, "Delete…", "bulk-delete"],
];

export function JobsPage() {
  const text = place.value.query.toString();
  const query = useMemo(() => readQuery(new URLSearchParams(text)), [text]);
  return <List query={query} />;
}

function List({ query }: { query: JobsQuery }) {
  const list = useMemo(() => new JobList(query), [query]);
  // Until the jobs of other conditions are there, those of the last ones stay.
  const before = useRef<Job[] | null>(null);
  const selected = useSignal<ReadonlySet<string>>(new Set());
  const isAll = useSignal(false);
  useEffect(() => {
    list.start();
    return () => list.stop();
  }, [list]);
  // Both before the browser draws: a key that comes after it selects for the rows that are in sight.
  useLayoutEffect(() => {
    selected.value = new Set();
    isAll.value = false;
  }, [list]);
  useLayoutEffect(() => {
    if (list.rows.value === null || !selected.peek().size) return;
    const there = new Set(list.rows.value.map((it) => it.jobId).filter((id) => !list.gone.value.has(id)));
    selected.value = onlyOf(selected.peek(), there);
  }, [list.rows.value, list.gone.value]);

  const isKnown = list.rows.value !== null;
  if (isKnown || list.fault.value) before.current = list.rows.value;
  const rows = before.current;
  useReady(isKnown || list.fault.value !== null);

  const select = (id: string, isOn: boolean) => {
    const next = new Set(selected.value);
    if (isOn) next.add(id);
    else next.delete(id);
    selected.value = next;
    isAll.value = false;
  };
  const chosen = (): string[] => {
    if (selected.value.size) return [...selected.value];
    const id = focusedRow()?.dataset.row;
    return id ? [id] : [];
  };
  const act = async (action: JobAction) => {
    const no = whyNot.control();
    if (no) return tell(`${no}.`, true);
    const filter = isAll.value ? filterOf(query) : filterOfIds(chosen());
    if (!isAll.value && !filter.jobIds.length) return;
    if (await control(action, filter)) {
      selected.value = new Set();
      isAll.value = false;
    }
  };

  useKeys(
    {
      x: () => {
        const id = focusedRow()?.dataset.row;
        if (id) select(id, !selected.value.has(id));
      },
      p: () => {
        const job = list.rows.peek()?.find((it) => it.jobId === chosen()[0]);
        void act(job && !canPause(job.state) ? JobAction.RESUME : JobAction.PAUSE);
      },
      c: () => void act(JobAction.CANCEL),
      r: () => void act(JobAction.RETRY),
      f: () => {
        const id = focusedRow()?.dataset.row;
        if (id) go(`/jobs/${id}/failures`);
      },
      Escape: () => (selected.value = new Set()),
    },
    [list],
  );

  const isFirstRun = isKnown && rows?.length === 0 && !isFiltered(query) && !list.next.value && !list.news.value && !query.isByEnd;
  return (
    <>
      <div class="page-head">
        <Heading title="Jobs" />
        {list.news.value > 0 && (
          <button type="button" class="button news" data-testid="jobs-new" data-count={list.news.value} onClick={() => void list.load()}>
            <Icon name="up" />
            <span>{count(list.news.value)} new</span>
          </button>
        )}
        <ButtonLink hook="submit-open" icon="plus" kind="primary" no={whyNot.submit()} isLast to="/submit">
          Submit
        </ButtonLink>
      </div>
      {!isFirstRun && <JobsFilter query={query} />}
      {list.fault.value && <ErrorBox fault={list.fault.value} again={() => void list.load()} />}
      {!rows && !list.fault.value && <Skeleton lines={10} />}
      {isFirstRun && <FirstRun />}
      {rows?.length === 0 && !isFirstRun && <None query={query} list={list} />}
      {rows && rows.length > 0 && (
        <>
          <Selection rows={rows} list={list} query={query} selected={selected.value} isAll={isAll.value} act={act} setAll={(it) => (isAll.value = it)} clear={() => ((selected.value = new Set()), (isAll.value = false))} />
          <Table list={list} rows={rows} selected={selected.value} isAll={isAll.value} select={select} setSelected={(ids) => ((selected.value = ids), (isAll.value = false))} isByEnd={query.isByEnd} />
          <Foot list={list} />
        </>
      )}
    </>
  );
}

interface SelectionProps {
  rows: Job[];
  list: JobList;
  query: JobsQuery;
  selected: ReadonlySet<string>;
  isAll: boolean;
  act: (action: JobAction) => Promise<void>;
  setAll: (isAll: boolean) => void;
  clear: () => void;
}

function Selection({ rows, list, query, selected, isAll, act, setAll, clear }: SelectionProps) {
  const result = bulk.value;
  if (!selected.size && !isAll) {
    return result && (
      <div class="selection result" data-testid="bulk-result" role="status">
        <span>{result.text}</span>
        {result.failed[0] && <span class="bad-text">{result.failed[0].message}</span>}
        <Button kind="quiet" icon="close" label="Dismiss" onClick={() => (bulk.value = null)} />
      </div>
    );
  }
  const isWholePage = selected.size === rows.length && (list.next.value !== "" || list.news.value > 0);
  return (
    <div class="selection" data-testid="selection" data-count={isAll ? "all" : selected.size}>
      <span class="selection-count">{isAll ? `All that ${isFiltered(query) ? "match" : "there are"}` : `${count(selected.size)} selected`}</span>
      {!isAll && isWholePage && (
        <button type="button" class="link" data-testid="select-matching" onClick={() => setAll(true)}>
          {isFiltered(query) ? "Select all that match" : "Select all jobs"}
        </button>
      )}
      <div class="selection-actions">
        {ACTIONS.map(([action, label, hook]) => (
          <Button key={hook} hook={hook} off={result !== null && !result.isDone} no={whyNot.control()} kind={action === JobAction.DELETE ? "danger" : undefined} onClick={() => void act(action)}>
            {label}
          </Button>
        ))}
        <Button kind="quiet" icon="close" label="Clear the selection" onClick={clear} />
      </div>
    </div>
  );
}

interface TableProps {
  list: JobList;
  rows: Job[];
  selected: ReadonlySet<string>;
  isAll: boolean;
  isByEnd: boolean;
  select: (id: string, isOn: boolean) => void;
  setSelected: (ids: ReadonlySet<string>) => void;
}

function Table({ list, rows, selected, isAll, select, setSelected, isByEnd }: TableProps) {
  const present = rows.filter((it) => !list.gone.value.has(it.jobId));
  const isWhole = isAll || (present.length > 0 && selected.size === present.length);
  return (
    <div class="sheet">
      <table class="table jobs" data-testid="jobs-table" aria-label="Jobs" aria-rowcount={list.next.value ? -1 : rows.length + 1}>
        <thead>
          <tr aria-rowindex={1}>
            <th class="c-select">
              <label class="tick">
                <input type="checkbox" data-testid="select-all" aria-label="Select all rows" checked={isWhole} onChange={(event) => setSelected(new Set(event.currentTarget.checked ? present.map((it) => it.jobId) : []))} />
              </label>
            </th>
            <th class="c-state">State</th>
            <th class="c-title">Job</th>
            <th class="c-progress">Progress</th>
            <th class="c-counts num">Tasks</th>
            <th class="c-failed num">Failed</th>
            <th class="c-rate num">Rate</th>
            <th class="c-left num">Time</th>
            <th class="c-time num">{isByEnd ? "Ended" : "Created"}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((job, at) => (
            <JobRow key={job.jobId} job={job} at={at} isByEnd={isByEnd} isGone={list.gone.value.has(job.jobId)} isSelected={isAll || selected.has(job.jobId)} select={select} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Foot({ list }: { list: JobList }) {
  const rows = list.rows.value ?? [];
  return (
    <div class="foot">
      <span class="muted">{list.next.value ? `The ${plural(rows.length, "job")} shown so far` : plural(rows.length, "job")}</span>
      {list.next.value && !list.examined.value && (
        <Button hook="jobs-more" busy={list.isLoading.value} onClick={() => void list.load(true)}>
          Show more
        </Button>
      )}
      {list.examined.value > 0 && <Further list={list} />}
    </div>
  );
}

function Further({ list }: { list: JobList }) {
  return (
    <>
      <span class="muted">Looked at {count(list.examined.value)} jobs so far.</span>
      <Button hook="jobs-further" busy={list.isLoading.value} onClick={() => void list.load(true)}>
        Look further
      </Button>
    </>
  );
}

function None({ query, list }: { query: JobsQuery; list: JobList }) {
  const parts = [
    query.search && `“${query.search}”`,
    query.states.length && `state ${query.states.join(" or ")}`,
    Object.keys(query.labels).length && `label ${Object.entries(query.labels).map((it) => it.join("=")).join(", ")}`,
    query.since && `since ${query.since}`,
    query.isByEnd && "ended jobs",
  ].filter(Boolean);
  return (
    <Empty hook="jobs-none" title="No job matches">
      <p class="muted">Looked for {parts.join(" · ")}.</p>
      {list.next.value ? <Further list={list} /> : <Button onClick={() => setQuery({ search: "", state: "", label: "", since: "", order: "" })}>Clear the filters</Button>}
    </Empty>
  );
}
