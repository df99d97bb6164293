// One action on many jobs, on the server: it counts them first, one is asked, then it tells how far it is.
import { create } from "@bufbuild/protobuf";
import { signal } from "@preact/signals";
import { ask } from "../ui/dialog";
import { CALL, jobs } from "./api";
import { JobAction, JobFilterSchema, type JobFilter } from "./contract";
import { faultOf } from "./errors";
import { plural } from "./format";
import { tell } from "./notice";

export interface BulkResult {
  text: string;
  isDone: boolean;
  failed: { jobId: string; message: string }[];
}

export const bulk = signal<BulkResult | null>(null);

export const filterOfIds = (jobIds: string[]): JobFilter => create(JobFilterSchema, { jobIds });

interface Words {
  verb: string;
  done: string;
  isDangerous: boolean;
  explains: string;
}

const WORDS: Partial<Record<JobAction, Words>> = {
  [JobAction.PAUSE]: { verb: "Pause", done: "paused", isDangerous: false, explains: "Running downloads stop at a checkpoint." },
  [JobAction.RESUME]: { verb: "Resume", done: "resumed", isDangerous: false, explains: "" },
  [JobAction.CANCEL]: { verb: "Cancel", done: "cancelled", isDangerous: true, explains: "Their unfinished tasks end as cancelled." },
  [JobAction.RETRY]: { verb: "Retry", done: "retried", isDangerous: false, explains: "Their failed and cancelled tasks run again." },
  [JobAction.DELETE]: {
    verb: "Delete", done: "deleted", isDangerous: true,
    explains: "The jobs and the bodies that they fetched cannot be recovered.",
  },
};

// Returns whether it was done.
export async function control(action: JobAction, filter: JobFilter): Promise<boolean> {
  const words = WORDS[action]!;
  try {
    const matched = await count(action, filter);
    if (!matched) {
      tell(`None of these jobs can be ${words.done} now.`, true);
      return false;
    }
    const answer = await ask({
      title: `${words.verb} ${plural(matched, "job")}?`,
      text: `${plural(matched, "job")} will be ${words.done}. ${words.explains}`,
      yes: `${words.verb} ${plural(matched, "job")}`,
      isDangerous: words.isDangerous,
      option: action === JobAction.DELETE ? "Also delete the downloaded files" : undefined,
    });
    if (!answer) return false;
    await run(action, filter, answer.option, words);
    return true;
  } catch (error) {
    tell(faultOf(error).message, true);
    return false;
  }
}

async function count(action: JobAction, filter: JobFilter): Promise<number> {
  for await (const message of jobs.controlJobs({ action, filter, validateOnly: true }, CALL)) return message.matched;
  return 0;
}

async function run(action: JobAction, filter: JobFilter, deleteFiles: boolean, words: Words): Promise<void> {
  const failed: BulkResult["failed"] = [];
  let last = { matched: 0, done: 0, failedCount: 0 };
  const rest = () => (last.failedCount ? `, ${last.failedCount} could not be` : "");
  try {
    for await (const message of jobs.controlJobs({ action, filter, deleteFiles })) {
      last = message;
      failed.push(...message.failed);
      bulk.value = { text: `${message.done} of ${plural(message.matched, "job")} ${words.done}…`, isDone: false, failed };
    }
  } catch (error) {
    // The server stops with the call that it cannot answer any more. What was done stays done.
    const text = `Cut after ${last.done} of ${plural(last.matched, "job")} ${words.done}${rest()}: ${faultOf(error).message}`;
    bulk.value = { text, isDone: true, failed };
    return;
  }
  bulk.value = { text: `${plural(last.done, "job")} ${words.done}${rest()}.`, isDone: true, failed };
}
