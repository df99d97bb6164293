// Submits a job: addresses line by line, or a JobSpec; what the server finds wrong stands beside its field.
import { create, fromJsonString } from "@bufbuild/protobuf";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { CALL, jobs } from "../core/api";
import { GroupMode, JobSpecSchema, type Job, type JobSpec } from "../core/contract";
import { command, EMPTY, FieldError, make, TASKS_MAX, type Draft, type Tool } from "../core/draft";
import { faultOf, type Fault } from "../core/errors";
import { importList, kindOf, ListFault, LIST_WORDS, type ListKind } from "../core/lists";
import { count, plain, plural } from "../core/format";
import { tell } from "../core/notice";
import { useTotals } from "../core/poll";
import { whyNot } from "../core/roles";
import { go, place } from "../core/router";
import { Button, Copy, ErrorBox, Heading } from "../ui/bits";
import { Field, Violations } from "../ui/fields";
import { Icon } from "../ui/icons";
import { specText } from "./job-spec";
import { useReady } from "./ready";
import { HeaderFields } from "./submit-headers";

type Violation = { field: string; description: string };
const FILE_BYTES_MAX = 16 << 20;

export function SubmitPage() {
  useTotals();
  const draft = useSignal<Draft>(EMPTY);
  const json = useSignal<string | null>(null);
  const fault = useSignal<Fault | null>(null);
  const violations = useSignal<Violation[]>([]);
  const isGood = useSignal<Job | null>(null);
  const isBusy = useSignal(false);
  const isOver = useSignal(false);
  const from = place.value.query.get("from");
  // The same press twice is one job; another content is another one.
  const requestId = useSignal<{ text: string; id: string } | null>(null);
  const idOf = (): string => {
    const text = JSON.stringify([json.value, draft.value]);
    if (requestId.peek()?.text !== text) requestId.value = { text, id: newId() };
    return requestId.peek()!.id;
  };
  useReady(true);

  const set = (changes: Partial<Draft>) => {
    draft.value = { ...draft.value, ...changes };
    isGood.value = null;
  };
  useEffect(() => {
    if (!from) return;
    void jobs.getJob({ jobId: from, includeSpec: true }, CALL).then(
      ({ job }) => {
        if (!job?.spec) return;
        json.value = specText(job.spec);
        if (job.specTasksOmitted) tell("The job has too many tasks to copy; its options are here.", true);
      },
      (error) => (fault.value = faultOf(error)),
    );
  }, [from]);

  const made = (): { job: JobSpec; lines: number[] } | null => {
    try {
      if (json.value !== null) return { job: fromJsonString(JobSpecSchema, json.value || "{}"), lines: [] };
      return make(draft.value);
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      const field = error instanceof FieldError ? error.field : json.value !== null ? "job" : "job.tasks";
      violations.value = [{ field, description: text.replace(/^cannot decode message haul\.v1\.\w+ from JSON: ?/, "not a spec: ") }];
      return null;
    }
  };
  const no = whyNot.submit();
  const send = async (validateOnly: boolean) => {
    if (no) return;
    fault.value = null;
    violations.value = [];
    isGood.value = null;
    const kind = json.value === null ? kindOf(draft.value.urls) : "urls";
    if (!validateOnly) await leaveOther();
    if (kind === "aria2" || kind === "metalink") return sendList(kind, validateOnly);
    const it = made();
    if (!it) return;
    if (it.job.tasks.length > TASKS_MAX) {
      if (json.value === null) return sendList(kind, validateOnly);
      violations.value = [{ field: "job.tasks", description: `at most ${count(TASKS_MAX)} at once; haul submit -i FILE takes any number` }];
      return;
    }
    isBusy.value = true;
    try {
      const { job } = await jobs.submitJob({ job: it.job, validateOnly, requestId: validateOnly ? "" : idOf() }, CALL);
      if (validateOnly) isGood.value = job ?? null;
      else if (job) {
        tell("Submitted.");
        go(`/jobs/${job.jobId}`);
      }
    } catch (error) {
      const found = faultOf(error);
      violations.value = found.violations.map((violation) => inLine(violation, it.lines));
      if (!violations.value.length) fault.value = found;
    }
    isBusy.value = false;
  };
  // A job whose list was cut. Where the list is another one by the next press, nobody asks for the rest of it.
  const cut = useSignal<{ text: string; jobId: string } | null>(null);
  const leaveOther = async () => {
    const before = cut.peek();
    if (!before || before.text === JSON.stringify([json.value, draft.value])) return;
    const cancelled = jobs.cancelJob({ jobId: before.jobId, reason: "its list was changed" }, CALL);
    await cancelled.then(() => (cut.value = null), () => null);
  };
  // What no single message holds, or what only the server reads, goes into an open job. A job whose list does not read is
  // cancelled: none of it is asked for again. One whose server is away goes on with the next press: its tasks are there once.
  const sendList = async (kind: ListKind, validateOnly: boolean) => {
    const { job } = make({ ...draft.value, urls: "" });
    isBusy.value = true;
    let id = "";
    try {
      const requestId = validateOnly ? "" : idOf();
      const answer = await jobs.submitJob({ job: { ...job, open: true }, validateOnly, requestId }, CALL);
      if (validateOnly) {
        isGood.value = answer.job ?? null;
      } else {
        id = answer.job!.jobId;
        await importList(id, draft.value.urls, kind, draft.value.isFetch);
        await jobs.sealJob({ jobId: id }, CALL);
        tell("Submitted.");
        go(`/jobs/${id}`);
      }
    } catch (error) {
      const found = faultOf(error);
      if (found.violations.length || error instanceof ListFault) {
        violations.value = found.violations.length ? found.violations : [{ field: "job.tasks", description: found.message }];
        requestId.value = null;
        if (id) await jobs.cancelJob({ jobId: id, reason: "its list could not be read" }, CALL).catch(() => null);
      } else {
        if (id) cut.value = { text: requestId.peek()!.text, jobId: id };
        fault.value = id ? { ...found, message: `${found.message} Part of the list may be in the job; press Submit again to add the rest.` } : found;
      }
    }
    isBusy.value = false;
  };
  const drop = async (files: FileList | null | undefined) => {
    isOver.value = false;
    const file = files?.[0];
    if (!file) return;
    if (file.size > FILE_BYTES_MAX) return tell("This file is too long for a page; haul submit -i FILE takes it.", true);
    const text = await file.text();
    if (/^\s*\{/.test(text) && file.name.endsWith(".json")) json.value = text;
    else {
      json.value = null;
      set({ urls: text.trimEnd() });
    }
  };

  const shown = violations.value;
  const of = (...starts: string[]) => shown.filter((it) => starts.some((start) => it.field.startsWith(start)));
  const own = ["job.tasks", "job.title", "job.labels", "job.group", "job.defaults.http.headers", "job.defaults.retry", "job.directory"];
  const rest = shown.filter((it) => !own.some((start) => it.field.startsWith(start)));
  const kind = kindOf(draft.value.urls);
  const lines = draft.value.urls.split("\n").filter((it) => it.trim() && !it.trim().startsWith("#")).length;

  return (
    <>
      <div class="page-head">
        <Heading title="Submit a job" />
      </div>
      <form
        class="submit"
        onSubmit={(event) => {
          event.preventDefault();
          void send(false);
        }}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void send(false);
        }}
      >
        <section class="panel submit-main" aria-labelledby="what">
          <div class="panel-head">
            <h2 id="what" class="panel-title">
              {json.value === null ? "What to get" : "JobSpec"}
            </h2>
            <button type="button" class="link push" data-testid="submit-json-open" onClick={() => ((json.value = json.value === null ? jsonOf(made()?.job) : null), (violations.value = []))}>
              {json.value === null ? "Write JSON instead" : "Back to the fields"}
            </button>
          </div>
          {json.value !== null ? (
            <Field label="JobSpec as JSON" violations={of("job")}>
              {(id) => <textarea data-testid="submit-json" class="mono tall" spellcheck={false} rows={18} aria-describedby={id} value={json.value ?? ""} onInput={(event) => ((json.value = event.currentTarget.value), (isGood.value = null))} />}
            </Field>
          ) : (
            <>
              <div
                class={isOver.value ? "drop over" : "drop"}
                onDragOver={(event) => {
                  event.preventDefault();
                  isOver.value = true;
                }}
                onDragLeave={() => (isOver.value = false)}
                onDrop={(event) => {
                  event.preventDefault();
                  void drop(event.dataTransfer?.files);
                }}
              >
                <Field label="URLs, one a line" violations={of("job.tasks")} hint={!lines ? "Or TaskSpecs as JSON, an input file of aria2, a Metalink document. Drop a file here, or choose one." : kind === "urls" || kind === "json" ? plural(lines, "task") : LIST_WORDS[kind]}>
                  {(id) => <textarea data-testid="submit-urls" class="mono" spellcheck={false} rows={9} aria-describedby={id} placeholder="https://example.com/file.iso" value={draft.value.urls} onInput={(event) => set({ urls: event.currentTarget.value })} />}
                </Field>
                <label class="button file">
                  <Icon name="plus" />
                  <span>Choose a file…</span>
                  <input type="file" data-testid="submit-file" accept=".txt,.jsonl,.ndjson,.json,.aria2,.meta4,.metalink,text/plain,application/json" onChange={(event) => void drop(event.currentTarget.files)} />
                </label>
              </div>
              <fieldset class="radios">
                <legend>What to do with each</legend>
                <label class="check">
                  <input type="radio" name="kind" data-testid="submit-download" checked={!draft.value.isFetch} onChange={() => set({ isFetch: false })} />
                  <span>
                    <b>Download</b> <span class="muted">to a file on the server, resumed and verified</span>
                  </span>
                </label>
                <label class="check">
                  <input type="radio" name="kind" data-testid="submit-fetch" checked={draft.value.isFetch} onChange={() => set({ isFetch: true })} />
                  <span>
                    <b>Fetch</b> <span class="muted">the response, kept with the job</span>
                  </span>
                </label>
              </fieldset>
            </>
          )}
        </section>
        {json.value === null && (
          <section class="panel submit-side" aria-labelledby="how">
            <div class="panel-head">
              <h2 id="how" class="panel-title">
                How
              </h2>
            </div>
            <Field label="Title" violations={of("job.title")}>
              {(id) => <input type="text" data-testid="submit-title" aria-describedby={id} value={draft.value.title} placeholder="nightly mirror" onInput={(event) => set({ title: event.currentTarget.value })} />}
            </Field>
            <Field label="Labels" violations={of("job.labels")}>
              {(id) => <input type="text" data-testid="submit-labels" aria-describedby={id} value={draft.value.labels} placeholder="team=ml, env=prod" onInput={(event) => set({ labels: event.currentTarget.value })} />}
            </Field>
            <Field label="When a task fails" violations={of("job.group.mode", "job.group.max_failures")}>
              {(id) => (
                <select data-testid="submit-mode" aria-describedby={id} value={String(draft.value.mode)} onChange={(event) => set({ mode: Number(event.currentTarget.value) })}>
                  <option value={GroupMode.COLLECT}>the others go on (collect)</option>
                  <option value={GroupMode.FAIL_FAST}>the others are cancelled (fail fast)</option>
                  <option value={GroupMode.FIRST_SUCCESS}>until one succeeds (first success)</option>
                </select>
              )}
            </Field>
            <div class="grid-2">
              <Field label="Tasks at once" violations={of("job.group.max_concurrency")}>
                {(id) => <input type="text" inputMode="numeric" pattern="[0-9]*" aria-describedby={id} placeholder="no limit" value={draft.value.maxConcurrency} onInput={(event) => set({ maxConcurrency: event.currentTarget.value })} />}
              </Field>
              <Field label="Attempts a task" violations={of("job.defaults.retry")}>
                {(id) => <input type="text" inputMode="numeric" pattern="[0-9]*" aria-describedby={id} placeholder="5" value={draft.value.maxAttempts} onInput={(event) => set({ maxAttempts: event.currentTarget.value })} />}
              </Field>
            </div>
            {!draft.value.isFetch && (
              <Field label="Directory" hint="Relative to the server's download root" violations={of("job.directory")}>
                {(id) => <input type="text" aria-describedby={id} placeholder="the job's id" value={draft.value.directory} onInput={(event) => set({ directory: event.currentTarget.value })} />}
              </Field>
            )}
            <HeaderFields headers={draft.value.headers} set={(headers) => set({ headers })} violations={of("job.defaults.http.headers")} />
          </section>
        )}
        <div class="submit-end">
          {json.value === null && rest.length > 0 && (
            <div class="note bad" role="alert">
              <ul>
                {rest.map((it) => (
                  <li key={it.field}>
                    <code>{it.field}</code> <Violations of={[it]} />
                  </li>
                ))}
              </ul>
            </div>
          )}
          {fault.value && <ErrorBox fault={fault.value} />}
          {shown.length > 0 && (
            <p class="bad-text" role="alert">
              {plural(shown.length, "field")} {shown.length === 1 ? "needs" : "need"} another value.
            </p>
          )}
          {isGood.value && (
            <p class="good-text" role="status" data-testid="submit-ok">
              <Icon name="check" /> The server would take this job{isGood.value.counts?.total ? ` with ${plural(isGood.value.counts.total, "task")}` : "; its list is read when it is submitted"}.
            </p>
          )}
          <div class="form-actions">
            <Button hook="submit-send" kind="primary" submits off={isBusy.value} no={no}>
              Submit
            </Button>
            <Button hook="submit-check" off={isBusy.value} no={no} onClick={() => void send(true)}>
              Check
            </Button>
            {no && <span class="muted">{no}.</span>}
          </div>
          <Commands draft={draft.value} json={json.value} />
        </div>
      </form>
    </>
  );
}

// A violation of a task names the line that the task came from.
function inLine(it: Violation, lines: number[]): Violation {
  const found = /^job\.tasks\[(\d+)\](?:\.(?:fetch|download))?(?:\.(\w+))?/.exec(it.field);
  if (!found) return it;
  const line = lines[Number(found[1])];
  return line === undefined ? { field: it.field, description: `${it.field} ${it.description}` } : { field: it.field, description: `line ${count(line + 1)}: ${found[2] ?? ""} ${plain(it.description)}` };
}

function jsonOf(job: JobSpec | undefined): string {
  return specText(job ?? create(JobSpecSchema));
}

// `crypto.randomUUID` is for secure pages only.
function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((it) => it.toString(16).padStart(2, "0")).join("");
}

const TOOLS: Tool[] = ["curl", "grpcurl", "haul"];

function Commands({ draft, json }: { draft: Draft; json: string | null }) {
  const tool = useSignal<Tool>("curl");
  if (json === null && !draft.urls.trim()) return null;
  // What one types as a secret is not shown beside it.
  const shown = { ...draft, headers: draft.headers.map((it) => (it.isSecret ? { ...it, value: "SECRET" } : it)) };
  let text = "";
  try {
    text = command(tool.value, json === null ? make(shown).job : fromJsonString(JobSpecSchema, json || "{}"), location.origin);
  } catch {
    return null;
  }
  return (
    <section class="panel commands" aria-labelledby="same">
      <div class="panel-head">
        <h2 id="same" class="panel-title">
          The same from a terminal
        </h2>
        <div class="segments push" role="group" aria-label="Tool">
          {TOOLS.map((it) => (
            <button key={it} type="button" aria-pressed={it === tool.value} onClick={() => (tool.value = it)}>
              {it}
            </button>
          ))}
        </div>
      </div>
      <div class="command">
        <code data-testid="submit-command" data-tool={tool.value}>
          {text}
        </code>
        <Copy text={text} what="the command" />
      </div>
    </section>
  );
}
