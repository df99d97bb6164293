// What the submit page makes of its fields: a job for the server, and the commands that would send the same.
import { create, fromJsonString, toJson, toJsonString } from "@bufbuild/protobuf";
import { GroupMode, JobSpecSchema, TaskSpecSchema, type JobSpec, type TaskSpec } from "./contract";
import { readLabels } from "./query";

export interface Draft {
  urls: string;
  isFetch: boolean;
  title: string;
  labels: string;
  mode: GroupMode;
  maxConcurrency: string;
  maxAttempts: string;
  directory: string;
  headers: { name: string; value: string; isSecret: boolean }[];
}

export const EMPTY: Draft = {
  urls: "", isFetch: false, title: "", labels: "", mode: GroupMode.COLLECT, maxConcurrency: "", maxAttempts: "",
  directory: "", headers: [],
};

export const TASKS_MAX = 10_000;

export interface Made {
  job: JobSpec;
  // The line of the field that each task came from, from 0.
  lines: number[];
}

// A line is a URL, or a TaskSpec as JSON.
export function make(draft: Draft): Made {
  const lines: number[] = [];
  const tasks: TaskSpec[] = [];
  draft.urls.split("\n").forEach((raw, line) => {
    const text = raw.trim();
    if (!text || text.startsWith("#")) return;
    tasks.push(text.startsWith("{") ? fromJsonString(TaskSpecSchema, text) : task(text, draft.isFetch));
    lines.push(line);
  });
  const headers = draft.headers.filter((it) => it.name.trim());
  const attempts = whole("job.defaults.retry", draft.maxAttempts);
  const defaults = {
    ...(attempts ? { retry: { maxAttempts: attempts } } : {}),
    ...(headers.length ? { http: { headers: headers.map((it) => ({ name: it.name.trim(), value: it.value, sensitive: it.isSecret })) } } : {}),
  };
  const job = create(JobSpecSchema, {
    title: draft.title,
    labels: readLabels(draft.labels),
    tasks,
    group: { mode: draft.mode, maxConcurrency: whole("job.group.max_concurrency", draft.maxConcurrency) },
    directory: draft.directory,
    ...(Object.keys(defaults).length ? { defaults } : {}),
  });
  return { job, lines };
}

// What the page finds wrong with a field, before the server is asked.
export class FieldError extends Error {
  constructor(readonly field: string, message: string) {
    super(message);
  }
}

function whole(field: string, text: string): number {
  const value = Number(text);
  if (/^\d*$/.test(text.trim()) && value <= 4_294_967_295) return value;
  throw new FieldError(field, "write a whole number up to 4,294,967,295");
}

const task = (url: string, isFetch: boolean): TaskSpec =>
  create(TaskSpecSchema, { work: isFetch ? { case: "fetch", value: { url } } : { case: "download", value: { url } } });

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

const COMMAND_BYTES_MAX = 4_000;

export type Tool = "curl" | "grpcurl" | "haul";

// A job that is too long for a command line is named as a file.
export function command(tool: Tool, job: JobSpec, origin: string): string {
  const json = toJsonString(JobSpecSchema, job, { useProtoFieldName: true });
  const isLong = json.length > COMMAND_BYTES_MAX;
  const { host, protocol } = new URL(origin);
  switch (tool) {
    case "curl":
      return `curl --json ${isLong ? "@job.json" : quoted(json)} ${origin}/v1/jobs`;
    case "grpcurl": {
      const body = isLong ? `"{\\"job\\":$(cat job.json)}"` : quoted(JSON.stringify({ job: toJson(JobSpecSchema, job, { useProtoFieldName: true }) }));
      return `grpcurl ${protocol === "https:" ? "" : "-plaintext "}-d ${body} ${host.includes(":") ? host : `${host}:443`} haul.v1.JobService/SubmitJob`;
    }
    case "haul":
      return isLong ? `haul --server ${origin} submit -f job.json` : `printf %s ${quoted(json)} | haul --server ${origin} submit -f -`;
  }
}
