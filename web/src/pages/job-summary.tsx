// How far a job is, and why what does not run waits.
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { WaitReason, type Job } from "../core/contract";
import { retryNow } from "../core/act";
import { between, bytes, clock, count, left, percent, rate } from "../core/format";
import type { JobModel } from "../core/jobmodel";
import { hasEnded, say, waitWord } from "../core/words";
import { Button, Prose } from "../ui/bits";
import { Icon, type IconName } from "../ui/icons";
import { Bar, Sparkline } from "../ui/progress";

export function Summary({ model, job, base, no }: { model: JobModel; job: Job; base: string; no?: string }) {
  const counts = job.counts;
  const total = counts?.total ?? 0;
  const ended = (counts?.succeeded ?? 0) + (counts?.failed ?? 0) + (counts?.cancelled ?? 0);
  const progress = job.progress;
  const isOpen = !hasEnded(job.state);
  const rest = isOpen ? left(progress?.estimatedRemaining) : "";
  const took = isOpen ? "" : between(job.startTime, job.endTime, 0);
  const amount = [bytesText(job), rest && `${rest} left`, took && `in ${took}`].filter(Boolean).join(isOpen ? " · " : " ");
  const parts: [string, string, number, IconName][] = [
    ["succeeded", "succeeded", counts?.succeeded ?? 0, "check"],
    ["failed", "failed", counts?.failed ?? 0, "cross"],
    ["cancelled", "cancelled", counts?.cancelled ?? 0, "slash"],
    ["running", "running", counts?.running ?? 0, "running"],
    ["backing_off", "backing off", counts?.backingOff ?? 0, "clock"],
    ["pending", "waiting", counts?.pending ?? 0, "pending"],
  ];
  return (
    <section class="panel summary" aria-label="Progress">
      <div class="summary-line">
        <span class="big">{percent(ended, total)}</span>
        <span data-testid="count-total" data-count={total} class="muted">
          {count(ended)} of {count(total)}
          {job.open ? " so far" : ""} {total === 1 ? "task" : "tasks"}
        </span>
        <span class="summary-rate">
          {isOpen && <Sparkline rates={model.rates.value} />}
          {isOpen && <span class="num">{rate(progress?.bytesPerSecond ?? 0)}</span>}
          {amount && <span class="muted">{amount}</span>}
        </span>
      </div>
      <Bar thick hook="job-progress" label="Progress of this job" parts={{ all: total, done: counts?.succeeded ?? 0, failed: counts?.failed, cancelled: counts?.cancelled, running: counts?.running }} />
      <ul class="counts">
        {parts.map(([word, label, value, icon]) => (
          <li key={word}>
            <a class={`count s-${word} ${value ? "" : "none"}`} href={`${base}/tasks?state=${word}`} data-keep-scroll data-testid={`count-${word}`} data-count={value}>
              <Icon name={icon} />
              <b>{count(value)}</b> {label}
            </a>
          </li>
        ))}
      </ul>
      {isOpen && job.waiting.length > 0 && <Waits model={model} job={job} no={no} />}
      {!isOpen && job.failure && (
        <p class="summary-failure">
          <Icon name="warn" />
          <span>
            <Prose isFirst text={job.failure.message} />
            {job.failure.taskIndex !== undefined && (
              <>
                {" "}
                <a href={`${base}/tasks/${job.failure.taskIndex}`}>Task #{count(job.failure.taskIndex)}</a>
              </>
            )}
          </span>
        </p>
      )}
    </section>
  );
}

function bytesText(job: Job): string {
  const done = Number(job.progress?.bytesDone ?? 0);
  const all = Number(job.progress?.bytesTotal ?? 0);
  if (!done && !all) return "";
  return all > done && !hasEnded(job.state) ? `${bytes(done)} of ${bytes(all)}` : bytes(done);
}

function Waits({ model, job, no }: { model: JobModel; job: Job; no?: string }) {
  return (
    <ul class="waits" aria-label="Why tasks wait">
      {job.waiting.map(({ waiting, tasks }) => {
        const reason = waiting?.reason ?? WaitReason.UNSPECIFIED;
        const word = waitWord(reason);
        return (
          <li key={`${word} ${waiting?.message}`} data-testid="waiting-row" data-reason={word}>
            <b class="num">{count(tasks)}</b>
            <span class="waits-word">{say(word)}</span>
            <span class="waits-text">
              <Prose text={waiting?.message ?? ""} />
              {waiting?.until && ` until ${clock(timestampDate(waiting.until))}`}
            </span>
            <Remedy reason={reason} model={model} no={no} />
          </li>
        );
      })}
    </ul>
  );
}

// What one can do about it, if anything.
function Remedy({ reason, model, no }: { reason: WaitReason; model: JobModel; no?: string }) {
  switch (reason) {
    case WaitReason.BACKING_OFF:
      return (
        <Button kind="quiet" no={no} onClick={() => void retryNow(model)}>
          Retry now
        </Button>
      );
    case WaitReason.HOST_PAUSED:
    case WaitReason.HOST_LIMIT:
      return (
        <a class="button quiet" href="/hosts">
          Hosts
        </a>
      );
    case WaitReason.SERVER_LIMIT:
      return (
        <a class="button quiet" href="/server">
          Limits
        </a>
      );
    default:
      return <span />;
  }
}
