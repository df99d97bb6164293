// The conditions of the list of jobs: what the address says, and what is asked of the server for it.
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { JobFilterSchema, JobOrder, type JobFilter } from "./contract";
import { hasEnded, JOB_STATES, jobStateOf } from "./words";

export interface JobsQuery {
  search: string;
  states: string[];
  labels: Record<string, string>;
  since: string;
  isByEnd: boolean;
}

const UNITS: Record<string, number> = { m: 60e3, h: 3_600e3, d: 86_400e3 };

export function readQuery(query: URLSearchParams): JobsQuery {
  return {
    search: query.get("search") ?? "",
    states: words(query.get("state")).filter((it) => jobStateOf(it)),
    labels: Object.fromEntries(query.getAll("label").filter((it) => it.includes("=")).map(pair)),
    since: sinceMs(query.get("since") ?? "") ? query.get("since")! : "",
    isByEnd: query.get("order") === "end_time",
  };
}

export const words = (text: string | null): string[] => (text ?? "").split(",").filter(Boolean);

const pair = (text: string): [string, string] => [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)];

// Labels as one types them. What stands behind a comma and is no label of its own belongs to the value before it.
export function readLabels(text: string): Record<string, string> {
  const pairs: [string, string][] = [];
  for (const part of text.split(",")) {
    const last = pairs.at(-1);
    if (part.includes("=")) pairs.push(pair(part));
    else if (last) last[1] += `,${part}`;
  }
  return Object.fromEntries(pairs.map(([name, value]) => [name.trim(), value.trim()]));
}

// As the address has them: a parameter each, so that their values may be any text.
export const labelParameters = (labels: Record<string, string>): string[] =>
  Object.entries(labels).map(([name, value]) => `${name}=${value}`);

export const writeLabels = (labels: Record<string, string>): string =>
  Object.entries(labels).map(([name, value]) => `${name}=${value}`).join(",");

export function sinceMs(text: string): number {
  const found = /^(\d{1,4})([mhd])$/.exec(text);
  return found ? Number(found[1]) * UNITS[found[2]!]! : 0;
}

export const isFiltered = (it: JobsQuery): boolean =>
  Boolean(it.search || it.states.length || Object.keys(it.labels).length || it.since);

// As ListJobs takes them.
export function listRequest(it: JobsQuery, now = Date.now()) {
  const from = sinceMs(it.since) ? timestampFromMs(now - sinceMs(it.since)) : undefined;
  return {
    search: it.search,
    states: it.states.map((word) => jobStateOf(word)!),
    labels: it.labels,
    order: it.isByEnd ? JobOrder.END_TIME : JobOrder.CREATE_TIME,
    ...(it.isByEnd ? { endTimeAfter: from } : { createTimeAfter: from }),
  };
}

// As ControlJobs takes them. To mean all jobs, it wants all states to be named. A list by the end has none that goes on.
export function filterOf(it: JobsQuery): JobFilter {
  const { order: _, states: chosen, ...rest } = listRequest(it);
  const known = chosen.length || (isFiltered(it) && !it.isByEnd) ? chosen : JOB_STATES;
  const states = it.isByEnd ? known.filter(hasEnded) : known;
  return create(JobFilterSchema, { ...rest, states });
}
