// A task in a table.
import { TaskState, type Task } from "../core/contract";
import { bytes, count, left, percent, plain, rate } from "../core/format";
import { now } from "../core/frame";
import { taskState, waitWord, say, reasonText } from "../core/words";
import { State } from "../ui/icons";
import { Bar } from "../ui/progress";
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { span } from "../core/format";

export const TASK_ROW_HEIGHT = 36;

export function TaskHead({ select }: { select?: boolean }) {
  return (
    <thead>
      <tr aria-rowindex={1}>
        {select && (
          <th class="c-select">
            <span class="unseen">Select</span>
          </th>
        )}
        <th class="c-index num">#</th>
        <th class="c-state">State</th>
        <th class="c-url">URL</th>
        <th class="c-bytes num">Bytes</th>
        <th class="c-rate num">Rate</th>
        <th class="c-note">Note</th>
      </tr>
    </thead>
  );
}

interface Props {
  index: number;
  task: Task | undefined;
  jobId: string;
  query?: string;
  isOpen?: boolean;
  isSelected?: boolean;
  select?: (index: number, isOn: boolean) => void;
  // The place in the table, where that is not the place in the job.
  at?: number;
}

export function TaskRow({ index, task, jobId, query = "", isOpen, isSelected, select, at }: Props) {
  if (!task) {
    return (
      <tr class="task-row loading" aria-rowindex={(at ?? index) + 2}>
        {select && <td class="c-select" />}
        <td class="c-index num muted">{at === undefined ? count(index) : ""}</td>
        <td colSpan={5}>
          <span class="skeleton-line w3" />
        </td>
      </tr>
    );
  }
  const state = taskState(task.state);
  const url = plain(task.url);
  return (
    <tr class={isOpen ? "task-row open" : "task-row"} data-testid="task-row" data-task-index={task.taskIndex} data-state={state} data-row={task.taskIndex} aria-rowindex={(at ?? index) + 2}>
      {select && (
        <td class="c-select">
          <label class="tick">
            <input type="checkbox" data-testid="task-select" aria-label={`Select task ${task.taskIndex}`} checked={isSelected} onChange={(event) => select(task.taskIndex, event.currentTarget.checked)} />
          </label>
        </td>
      )}
      <td class="c-index num muted">{count(task.taskIndex)}</td>
      <td class="c-state">
        <State state={state} />
      </td>
      <td class="c-url">
        <a href={`/jobs/${jobId}/tasks/${task.taskIndex}${query}`} data-testid="task-open" data-row-link data-keep-scroll title={task.key ? `${plain(task.key)} · ${url}` : url}>
          {task.key && <span class="task-key">{plain(task.key)}</span>}
          <Url text={url} />
        </a>
      </td>
      <td class="c-bytes num">
        <Bytes task={task} />
      </td>
      <td class="c-rate num">{task.state === TaskState.RUNNING && task.progress?.bytesPerSecond ? rate(task.progress.bytesPerSecond) : ""}</td>
      <td class="c-note">
        <Note task={task} />
      </td>
    </tr>
  );
}

// The end of a URL tells it from others, so its host gives way first.
function Url({ text }: { text: string }) {
  const cut = /^https?:\/\/[^/?#]*/.exec(text)?.[0].length ?? 0;
  return (
    <span class="url" data-testid="task-url">
      <span class="url-host">{text.slice(0, cut)}</span>
      <span class="url-path">{text.slice(cut)}</span>
    </span>
  );
}

function Bytes({ task }: { task: Task }) {
  const done = Number(task.progress?.bytesDone ?? 0);
  const all = Number(task.progress?.bytesTotal ?? 0);
  if (task.state === TaskState.RUNNING && all > 0) {
    return (
      <span class="row-bar small">
        <Bar label={`Bytes of task ${task.taskIndex}`} parts={{ all, done }} />
        <span class="pct">{percent(done, all)}</span>
      </span>
    );
  }
  return <>{done > 0 ? bytes(done) : ""}</>;
}

function Note({ task }: { task: Task }) {
  const attempts = task.attempts > 1 ? `attempt ${task.attempts}` : "";
  if (task.error) return <Failed text={reasonText(task.error.reason, task.error.httpStatus)} title={task.error.message} attempts={attempts} />;
  const last = task.lastError && reasonText(task.lastError.reason, task.lastError.httpStatus);
  if (task.state === TaskState.BACKING_OFF) {
    const due = task.nextAttemptTime ? timestampMs(task.nextAttemptTime) - now.value : 0;
    return (
      <span title={plain(task.lastError?.message ?? "")}>
        {last}, next try {due > 0 ? `in ${span(due)}` : "now"}
      </span>
    );
  }
  if (task.state === TaskState.PENDING && task.waiting) return <span title={plain(task.waiting.message)}>{say(waitWord(task.waiting.reason))}</span>;
  if (task.state === TaskState.RUNNING) {
    const rest = left(task.progress?.estimatedRemaining);
    return <>{[attempts, last && `last: ${last}`, rest && `${rest} left`].filter(Boolean).join(" · ")}</>;
  }
  return <>{attempts}</>;
}

function Failed({ text, title, attempts }: { text: string; title: string; attempts: string }) {
  return (
    <span title={plain(title)}>
      <span class="bad-text">{text}</span>
      {attempts && ` · ${attempts}`}
    </span>
  );
}
