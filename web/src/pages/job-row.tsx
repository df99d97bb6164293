// A job in the list.
import { memo } from "./memo";
import { JobState, type Job } from "../core/contract";
import { between, bytes, count, left, percent, plain, rate, short, shortId } from "../core/format";
import { go } from "../core/router";
import { failureText, hasEnded, jobState, labelsOf, titleOf } from "../core/words";
import { Ago } from "../ui/bits";
import { State } from "../ui/icons";
import { Bar } from "../ui/progress";

interface Props {
  job: Job;
  at: number;
  isByEnd: boolean;
  isGone: boolean;
  isSelected: boolean;
  select: (id: string, isOn: boolean) => void;
}

export const JobRow = memo(({ job, at, isByEnd, isGone, isSelected, select }: Props) => {
  const counts = job.counts;
  const total = counts?.total ?? 0;
  const done = counts?.succeeded ?? 0;
  const failed = counts?.failed ?? 0;
  const ended = done + failed + (counts?.cancelled ?? 0);
  const state = jobState(job.state);
  const isOpen = !hasEnded(job.state);
  const url = `/jobs/${job.jobId}`;
  const title = plain(titleOf(job));
  return (
    <tr
      class={`row ${isSelected ? "selected" : ""} ${isGone ? "gone" : ""}`}
      data-testid="job-row"
      data-job-id={job.jobId}
      data-state={state}
      data-row={job.jobId}
      aria-rowindex={at + 2}
      onClick={(event) => {
        if ((event.target as Element).closest("a, input, label, button") || getSelection()?.toString()) return;
        go(url);
      }}
    >
      <td class="c-select">
        <label class="tick">
          <input type="checkbox" data-testid="job-select" aria-label={`Select ${title}`} checked={isSelected} disabled={isGone} onChange={(event) => select(job.jobId, event.currentTarget.checked)} />
        </label>
      </td>
      <td class="c-state">
        <State state={state} hook="job-state" />
      </td>
      <td class="c-title">
        <a href={url} data-testid="job-open" data-row-link>
          <span class="row-title" data-testid="job-title" title={title}>
            {title}
          </span>
        </a>
        <div class="row-sub">
          {isGone ? "This job was deleted." : <Sub job={job} />}
        </div>
      </td>
      <td class="c-progress">
        <div class="row-bar">
          <Bar hook="job-progress" label={`Progress of ${title}`} parts={{ all: total, done, failed, cancelled: counts?.cancelled, running: counts?.running }} />
          <span class="pct">{percent(ended, total)}</span>
        </div>
      </td>
      <td class="c-counts num" data-testid="job-counts">
        {count(ended)} <span class="muted">/ {job.open ? `${short(total)}+` : short(total)}</span>
      </td>
      <td class={failed ? "c-failed num bad-text" : "c-failed num faint"} data-testid="job-failed">
        {count(failed)}
      </td>
      <td class="c-rate num">{isOpen && job.progress?.bytesPerSecond ? rate(job.progress.bytesPerSecond) : ""}</td>
      <td class="c-left num">{isOpen ? <Left job={job} /> : job.endTime && <span class="muted">{between(job.startTime, job.endTime, 0) || "–"}</span>}</td>
      <td class="c-time num muted">
        <Ago time={isByEnd ? job.endTime : job.createTime} />
      </td>
    </tr>
  );
});

function Left({ job }: { job: Job }) {
  const rest = left(job.progress?.estimatedRemaining);
  return <>{rest && `${rest} left`}</>;
}

// What tells this job from others: how it failed, else its labels, else its id.
function Sub({ job }: { job: Job }) {
  const failure = job.failures[0];
  const labels = labelsOf(job);
  return (
    <>
      {failure && job.state !== JobState.SUCCEEDED && (
        <span class="bad-text" title={plain(failure.sampleMessage)}>
          {plain(failureText(failure))}
        </span>
      )}
      {!failure && job.failure && job.state === JobState.FAILED && <span class="bad-text">{plain(job.failure.message)}</span>}
      {job.state === JobState.SUCCEEDED && Number(job.progress?.bytesDone ?? 0) > 0 && <span>{bytes(job.progress!.bytesDone)}</span>}
      {labels.slice(0, 4).map(([name, value]) => (
        <span class="label" key={name} title={`${name}=${value}`}>
          {plain(`${name}=${value}`)}
        </span>
      ))}
      {labels.length > 4 && <span>+{labels.length - 4}</span>}
      {job.title && labels.length === 0 && !failure && <span class="mono">{shortId(job.jobId)}</span>}
    </>
  );
}
