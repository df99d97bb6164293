// One job: what it is, how far it is, what it waits for, and its tabs.
import { useEffect, useMemo, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { cancelJob, deleteJob, pauseJob, resumeJob, retryJob } from "../core/act";
import { JobState, type Job } from "../core/contract";
import { count, plain } from "../core/format";
import { JobModel } from "../core/jobmodel";
import { useKeys } from "../core/keys";
import { tell } from "../core/notice";
import { GONE, whyNot } from "../core/roles";
import { go, path } from "../core/router";
import { canCancel, canPause, canResume, canRetry, hasEnded, jobState, titleOf } from "../core/words";
import { Button, ButtonLink, Copy, Empty, ErrorBox, Heading, Skeleton } from "../ui/bits";
import { State } from "../ui/icons";
import { Activity } from "./job-activity";
import { Failures } from "./job-failures";
import { JobLimits } from "./job-limits";
import { Overview } from "./job-overview";
import { Spec } from "./job-spec";
import { Summary } from "./job-summary";
import { Tasks } from "./job-tasks";
import { TaskDrawer } from "./task";
import { useReady } from "./ready";

const TABS = ["overview", "tasks", "failures", "activity", "spec"] as const;

export function JobPage({ id }: { id: string }) {
  const model = useMemo(() => new JobModel(id), [id]);
  useEffect(() => {
    model.start();
    return () => model.stop();
  }, [model]);
  const job = model.job.value;
  const status = model.status.value;
  useReady(status !== "loading" || model.fault.value !== null);
  // Before the job is there, too.
  useKeys({ u: () => go("/jobs") }, []);

  if (status === "missing") {
    return (
      <>
        <div class="page-head">
          <Heading title="No such job" />
        </div>
        <Empty hook="job-missing" title="There is no job with this id">
          <p class="mono wrap">{plain(id)}</p>
          <p class="muted">It may have been deleted, or its retention may have passed.</p>
          <a class="button" href="/jobs">
            All jobs
          </a>
        </Empty>
      </>
    );
  }
  if (!job) {
    return (
      <>
        <Heading title="Job" />
        {model.fault.value ? <ErrorBox fault={model.fault.value} /> : <Skeleton lines={8} />}
      </>
    );
  }
  return <Known model={model} job={job} isGone={status === "gone"} />;
}

function Known({ model, job, isGone }: { model: JobModel; job: Job; isGone: boolean }) {
  const isLimiting = useSignal(false);
  const [, , , tabWord = "overview", taskWord] = path.value.split("/");
  const tab = TABS.find((it) => it === tabWord) ?? "overview";
  const task = tab === "tasks" && /^\d{1,10}$/.test(taskWord ?? "") ? Number(taskWord) : null;
  const failed = job.counts?.failed ?? 0;
  const base = `/jobs/${job.jobId}`;
  const remove = async () => {
    if (await deleteJob(job)) go("/jobs");
  };

  const no = isGone ? GONE : whyNot.control(job);
  const steer = (can: boolean, work: () => Promise<void>) => {
    if (can && no) tell(`${no}.`, true);
    else if (can) void work();
  };
  useKeys(
    {
      f: () => go(`${base}/failures`),
      p: () => steer(canPause(job.state) || canResume(job.state), () => (canPause(job.state) ? pauseJob(model) : resumeJob(model))),
      c: () => steer(canCancel(job.state), () => cancelJob(model, job)),
      r: () => steer(canRetry(job), () => retryJob(model, job)),
    },
    [model, job, no],
  );

  const tabs = useRef<HTMLElement>(null);
  // On a narrow screen not all tabs are in sight.
  useEffect(() => {
    const chosen = tabs.current?.querySelector<HTMLElement>("[aria-current]");
    if (tabs.current && chosen) tabs.current.scrollLeft = chosen.offsetLeft - (tabs.current.clientWidth - chosen.offsetWidth) / 2;
  }, [tab]);

  return (
    <article data-testid="job" data-job-id={job.jobId} data-state={jobState(job.state)}>
      {isGone && (
        <div class="note bad" role="alert" data-testid="job-gone">
          <p class="note-title">This job was deleted.</p>
          <a class="button" href="/jobs">
            All jobs
          </a>
        </div>
      )}
      <div class="page-head job-head">
        <div class="job-name">
          <Heading title={plain(titleOf(job))} hook="job-title" />
          <State state={jobState(job.state)} hook="job-state" />
          {job.title && (
            <span class="job-id mono muted" title={job.jobId}>
              {job.jobId}
            </span>
          )}
          <Copy text={job.jobId} what="the id" />
        </div>
        <div class="actions push">
          {canResume(job.state) ? (
            <Button hook="job-resume" icon="play" no={no} onClick={() => void resumeJob(model)}>
              Resume
            </Button>
          ) : (
            !hasEnded(job.state) && (
              <Button hook="job-pause" icon="pause" off={!canPause(job.state)} no={no} onClick={() => void pauseJob(model)}>
                Pause
              </Button>
            )
          )}
          {!hasEnded(job.state) && (
            <Button hook="job-cancel" icon="stop" off={!canCancel(job.state)} no={no} onClick={() => void cancelJob(model, job)}>
              {job.state === JobState.CANCELLING ? "Cancelling…" : "Cancel…"}
            </Button>
          )}
          {hasEnded(job.state) && (
            <Button hook="job-retry" icon="retry" off={!canRetry(job)} no={no} title={canRetry(job) ? undefined : "Nothing failed and nothing was cancelled"} onClick={() => void retryJob(model, job)}>
              Retry failed…
            </Button>
          )}
          {!hasEnded(job.state) && (
            <Button hook="job-limits" icon="gauge" no={no} onClick={() => (isLimiting.value = true)}>
              Limits…
            </Button>
          )}
          <ButtonLink hook="job-duplicate" no={isGone ? GONE : whyNot.submit()} to={`/submit?from=${job.jobId}`}>
            Duplicate
          </ButtonLink>
          {hasEnded(job.state) && (
            <Button hook="job-delete" kind="danger" icon="trash" no={no} onClick={() => void remove()}>
              Delete…
            </Button>
          )}
        </div>
      </div>
      <Summary model={model} job={job} base={base} no={no} />
      {!isGone && (
        <nav class="tabs" aria-label="Views of this job" ref={tabs}>
          {TABS.map((it) => (
            <a key={it} href={it === "overview" ? base : `${base}/${it}`} data-testid={`tab-${it}`} data-keep-scroll aria-current={it === tab ? "page" : undefined}>
              {it[0]!.toUpperCase() + it.slice(1)}
              {it === "failures" && failed > 0 && <span class="pill bad">{count(failed)}</span>}
            </a>
          ))}
        </nav>
      )}
      {tab === "overview" && <Overview model={model} job={job} />}
      {tab === "tasks" && <Tasks model={model} job={job} open={task} no={no} />}
      {tab === "failures" && <Failures model={model} job={job} base={base} no={no} />}
      {tab === "activity" && <Activity model={model} />}
      {tab === "spec" && <Spec model={model} />}
      {task !== null && <TaskDrawer key={task} model={model} job={job} index={task} base={base} no={no} />}
      {isLimiting.value && <JobLimits model={model} job={job} onClose={() => (isLimiting.value = false)} />}
    </article>
  );
}
