// What runs now, and the facts of a job.
import type { Job } from "../core/contract";
import { count, plain, rate, stamp } from "../core/format";
import type { JobModel } from "../core/jobmodel";
import { hasEnded, labelsOf, modeWord } from "../core/words";
import { Fact } from "../ui/bits";
import { TaskHead, TaskRow } from "./task-row";

const SHOWN_MAX = 20;

export function Overview({ model, job }: { model: JobModel; job: Job }) {
  const active = model.active.value;
  const running = job.counts?.running ?? 0;
  const labels = labelsOf(job);
  const limit = job.rateLimit;
  return (
    <div class="overview">
      {!hasEnded(job.state) && (
        <section class="panel flush" aria-labelledby="running-now">
          <h2 id="running-now" class="panel-title">
            Running now
          </h2>
          {active.length === 0 ? (
            // The counts come before the first report of what runs.
            <p class="muted pad">{running === 0 ? "No task runs at the moment." : "…"}</p>
          ) : (
            <div class="sheet bare">
              <table class="table tasks" aria-labelledby="running-now">
                <TaskHead />
                <tbody>
                  {active.slice(0, SHOWN_MAX).map((it) => (
                    <TaskRow key={it.taskIndex} index={it.taskIndex} task={it} jobId={job.jobId} />
                  ))}
                </tbody>
              </table>
            </div>
          )}
          {running > SHOWN_MAX && (
            <p class="pad">
              <a href={`/jobs/${job.jobId}/tasks?state=running`} data-keep-scroll>
                All {count(running)} running tasks
              </a>
            </p>
          )}
        </section>
      )}
      <section class="panel" aria-labelledby="facts">
        <h2 id="facts" class="panel-title">
          Facts
        </h2>
        <dl class="facts">
          <Fact name="Created">{stamp(job.createTime)}</Fact>
          <Fact name={job.counts?.total === job.counts?.pending ? "Starts" : "Started"}>{job.startTime && stamp(job.startTime)}</Fact>
          <Fact name="Ended">{job.endTime && stamp(job.endTime)}</Fact>
          <Fact name="Deleted by itself">{job.expireTime && stamp(job.expireTime)}</Fact>
          <Fact name="Submitted by">{plain(job.createdBy)}</Fact>
          <Fact name="Mode">{job.group && modeWord(job.group.mode)}</Fact>
          <Fact name="Failures allowed">{job.group?.maxFailures ? count(job.group.maxFailures) : ""}</Fact>
          <Fact name="Tasks at once">{job.group?.maxConcurrency ? `at most ${count(job.group.maxConcurrency)}` : "as the server allows"}</Fact>
          <Fact name="Requests">{limit?.requestsPerSecond ? `at most ${limit.requestsPerSecond}/s` : ""}</Fact>
          <Fact name="Rate">{limit?.bytesPerSecond ? `at most ${rate(limit.bytesPerSecond)}` : ""}</Fact>
          <Fact name="Priority">{job.priority ? String(job.priority) : ""}</Fact>
          <Fact name="More tasks">{job.open ? "may come" : ""}</Fact>
          <Fact name="Directory">
            <span class="mono wrap">{plain(job.directory)}</span>
          </Fact>
          <Fact name="Labels">
            {labels.length > 0 &&
              labels.map(([name, value]) => (
                <a class="label" key={name} href={`/jobs?label=${encodeURIComponent(`${name}=${value}`)}`}>
                  {plain(`${name}=${value}`)}
                </a>
              ))}
          </Fact>
        </dl>
      </section>
    </div>
  );
}

