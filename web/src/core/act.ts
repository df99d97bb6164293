// What can be done with one job and its tasks: asks where something would be lost, calls, and says what came of it.
import { ask } from "../ui/dialog";
import { CALL, jobs } from "./api";
import { type Job, type TaskFilter } from "./contract";
import { faultOf } from "./errors";
import { count, plain, plural } from "./format";
import type { JobModel } from "./jobmodel";
import { tell } from "./notice";
import { titleOf } from "./words";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { TaskFilterSchema } from "./contract";

export type TaskFilterInit = MessageInitShape<typeof TaskFilterSchema> & Partial<TaskFilter>;

async function attempt<T>(call: () => Promise<T>): Promise<T | null> {
  try {
    return await call();
  } catch (error) {
    tell(faultOf(error).message, true);
    return null;
  }
}

export async function pauseJob(model: JobModel): Promise<void> {
  model.take((await attempt(() => jobs.pauseJob({ jobId: model.id }, CALL)))?.job);
}

export async function resumeJob(model: JobModel): Promise<void> {
  model.take((await attempt(() => jobs.resumeJob({ jobId: model.id }, CALL)))?.job);
}

export async function cancelJob(model: JobModel, job: Job): Promise<void> {
  const open = (job.counts?.pending ?? 0) + (job.counts?.running ?? 0) + (job.counts?.backingOff ?? 0);
  const answer = await ask({
    title: "Cancel this job?",
    text: `${plural(open, "unfinished task")} of “${plain(titleOf(job))}” will end as cancelled. What has ended stays.`,
    yes: `Cancel ${plural(open, "task")}`,
    isDangerous: true,
  });
  if (!answer) return;
  // The answer comes when the last task has stopped, which takes a while with a million; the watch shows the way there.
  const call = attempt(() => jobs.cancelJob({ jobId: model.id }));
  void call.then((done) => model.take(done?.job));
}

// Runs again what failed and what was cancelled.
export async function retryJob(model: JobModel, job: Job): Promise<void> {
  const failed = job.counts?.failed ?? 0;
  const cancelled = job.counts?.cancelled ?? 0;
  const kinds = [failed && plural(failed, "failed task"), cancelled && plural(cancelled, "cancelled task")];
  const answer = await ask({
    title: "Retry this job?",
    text: `${kinds.filter(Boolean).join(" and ")} will run again with fresh attempts. Partial files are kept.`,
    yes: `Retry ${plural(failed + cancelled, "task")}`,
  });
  if (!answer) return;
  model.take((await attempt(() => jobs.retryJob({ jobId: model.id }, CALL)))?.job);
}

// Runs again those of the failed tasks that match.
export async function retryFailed(model: JobModel, filter: TaskFilterInit, what: string, number: number): Promise<void> {
  if (number > 1) {
    const answer = await ask({
      title: `Retry ${what}?`,
      text: `${plural(number, "failed task")} will run again with fresh attempts. Partial files are kept.`,
      yes: `Retry ${plural(number, "task")}`,
    });
    if (!answer) return;
  }
  model.take((await attempt(() => jobs.retryJob({ jobId: model.id, filter }, CALL)))?.job);
}

export async function retryTasks(model: JobModel, taskIndexes: number[]): Promise<void> {
  model.take((await attempt(() => jobs.retryJob({ jobId: model.id, taskIndexes }, CALL)))?.job);
}

export async function retryNow(model: JobModel, taskIndexes: number[] = []): Promise<void> {
  const done = await attempt(() => jobs.retryNow({ jobId: model.id, taskIndexes }, CALL));
  if (!done) return;
  tell(`${plural(done.tasks, "task")} will not wait for the next attempt.`);
  model.take(done.job);
}

export async function cancelTasks(model: JobModel, taskIndexes: number[]): Promise<void> {
  const number = taskIndexes.length;
  const answer = await ask({
    title: number === 1 ? `Cancel task #${count(taskIndexes[0]!)}?` : `Cancel ${plural(number, "task")}?`,
    text: `${plural(number, "task")} will end as cancelled. The rest of the job goes on.`,
    yes: `Cancel ${plural(number, "task")}`,
    isDangerous: true,
  });
  if (!answer) return;
  const done = await attempt(() => jobs.cancelTasks({ jobId: model.id, taskIndexes }, CALL));
  if (!done) return;
  tell(`${plural(done.tasks, "task")} cancelled.`);
  model.take(done.job);
}

// Returns whether it is deleted.
export async function deleteJob(job: Job): Promise<boolean> {
  const answer = await ask({
    title: "Delete this job?",
    text: `“${plain(titleOf(job))}”, its ${plural(job.counts?.total ?? 0, "task")} and the bodies that it fetched will be deleted. They cannot be recovered.`,
    yes: "Delete 1 job",
    isDangerous: true,
    option: "Also delete the downloaded files",
  });
  if (!answer) return false;
  const done = await attempt(() => jobs.deleteJob({ jobId: job.jobId, deleteFiles: answer.option }, CALL));
  if (done) tell(`“${plain(titleOf(job))}” was deleted.`);
  return done !== null;
}
