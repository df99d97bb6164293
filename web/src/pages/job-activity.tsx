// What happened in a job, the last first, page by page.
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { CALL, jobs } from "../core/api";
import { TaskState, type JobEvent } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import { count, plain, stamp } from "../core/format";
import type { JobModel } from "../core/jobmodel";
import { jobState, reasonText, say, taskState } from "../core/words";
import { Button, Empty, ErrorBox, Skeleton } from "../ui/bits";
import { State } from "../ui/icons";

const PAGE = 100;

export function Activity({ model }: { model: JobModel }) {
  const events = useSignal<JobEvent[] | null>(null);
  const next = useSignal("");
  const fault = useSignal<Fault | null>(null);
  const isLoading = useSignal(false);
  const load = async (isMore: boolean) => {
    isLoading.value = true;
    try {
      const page = await jobs.listJobEvents({ jobId: model.id, pageSize: PAGE, pageToken: isMore ? next.value : "" }, CALL);
      events.value = isMore ? [...(events.value ?? []), ...page.events] : page.events;
      next.value = page.nextPageToken;
      fault.value = null;
    } catch (error) {
      fault.value = faultOf(error);
    }
    isLoading.value = false;
  };
  useEffect(() => void load(false), [model]);

  const list = events.value;
  const news = list ? Number(model.sequence.value - (list[0]?.sequence ?? 0n)) : 0;
  return (
    <section aria-label="Activity">
      {fault.value && <ErrorBox fault={fault.value} again={() => void load(false)} />}
      {!list && !fault.value && <Skeleton lines={8} />}
      {news > 0 && (
        <p class="news-line">
          <Button icon="up" onClick={() => void load(false)}>
            {count(news)} new
          </Button>
        </p>
      )}
      {list?.length === 0 && news <= 0 && (
        <Empty hook="activity-none" title="Nothing has happened yet">
          <p class="muted">The end of each task and each change of the job will be listed here.</p>
        </Empty>
      )}
      {list && list.length > 0 && (
        <div class="sheet">
          <table class="table events" aria-label="Activity">
            <thead>
              <tr>
                <th class="c-when">Time</th>
                <th class="c-state">What</th>
                <th>Details</th>
                <th class="num c-sequence">Sequence</th>
              </tr>
            </thead>
            <tbody>
              {list.map((it) => (
                <Row key={String(it.sequence)} event={it} jobId={model.id} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {next.value && (
        <div class="foot">
          <Button hook="events-more" busy={isLoading.value} onClick={() => void load(true)}>
            Show earlier ones
          </Button>
        </div>
      )}
    </section>
  );
}

const KINDS = { taskEnded: "task_ended", jobChanged: "job_changed", jobEnded: "job_ended" } as const;

function Row({ event: { sequence, time, event }, jobId }: { event: JobEvent; jobId: string }) {
  return (
    <tr data-testid="event-row" data-sequence={String(sequence)} data-kind={event.case && KINDS[event.case]}>
      <td class="num c-when muted">{stamp(time)}</td>
      {event.case === "taskEnded" ? (
        <>
          <td class="c-state">
            <State state={taskState(event.value.state)} />
          </td>
          <td class="c-url">
            <a href={`/jobs/${jobId}/tasks/${event.value.taskIndex}`} data-keep-scroll>
              Task #{count(event.value.taskIndex)}
            </a>{" "}
            <span class="muted">
              {event.value.state === TaskState.SUCCEEDED || !event.value.error ? plain(event.value.url) : plain(`${reasonText(event.value.error.reason, event.value.error.httpStatus)}: ${event.value.error.message}`)}
            </span>
          </td>
        </>
      ) : (
        <>
          <td class="c-state">{event.case && <State state={jobState(event.value.state)} />}</td>
          <td>{event.case === "jobEnded" ? "The job ended" : `The job changed; it is ${event.case ? say(jobState(event.value.state)) : ""}`}</td>
        </>
      )}
      <td class="num c-sequence muted">{count(Number(sequence))}</td>
    </tr>
  );
}
