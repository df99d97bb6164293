// The list of jobs as the page has it: loaded page by page, then kept at what the server says of the rows that are there.
//
// The list does not move under the pointer: what is new is counted, and shown when one asks for it.
import { batch, signal } from "@preact/signals";
import { timestampFromMs, timestampMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import { announce } from "./announce";
import { CALL, jobs as service } from "./api";
import { type Job } from "./contract";
import { faultOf, type Fault } from "./errors";
import { draw } from "./frame";
import { follow, tellTotals } from "./live";
import { listRequest, type JobsQuery } from "./query";
import { jobState, titleOf } from "./words";

const PAGE = 50;
const WATCHED_MAX = 1_000;
const NEW_MAX = 1_000;
const QUIET_MS = 300;
const COUNT_EVERY_MS = 1_000;

export class JobList {
  readonly rows = signal<Job[] | null>(null);
  readonly gone = signal<ReadonlySet<string>>(new Set());
  readonly fault = signal<Fault | null>(null);
  readonly news = signal(0);
  readonly isLoading = signal(false);
  readonly next = signal("");
  // How many jobs the server looked at, where it stopped before the end.
  readonly examined = signal(0);
  #newest = 0;
  #asked = 0;
  #created = 0n;
  #changes = new Map<string, Job>();
  #lost = new Set<string>();
  #watch: ReturnType<typeof follow> | null = null;
  #quiet: ReturnType<typeof setTimeout> | undefined;
  #counting: ReturnType<typeof setTimeout> | undefined;
  #isEnded = false;

  constructor(readonly query: JobsQuery) {}

  start(): void {
    void this.load();
    this.#watch = follow({ stream: (signal, alive) => this.#stream(signal, alive), poll: (signal) => this.#poll(signal) });
  }

  stop(): void {
    this.#isEnded = true;
    this.#watch?.stop();
    clearTimeout(this.#quiet);
    clearTimeout(this.#counting);
  }

  // Loads the first page, or the one behind what is there.
  async load(isMore = false): Promise<void> {
    this.isLoading.value = true;
    // All pages have the same conditions, the time among them.
    const asked = isMore ? this.#asked : Date.now();
    this.#asked = asked;
    try {
      const request = { ...listRequest(this.query, asked), pageSize: PAGE, pageToken: isMore ? this.next.peek() : "" };
      const page = await service.listJobs(request, CALL);
      if (this.#isEnded) return;
      const rows = isMore ? [...(this.rows.peek() ?? []), ...page.jobs] : page.jobs;
      batch(() => {
        this.rows.value = rows;
        this.next.value = page.nextPageToken;
        this.examined.value = page.nextPageToken && page.jobs.length < PAGE ? page.examined : 0;
        this.fault.value = null;
        if (!isMore) {
          this.gone.value = new Set();
          this.news.value = 0;
          this.#newest = rows[0] ? this.#timeOf(rows[0]) : asked - 60_000;
        }
      });
      this.#reopen();
    } catch (error) {
      if (!this.#isEnded) this.fault.value = faultOf(error);
    } finally {
      this.isLoading.value = false;
    }
  }

  // The watch is over the rows that are there, so other rows want another one: once they have come to rest.
  #reopen(): void {
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#watch?.again(), QUIET_MS);
  }

  #ids = (): string[] => (this.rows.peek() ?? []).slice(0, WATCHED_MAX).map((it) => it.jobId);
  #timeOf = (job: Job): number => msOf(this.query.isByEnd ? job.endTime : job.createTime);

  async #stream(signal: AbortSignal, alive: () => void): Promise<void> {
    const ids = this.#ids();
    const told = new Set<string>();
    this.#created = 0n;
    const request = { jobIds: ids, maxJobs: ids.length ? undefined : 0, totals: true, labels: {} };
    for await (const { event } of service.watchJobs(request, { signal })) {
      alive();
      if (this.rows.peek() === null && !this.isLoading.peek()) void this.load();
      if (event.case === "job") {
        told.add(event.value.jobId);
        this.#change(event.value);
      } else if (event.case === "synced") {
        ids.filter((id) => !told.has(id)).forEach((id) => this.#lose(id));
        void this.#count();
      } else if (event.case === "deletedJobId") {
        this.#lose(event.value);
      } else if (event.case === "totals") {
        tellTotals(event.value);
        if (this.query.isByEnd || event.value.jobsCreated !== this.#created) this.#countSoon();
        this.#created = event.value.jobsCreated;
      }
    }
    // A watch of a list does not end by itself.
    if (!signal.aborted) throw new Error("the stream ended");
  }

  async #poll(signal: AbortSignal): Promise<void> {
    const ids = this.#ids();
    const told = new Set<string>();
    const ended = new AbortController();
    const request = { jobIds: ids, maxJobs: ids.length ? undefined : 0, totals: true };
    try {
      // A watch that is left as soon as it has sent everything once.
      for await (const { event } of service.watchJobs(request, { signal: AbortSignal.any([signal, ended.signal]) })) {
        if (event.case === "job") told.add(event.value.jobId), this.#change(event.value);
        else if (event.case === "totals") tellTotals(event.value);
        else if (event.case === "synced") break;
      }
    } finally {
      ended.abort();
    }
    ids.filter((id) => !told.has(id)).forEach((id) => this.#lose(id));
    await this.#count();
  }

  #change(job: Job): void {
    // A job that a watch tells of and that is not on the page is new; it is counted, not shown.
    this.#changes.set(job.jobId, job);
    this.#draw();
  }

  #lose(id: string): void {
    this.#lost.add(id);
    this.#draw();
  }

  #draw(): void {
    draw("jobs", () => {
      if (this.#isEnded) return;
      const rows = this.rows.peek();
      if (rows && this.#changes.size) {
        this.rows.value = rows.map((it) => {
          const changed = this.#changes.get(it.jobId);
          if (changed && changed.state !== it.state) announce(`${titleOf(it)}: ${jobState(changed.state)}`);
          return changed ?? it;
        });
      }
      if (this.#lost.size) this.gone.value = new Set([...this.gone.peek(), ...this.#lost]);
      this.#changes.clear();
      this.#lost.clear();
    });
  }

  #countSoon(): void {
    this.#counting ??= setTimeout(() => {
      this.#counting = undefined;
      void this.#count();
    }, COUNT_EVERY_MS);
  }

  // How many jobs there are by now that the list would begin with.
  async #count(): Promise<void> {
    if (!this.#newest || this.#isEnded) return;
    const from = timestampFromMs(this.#newest);
    const after = this.query.isByEnd ? { endTimeAfter: from } : { createTimeAfter: from };
    try {
      const page = await service.listJobs({ ...listRequest(this.query), ...after, pageSize: NEW_MAX }, CALL);
      const known = new Set(this.#ids());
      const news = page.jobs.filter((it) => !known.has(it.jobId)).length;
      // Where there is nothing, nothing moves under the pointer.
      if (news && known.size === 0) return void this.load();
      draw("news", () => (this.news.value = news));
    } catch {
      // It is counted again with the next change.
    }
  }
}

const msOf = (time: Timestamp | undefined): number => (time ? timestampMs(time) : 0);
