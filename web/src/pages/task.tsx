// One task, beside the list: what it does, what came of it, and each attempt.
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { Code } from "@connectrpc/connect";
import { cancelTasks, retryNow, retryTasks } from "../core/act";
import { CALL, jobs } from "../core/api";
import { TaskState, type Attempt, type Job, type Task } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import { between, bytes, count, percent, plain, rate, stamp } from "../core/format";
import { now } from "../core/frame";
import type { JobModel } from "../core/jobmodel";
import { useKeys } from "../core/keys";
import { go, place } from "../core/router";
import { hasEnded, kindWord, reasonText, reasonWord, say, taskHasEnded, taskState, waitWord } from "../core/words";
import { Button, Copy, Empty, ErrorBox, Fact, Prose, Skeleton } from "../ui/bits";
import { State } from "../ui/icons";
import { Bar } from "../ui/progress";
import { Download, Preview } from "./preview";

const REFRESH_MS = 2_000;

export function TaskDrawer({ model, job, index, base, no }: { model: JobModel; job: Job; index: number; base: string; no?: string }) {
  const task = useSignal<Task | null>(null);
  const fault = useSignal<Fault | null>(null);
  const isMissing = useSignal(false);
  const ref = useRef<HTMLDivElement>(null);
  const opener = useRef<Element | null>(null);
  const close = () => {
    const query = place.peek().query.toString();
    go(`${base}/tasks${query ? `?${query}` : ""}`, { keepScroll: true });
  };
  const load = async () => {
    try {
      task.value = (await jobs.getTask({ jobId: job.jobId, task: { case: "taskIndex", value: index } }, CALL)).task ?? null;
      fault.value = null;
    } catch (error) {
      const it = faultOf(error);
      if (it.code === Code.NotFound || it.code === Code.InvalidArgument) isMissing.value = true;
      else if (!task.value) fault.value = it;
    }
  };
  useKeys({ Escape: close }, []);
  useLayoutEffect(() => {
    opener.current = document.activeElement;
    ref.current?.focus();
  }, []);
  useEffect(() => {
    void load();
    const unlisten = model.listen((changed) => {
      const it = changed.get(index);
      if (it && task.value) {
        if (it.state !== task.value.state || it.attempts !== task.value.attempts) void load();
        else task.value = { ...it, attemptLog: task.value.attemptLog };
      }
    });
    const timer = setInterval(() => {
      if (!document.hidden && task.value && !taskHasEnded(task.value.state)) void load();
    }, REFRESH_MS);
    return () => {
      unlisten();
      clearInterval(timer);
      // Whoever closes it goes on where it was opened.
      requestAnimationFrame(() => {
        if (document.activeElement !== document.body) return;
        const row = document.querySelector<HTMLElement>(`[data-task-index="${index}"] [data-testid="task-open"]`);
        (row ?? (opener.current as HTMLElement | null))?.focus?.();
      });
    };
  }, []);
  // A job that runs again has other tasks than it had.
  useEffect(() => {
    if (task.value) void load();
  }, [job.state]);

  const it = task.value;
  return (
    <div ref={ref} class="drawer" tabIndex={-1} role="dialog" aria-label={`Task ${index}`} data-testid={isMissing.value ? undefined : "task"} data-task-index={index} data-state={it ? taskState(it.state) : undefined}>
      <div class="drawer-head">
        <h2>Task #{count(index)}</h2>
        {it && <State state={taskState(it.state)} />}
        <Button hook="task-close" kind="quiet" icon="close" label="Close the task" onClick={close} />
      </div>
      <div class="drawer-body">
        {isMissing.value && (
          <Empty hook="task-missing" title="There is no such task">
            <p class="muted">This job has {count(job.counts?.total ?? 0)} tasks, counted from 0.</p>
          </Empty>
        )}
        {fault.value && <ErrorBox fault={fault.value} again={() => void load()} />}
        {!it && !isMissing.value && !fault.value && <Skeleton lines={8} />}
        {it && <Known task={it} job={job} model={model} no={no} reload={load} />}
      </div>
    </div>
  );
}

interface KnownProps {
  task: Task;
  job: Job;
  model: JobModel;
  // Why nothing can be done with it.
  no?: string;
  reload: () => Promise<void>;
}

function Known({ task, job, model, no, reload }: KnownProps) {
  const isPreviewed = useSignal(false);
  const isJobEnded = hasEnded(job.state);
  const canRetry = task.state === TaskState.FAILED || task.state === TaskState.CANCELLED;
  const act = (work: Promise<void>) => void work.then(reload);
  const url = plain(task.url);
  return (
    <>
      <div class="task-url-line">
        <span class="mono wrap" data-testid="task-url">
          {url}
        </span>
        <Copy text={task.url} what="the URL" />
      </div>
      <div class="actions">
        {task.state === TaskState.SUCCEEDED && (
          <>
            <Button hook="task-preview" icon="eye" onClick={() => (isPreviewed.value = !isPreviewed.value)}>
              {isPreviewed.value ? "Hide the preview" : "Preview"}
            </Button>
            <Download jobId={job.jobId} index={task.taskIndex} />
          </>
        )}
        {canRetry && (
          <Button hook="task-retry" icon="retry" off={!isJobEnded} no={no} title={isJobEnded ? undefined : "When the job has ended"} onClick={() => act(retryTasks(model, [task.taskIndex]))}>
            {isJobEnded ? "Retry" : "Retry when the job has ended"}
          </Button>
        )}
        {task.state === TaskState.BACKING_OFF && (
          <Button hook="task-retry-now" icon="retry" no={no} onClick={() => act(retryNow(model, [task.taskIndex]))}>
            Retry now
          </Button>
        )}
        {!taskHasEnded(task.state) && !isJobEnded && (
          <Button hook="task-cancel" icon="stop" no={no} onClick={() => act(cancelTasks(model, [task.taskIndex]))}>
            Cancel…
          </Button>
        )}
      </div>
      {isPreviewed.value && <Preview jobId={job.jobId} task={task} />}
      <TaskProblem task={task} />
      <Running task={task} />
      <Facts task={task} />
      <Attempts task={task} />
      <Headers task={task} />
    </>
  );
}

function TaskProblem({ task }: { task: Task }) {
  const error = task.error ?? task.lastError;
  if (!error) {
    if (!task.waiting) return null;
    return (
      <p class="note">
        <span>
          Waits: {say(waitWord(task.waiting.reason))}. <span class="muted"><Prose text={task.waiting.message} /></span>
        </span>
      </p>
    );
  }
  return (
    <div class={task.error ? "note bad" : "note"} data-testid="task-error" data-reason={reasonWord(error.reason)}>
      <div>
        <p class="note-title">
          {task.error ? "" : "Last attempt: "}
          {reasonText(error.reason, error.httpStatus)}
        </p>
        <p class="wrap">
          <Prose isFirst text={error.message} />
        </p>
        {task.state === TaskState.BACKING_OFF && <p class="muted">Next attempt at {stamp(task.nextAttemptTime)}</p>}
      </div>
    </div>
  );
}

function Running({ task }: { task: Task }) {
  const done = Number(task.progress?.bytesDone ?? 0);
  const all = Number(task.progress?.bytesTotal ?? 0);
  if (task.state !== TaskState.RUNNING || !all) return null;
  return (
    <div>
      <Bar thick label="Bytes of this task" parts={{ all, done }} />
      <p class="muted task-running">
        {percent(done, all)} · {bytes(done)} of {bytes(all)} · {rate(task.progress?.bytesPerSecond ?? 0)}
      </p>
    </div>
  );
}

function Facts({ task }: { task: Task }) {
  const result = task.result;
  const file = result.case === "downloadResult" ? result.value : null;
  const body = result.case === "fetchResult" ? result.value : null;
  const final = result.value?.finalUrl ?? "";
  return (
    <dl class="facts">
      <Fact name="Kind">{kindWord(task.kind)}</Fact>
      <Fact name="Key">{task.key && <span class="mono wrap">{plain(task.key)}</span>}</Fact>
      <Fact name="Started">{task.startTime && stamp(task.startTime)}</Fact>
      <Fact name="Took">{task.endTime && between(task.startTime, task.endTime, now.value)}</Fact>
      <Fact name="Came from">{final && final !== task.url && <span class="mono wrap">{plain(final)}</span>}</Fact>
      <Fact name="Status">{body?.httpStatus}</Fact>
      <Fact name="Type">{result.value?.contentType && plain(result.value.contentType)}</Fact>
      <Fact name="Size">{file ? bytes(file.bytes) : body ? bytes(body.bodyBytes) : ""}</Fact>
      <Fact name="Pages">{body?.pages ? `${count(body.pages)} with ${count(Number(body.items))} items` : ""}</Fact>
      <Fact name="File">{file && <span class="mono wrap">{plain(file.path)}</span>}</Fact>
      <Fact name="Was there already">{file?.skipped ? "yes, verified" : ""}</Fact>
      <Fact name="Digests">
        {file && file.checksums.length > 0 && file.checksums.map((it) => <span key={it} class="mono wrap digest">{plain(it)}</span>)}
      </Fact>
      <Fact name="ETag">{file?.etag && <span class="mono wrap">{plain(file.etag)}</span>}</Fact>
      <Fact name="Kept from before">{file?.resumedBytes ? bytes(file.resumedBytes) : ""}</Fact>
      <Fact name="Connections">{file && file.connections > 1 ? count(file.connections) : ""}</Fact>
    </dl>
  );
}

function Attempts({ task }: { task: Task }) {
  if (!task.attemptLog.length) return null;
  return (
    <section aria-labelledby="attempts">
      <h3 id="attempts">Attempts</h3>
      <div class="sheet bare" tabIndex={0} role="region" aria-labelledby="attempts">
        <table class="table attempts" aria-labelledby="attempts">
          <thead>
            <tr>
              <th class="num">#</th>
              <th>Started</th>
              <th class="num c-wide">Took</th>
              <th class="c-wide">Address</th>
              <th class="num">Status</th>
              <th class="num c-wide">Bytes</th>
              <th>Ended</th>
            </tr>
          </thead>
          <tbody>
            {task.attemptLog.map((it, at) => (
              <Row key={at} attempt={it} isDone={at === task.attemptLog.length - 1 && task.state === TaskState.SUCCEEDED} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Row({ attempt, isDone }: { attempt: Attempt; isDone: boolean }) {
  const error = attempt.error;
  // What a pause, a shutdown or a crash cut has no error, and has brought nothing to its end.
  const end = isDone ? "succeeded" : attempt.endTime ? "stopped before its end" : "running";
  const took = attempt.endTime ? between(attempt.startTime, attempt.endTime, 0) : "…";
  return (
    <tr data-testid="attempt-row" data-number={attempt.number}>
      <td class="num">{attempt.number}</td>
      <td class="num-left">{stamp(attempt.startTime)}</td>
      <td class="num c-wide">{took}</td>
      <td class="mono c-wide">{attempt.remoteAddress || "–"}</td>
      <td class="num">{attempt.httpStatus || "–"}</td>
      <td class="num c-wide">{bytes(attempt.bytes)}</td>
      <td class="attempt-end">
        {error ? <span class="bad-text" title={plain(error.message)}>{reasonText(error.reason, error.httpStatus)}</span> : end}
        {attempt.resume && <span class="muted"> · {plain(attempt.resume)}</span>}
        <span class="attempt-more">
          {took} · {bytes(attempt.bytes)}
          {attempt.remoteAddress && ` · ${attempt.remoteAddress}`}
        </span>
      </td>
    </tr>
  );
}

function Headers({ task }: { task: Task }) {
  const headers = task.result.case === "fetchResult" ? task.result.value.headers : [];
  if (!headers.length) return null;
  return (
    <details class="headers">
      <summary>Response headers ({headers.length})</summary>
      <dl class="facts">
        {headers.map((it, at) => (
          <Fact key={at} name={plain(it.name)}>
            <span class="mono wrap">{plain(it.value)}</span>
          </Fact>
        ))}
      </dl>
    </details>
  );
}
