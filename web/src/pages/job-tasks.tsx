// The tasks of a job, by their places or as they match, a million of them if need be.
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { cancelTasks, retryNow, retryTasks } from "../core/act";
import { TaskState, type Job } from "../core/contract";
import { count, plural } from "../core/format";
import { focusedRow, useKeys } from "../core/keys";
import type { JobModel } from "../core/jobmodel";
import { place, setQuery } from "../core/router";
import { onlyOf } from "../core/selection";
import { isLooking, readTasksQuery, TasksByPlace, TasksThatMatch, type TasksQuery } from "../core/tasklist";
import { FAILURE_REASONS, hasEnded, reasonText, reasonWord, say, TASK_STATES, taskState } from "../core/words";
import { Button, Empty, ErrorBox, Skeleton } from "../ui/bits";
import { Choices, Search } from "../ui/menu";
import { Virtual, type Mover } from "../ui/virtual";
import { TASK_ROW_HEIGHT, TaskHead, TaskRow } from "./task-row";

const REFRESH_MS = 2_000;
const ACT_MAX = 10_000;
const STATES = TASK_STATES.map((it) => ({ value: taskState(it), label: say(taskState(it)) }));
const REASONS = FAILURE_REASONS.map((it) => ({ value: reasonWord(it), label: reasonText(it) }));
const NONE = { state: "", reason: "", status: "", host: "", search: "" };

export function Tasks({ model, job, open, no }: { model: JobModel; job: Job; open: number | null; no?: string }) {
  const text = place.value.query.toString();
  const query = useMemo(() => readTasksQuery(new URLSearchParams(text)), [conditionsOf(text)]);
  const matching = isLooking(query);
  const tasks = useMemo(() => (matching ? new TasksThatMatch(model.id, query) : new TasksByPlace(model.id)), [query, model]);
  const selected = useSignal<ReadonlySet<number>>(new Set());
  const mover = useRef<Mover | null>(null);
  const start = Number(place.value.query.get("from")) || open || 0;

  // Both before the browser draws: a key that comes after it selects for the rows that are in sight.
  useLayoutEffect(() => {
    selected.value = new Set();
  }, [tasks]);
  const matches = tasks instanceof TasksThatMatch ? tasks.rows.value : null;
  useLayoutEffect(() => {
    if (matches === null || !selected.peek().size) return;
    selected.value = onlyOf(selected.peek(), new Set(matches.map((it) => it.taskIndex)));
  }, [matches]);

  useEffect(() => {
    const unlisten = model.listen((changed) => tasks.take(changed));
    return () => {
      unlisten();
      tasks.stop();
    };
  }, [tasks]);

  // No event says what started, or waits for something else now; so what is in sight is asked for again while the
  // job goes on.
  const isOpen = !hasEnded(job.state);
  const sequence = model.sequence.value;
  useEffect(() => {
    if (!isOpen) return;
    const timer = setInterval(() => !document.hidden && void tasks.refresh(), REFRESH_MS);
    return () => clearInterval(timer);
  }, [tasks, isOpen]);
  useEffect(() => {
    if (!isOpen && tasks.isLoaded.peek()) void tasks.refresh();
  }, [isOpen, isOpen ? 0n : sequence]);

  const select = (index: number, isOn: boolean) => {
    const next = new Set(selected.value);
    if (isOn && next.size < ACT_MAX) next.add(index);
    else next.delete(index);
    selected.value = next;
  };
  useKeys(
    {
      x: () => {
        const index = focusedRow()?.dataset.row;
        if (index !== undefined) select(Number(index), !selected.value.has(Number(index)));
      },
    },
    [tasks],
  );

  void tasks.version.value;
  const isMatch = tasks instanceof TasksThatMatch;
  const number = isMatch ? tasks.rows.value.length : (job.counts?.total ?? 0);
  const params = place.value.query.toString();
  const show = (index: number) => {
    setQuery({ from: String(index) });
    mover.current?.show(index);
  };
  return (
    <section aria-label="Tasks">
      <Filters query={query} goTo={isMatch ? undefined : show} total={job.counts?.total ?? 0} />
      {selected.value.size > 0 && <Selected model={model} job={job} no={no} indexes={[...selected.value]} clear={() => (selected.value = new Set())} />}
      {tasks.fault.value && <ErrorBox fault={tasks.fault.value} again={() => void tasks.refresh()} />}
      {isMatch && number === 0 ? (
        tasks.isLoaded.value ? <None tasks={tasks} /> : <Skeleton lines={8} />
      ) : number === 0 ? (
        <Empty hook="tasks-none" title="This job has no tasks yet" />
      ) : (
        <div class="sheet fixed">
          <Virtual
            key={isMatch ? "match" : "place"}
            label="Tasks"
            hook="tasks-table"
            count={number}
            rowHeight={TASK_ROW_HEIGHT}
            start={Math.min(start, Math.max(0, number - 1))}
            head={<TaskHead select />}
            mover={(it) => (mover.current = it)}
            onRange={(first, last) => tasks.want(first, last)}
            row={(at) => {
              const task = tasks.at(at);
              const index = task?.taskIndex ?? at;
              return (
                <TaskRow key={at} index={index} at={isMatch ? at : undefined} task={task} jobId={job.jobId} query={params ? `?${params}` : ""} isOpen={open === index} isSelected={selected.value.has(index)} select={select} />
              );
            }}
          />
        </div>
      )}
      {isMatch && number > 0 && (
        <div class="foot">
          <span class="muted">{tasks.next.value ? `The first ${plural(number, "task")} that match` : `${plural(number, "task")} of ${count(job.counts?.total ?? 0)}`}</span>
          {tasks.examined.value > 0 && <Button onClick={() => void tasks.more()}>Look further</Button>}
        </div>
      )}
    </section>
  );
}

// What the list depends on; where it is scrolled to does not count.
function conditionsOf(text: string): string {
  const query = new URLSearchParams(text);
  query.delete("from");
  return query.toString();
}

function Filters({ query, goTo, total }: { query: TasksQuery; goTo?: (index: number) => void; total: number }) {
  const wanted = useSignal("");
  const isFiltered = isLooking(query);
  const change = (changes: Partial<typeof NONE>) => setQuery({ ...changes, from: "" });
  return (
    <div class="filters" role="search" aria-label="Tasks">
      <Search hook="tasks-search" label="Search URL or key" value={query.search} onChange={(search) => change({ search })} />
      <Choices hook="tasks-state" label="State" choices={STATES} chosen={query.states} onChange={(chosen) => change({ state: chosen.join(",") })} />
      <Choices hook="tasks-reason" label="Reason" choices={REASONS} chosen={query.reasons} onChange={(chosen) => change({ reason: chosen.join(","), status: "" })} />
      <input type="text" class="host-filter" data-testid="tasks-host" aria-label="Host" placeholder="Host" key={query.host} defaultValue={query.host} onChange={(event) => change({ host: event.currentTarget.value.trim() })} />
      {query.statuses.length > 0 && (
        <Button onClick={() => change({ status: "" })} icon="close" label={`No longer only HTTP ${query.statuses.join(", ")}`}>
          HTTP {query.statuses.join(", ")}
        </Button>
      )}
      {isFiltered && (
        <Button kind="quiet" onClick={() => change(NONE)}>
          Clear
        </Button>
      )}
      {goTo && total > 20 && (
        <label class="goto push">
          <span class="muted">Go to #</span>
          <input
            type="text"
            inputMode="numeric"
            data-testid="tasks-goto"
            aria-label="Go to the task with this number"
            value={wanted.value}
            onInput={(event) => (wanted.value = event.currentTarget.value)}
            onKeyDown={(event) => {
              const index = Number(wanted.value.replace(/[#,\s]/g, ""));
              if (event.key === "Enter" && wanted.value.trim() && Number.isInteger(index) && index >= 0) goTo(Math.min(index, total - 1));
            }}
          />
        </label>
      )}
    </div>
  );
}

function Selected({ model, job, no, indexes, clear }: { model: JobModel; job: Job; no?: string; indexes: number[]; clear: () => void }) {
  const isEnded = hasEnded(job.state);
  const done = (work: Promise<void>) => void work.then(clear);
  return (
    <div class="selection" data-testid="selection" data-count={indexes.length}>
      <span class="selection-count">{plural(indexes.length, "task")} selected</span>
      <div class="selection-actions">
        <Button off={!isEnded} no={no} title={isEnded ? undefined : "When the job has ended"} onClick={() => done(retryTasks(model, indexes))}>
          Retry
        </Button>
        <Button off={isEnded} no={no} onClick={() => done(retryNow(model, indexes))}>
          Retry now
        </Button>
        <Button off={isEnded} no={no} onClick={() => done(cancelTasks(model, indexes))}>
          Cancel…
        </Button>
        <Button kind="quiet" icon="close" label="Clear the selection" onClick={clear} />
      </div>
    </div>
  );
}

function None({ tasks }: { tasks: TasksThatMatch }) {
  const isFailedOnly = tasks.query.states.join() === taskState(TaskState.FAILED);
  return (
    <Empty hook="tasks-none" title={isFailedOnly ? "No task failed" : "No task matches"}>
      {tasks.next.value ? (
        <>
          <p class="muted">Looked at {count(tasks.examined.value)} tasks so far.</p>
          <Button onClick={() => void tasks.more()}>Look further</Button>
        </>
      ) : (
        <Button onClick={() => setQuery({ ...NONE, from: "" })}>Clear the filters</Button>
      )}
    </Empty>
  );
}
