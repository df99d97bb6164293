// The failures of a job by reason, status and host: what to look at, and what to try again together.
import { retryFailed } from "../core/act";
import { TaskState, type FailureCount, type Job } from "../core/contract";
import { count, plain } from "../core/format";
import type { JobModel } from "../core/jobmodel";
import { href } from "../core/router";
import { hasEnded, reasonText, reasonWord } from "../core/words";
import { Button, Empty, HostName, Prose } from "../ui/bits";

export function Failures({ model, job, base, no }: { model: JobModel; job: Job; base: string; no?: string }) {
  if (!job.failures.length) {
    return (
      <Empty hook="failures-none" title="No task has failed">
        <p class="muted">Attempts that are tried again are not failures; a task shows them in its log.</p>
      </Empty>
    );
  }
  return (
    <div class="sheet">
      <table class="table failures" aria-label="Failures">
        <thead>
          <tr>
            <th class="num">Tasks</th>
            <th>Reason</th>
            <th class="c-host">Host</th>
            <th>Example</th>
            <th>
              <span class="unseen">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {job.failures.map((it) => (
            <Row key={`${it.reason} ${it.httpStatus} ${it.host}`} failure={it} model={model} job={job} base={base} no={no} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ failure, model, job, base, no }: { failure: FailureCount; model: JobModel; job: Job; base: string; no?: string }) {
  const { reason, httpStatus, host, count: number } = failure;
  const word = reasonWord(reason);
  // What is left over when there are too many kinds has no condition of its own.
  const isRest = !reason;
  const text = reasonText(reason, httpStatus);
  const shown = href(`${base}/tasks`, {
    state: "failed",
    ...(isRest ? {} : { reason: word }),
    ...(httpStatus ? { status: String(httpStatus) } : {}),
    ...(host ? { host } : {}),
  });
  const filter = { states: [TaskState.FAILED], reasons: isRest ? [] : [reason], httpStatuses: httpStatus ? [httpStatus] : [], host };
  const isOff = !hasEnded(job.state);
  return (
    <tr data-testid="failure-row" data-reason={word} data-http-status={httpStatus} data-host={host} data-count={number}>
      <td class="num strong">{count(number)}</td>
      <th scope="row">
        {text}
        {host && <div class="row-sub mono narrow"><span><HostName host={host} /></span></div>}
      </th>
      <td class="c-host mono wrap"><HostName host={host} /></td>
      <td class="c-example">
        <span class="clamp" title={plain(failure.sampleMessage)}>
          <Prose isFirst text={failure.sampleMessage} />
        </span>
        <span class="samples">
          {failure.sampleTaskIndexes.map((index) => (
            <a key={index} href={`${base}/tasks/${index}`} data-keep-scroll>
              #{count(index)}
            </a>
          ))}
        </span>
      </td>
      <td class="row-actions">
        <a class="button" href={shown} data-keep-scroll data-testid="failure-show">
          <span>Show</span>
        </a>
        {!isRest && (
          <Button hook="failure-retry" icon="retry" off={isOff} no={no} title={isOff ? "When the job has ended" : undefined} onClick={() => void retryFailed(model, filter, `what failed with ${text}`, number)}>
            Retry these
          </Button>
        )}
      </td>
    </tr>
  );
}
