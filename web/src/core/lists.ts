// Lists of other programs: what they look like, and how they become tasks of a job, on the server, which reads them.
import { token } from "./api";

export type ListKind = "urls" | "json" | "aria2" | "metalink";

const TYPES: Record<ListKind, string> = {
  urls: "text/uri-list", json: "application/x-ndjson", aria2: "text/x-aria2-input", metalink: "application/metalink4+xml",
};

export const LIST_WORDS: Record<ListKind, string> = {
  urls: "a list of URLs", json: "a list of TaskSpecs", aria2: "an input file of aria2", metalink: "a Metalink document",
};

// As the command line guesses.
export function kindOf(text: string): ListKind {
  const lines = text.split("\n").filter((it) => it.trim() && !it.trim().startsWith("#"));
  const first = lines[0]?.trim() ?? "";
  if (first.startsWith("<")) return "metalink";
  if (lines.some((it) => /^[ \t]+[a-z0-9-]+=/.test(it) || it.trim().includes("\t"))) return "aria2";
  return lines.length && lines.every((it) => it.trim().startsWith("{")) ? "json" : "urls";
}

// What the server found wrong with a list. Anything else is no fault of the list: it may be sent again.
export class ListFault extends Error {}

// Adds the tasks of a list to an open job, each once, however often it is sent. Fails with what the server says of the first line
// that it cannot read.
export async function importList(jobId: string, text: string, kind: ListKind, isFetch: boolean): Promise<number> {
  const headers: Record<string, string> = { "content-type": TYPES[kind] };
  if (token.peek()) headers.authorization = `Bearer ${token.peek()}`;
  const url = `/v1/jobs/${encodeURIComponent(jobId)}/tasks:import?kind=${isFetch ? "fetch" : "download"}`;
  const answer = await fetch(url, { method: "POST", headers, body: text });
  let count = 0;
  for (const line of (await answer.text()).split("\n").filter(Boolean)) {
    const message = JSON.parse(line);
    if (message.error) throw judged(message.error);
    count += message.task_count ?? 0;
  }
  return count;
}

// Below 500 the list or its sender is refused; what is busy or away is not for ever.
const judged = ({ code, message }: { code: number; message: string }): Error =>
  code < 500 && code !== 429 && code !== 401 ? new ListFault(message) : new Error(message);
