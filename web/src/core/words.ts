// The words of the contract as people read them, and what each state of a job allows.
import { GroupMode, JobEventKind, JobState, type FailureCount, type Job } from "./contract";
import { FailureReason, TaskKind, TaskState, WaitReason } from "./contract";
import { count } from "./format";

export const jobState = (state: JobState): string => (JobState[state] ?? "unspecified").toLowerCase();
export const taskState = (state: TaskState): string => (TaskState[state] ?? "unspecified").toLowerCase();
export const reasonWord = (reason: FailureReason): string => (FailureReason[reason] ?? "unspecified").toLowerCase();
export const kindWord = (kind: TaskKind): string => (TaskKind[kind] ?? "").toLowerCase();
export const modeWord = (mode: GroupMode): string => (GroupMode[mode] ?? "").toLowerCase().replaceAll("_", " ");
export const waitWord = (reason: WaitReason): string => (WaitReason[reason] ?? "").toLowerCase();
export const eventWord = (kind: JobEventKind): string => (JobEventKind[kind] ?? "").toLowerCase();

export const say = (word: string): string => word.replaceAll("_", " ");

const REASONS: Partial<Record<FailureReason, string>> = {
  [FailureReason.UNSPECIFIED]: "Other failures",
  [FailureReason.DNS]: "Name not found",
  [FailureReason.CONNECT]: "Could not connect",
  [FailureReason.TLS]: "TLS failed",
  [FailureReason.PROXY]: "Proxy failed",
  [FailureReason.TIMEOUT_CONNECT]: "Connecting took too long",
  [FailureReason.TIMEOUT_HEADERS]: "No answer in time",
  [FailureReason.TIMEOUT_IDLE]: "The body stalled",
  [FailureReason.LOW_SPEED]: "Too slow",
  [FailureReason.TIMEOUT_ATTEMPT]: "Attempt took too long",
  [FailureReason.TIMEOUT_TASK]: "Task took too long",
  [FailureReason.TIMEOUT_JOB]: "Job took too long",
  [FailureReason.TOO_MANY_REDIRECTS]: "Too many redirects",
  [FailureReason.FORBIDDEN_ADDRESS]: "Forbidden address",
  [FailureReason.FORBIDDEN_PATH]: "Forbidden path",
  [FailureReason.PROTOCOL]: "Malformed response",
  [FailureReason.TRUNCATED]: "Body cut short",
  [FailureReason.TOO_LARGE]: "Too large",
  [FailureReason.SIZE_MISMATCH]: "Size mismatch",
  [FailureReason.CHECKSUM_MISMATCH]: "Checksum mismatch",
  [FailureReason.CONTENT_CHANGED]: "Content changed",
  [FailureReason.BAD_CONTENT]: "Not the JSON expected",
  [FailureReason.FILE_EXISTS]: "File exists",
  [FailureReason.DISK_FULL]: "Disk full",
  [FailureReason.IO]: "Disk error",
  [FailureReason.SIBLING_FAILED]: "Stopped by a sibling",
  [FailureReason.CANCELLED]: "Cancelled",
  [FailureReason.INTERNAL]: "Internal error",
  [FailureReason.CREDENTIAL]: "Credential",
  [FailureReason.SECRET_ECHOED]: "Secret echoed",
};

export const reasonText = (reason: FailureReason, status = 0): string =>
  reason === FailureReason.HTTP_STATUS ? `HTTP ${status || "status"}` : (REASONS[reason] ?? say(reasonWord(reason)));

export function failureText(it: FailureCount): string {
  const where = it.host ? ` at ${it.host}` : "";
  return `${reasonText(it.reason, it.httpStatus)} ×${count(it.count)}${where}`;
}

export const JOB_STATES = [
  JobState.PENDING, JobState.RUNNING, JobState.PAUSED, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED,
  JobState.CANCELLED,
];
export const TASK_STATES = [
  TaskState.PENDING, TaskState.RUNNING, TaskState.BACKING_OFF, TaskState.SUCCEEDED, TaskState.FAILED,
  TaskState.CANCELLED,
];
export const FAILURE_REASONS = Object.values(FailureReason).filter(
  (it): it is FailureReason => typeof it === "number" && it !== FailureReason.UNSPECIFIED,
);

export const jobStateOf = (word: string): JobState | undefined => JOB_STATES.find((it) => jobState(it) === word);
export const taskStateOf = (word: string): TaskState | undefined => TASK_STATES.find((it) => taskState(it) === word);
export const reasonOf = (word: string): FailureReason | undefined =>
  FAILURE_REASONS.find((it) => reasonWord(it) === word);

export const hasEnded = (state: JobState): boolean => state >= JobState.SUCCEEDED;
export const taskHasEnded = (state: TaskState): boolean => state >= TaskState.SUCCEEDED;
export const canPause = (state: JobState): boolean => state === JobState.PENDING || state === JobState.RUNNING;
export const canResume = (state: JobState): boolean => state === JobState.PAUSED;
export const canCancel = (state: JobState): boolean => !hasEnded(state) && state !== JobState.CANCELLING;
export const canRetry = (job: Job): boolean =>
  hasEnded(job.state) && ((job.counts?.failed ?? 0) > 0 || (job.counts?.cancelled ?? 0) > 0);

// The name of a job for people: a job without a title has its id.
export const titleOf = (job: { title: string; jobId: string }): string => job.title || job.jobId;

// The labels of a job in the order of their names; a message has them in any order, another one each time.
export const labelsOf = (job: { labels: Record<string, string> }): [string, string][] =>
  Object.entries(job.labels).sort(([one], [other]) => (one < other ? -1 : 1));
