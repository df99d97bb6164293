// One job as its pages have it: a watch keeps the job, its running tasks and the tasks that the pages hold.
import { create } from "@bufbuild/protobuf";
import { batch, signal } from "@preact/signals";
import { Code } from "@connectrpc/connect";
import { announce } from "./announce";
import { CALL, jobs as service } from "./api";
import { JobSchema, JobState, type Job, TaskState, type JobProgress, type Task, type WatchJobResponse } from "./contract";
import { faultOf, isAborted, type Fault } from "./errors";
import { draw } from "./frame";
import { follow, sleep, totals } from "./live";
import { hasEnded, jobState } from "./words";

const RATES_MAX = 60;
const ENDED_MAX = 2_000;
const WAITS_MS = 2_000;

export class JobModel {
  readonly job = signal<Job | null>(null);
  readonly active = signal<Task[]>([]);
  readonly rates = signal<number[]>([]);
  readonly fault = signal<Fault | null>(null);
  readonly status = signal<"loading" | "there" | "missing" | "gone">("loading");
  // Counts what happened, for pages that then ask again.
  readonly sequence = signal(0n);
  #pending: Job | null = null;
  // The sequence of the newest job that was told.
  #told = 0n;
  #active: Task[] | null = null;
  #ended = new Map<number, Task>();
  #rates: number[] = [];
  #rateAt = 0;
  #watch: ReturnType<typeof follow> | null = null;
  #listeners = new Set<(tasks: Map<number, Task>) => void>();

  constructor(readonly id: string) {}

  start(): void {
    this.#watch = follow({ stream: (signal, alive) => this.#stream(signal, alive), poll: (signal) => this.#poll(signal) });
  }

  stop = (): void => this.#watch?.stop();

  // Calls with each frame's tasks, running and ended.
  listen(listener: (tasks: Map<number, Task>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // Takes the job from the answer of a call, which is newer than what the watch sent.
  take(job: Job | undefined): void {
    if (!job) return;
    const isRestarted = this.job.peek() && hasEnded(this.job.peek()!.state) && !hasEnded(job.state);
    this.#change(job);
    // The watch over jobs would tell it a little later.
    if (isRestarted) this.#watch?.again();
  }

  async #stream(signal: AbortSignal, alive: () => void): Promise<void> {
    try {
      do await this.#follow(signal, alive);
      while (await this.#runsAgain(signal, alive));
    } catch (error) {
      if (isAborted(error, signal) || faultOf(error).code !== Code.NotFound) throw error;
      this.#miss();
    }
  }

  async #follow(signal: AbortSignal, alive: () => void): Promise<void> {
    void this.#readWaits(signal);
    for await (const message of service.watchJob({ jobId: this.id }, { signal })) {
      alive();
      this.#apply(message);
    }
  }

  // The watch of a job ends with the job. The watch over jobs says whether it is retried or deleted after that.
  async #runsAgain(signal: AbortSignal, alive: () => void): Promise<boolean> {
    const left = new AbortController();
    let isThere = false;
    try {
      const request = { jobIds: [this.id] };
      for await (const { event } of service.watchJobs(request, { signal: AbortSignal.any([signal, left.signal]) })) {
        alive();
        if (event.case === "deletedJobId" && event.value === this.id) return this.#miss();
        if (event.case === "synced" && !isThere) return this.#miss();
        if (event.case !== "job" || event.value.jobId !== this.id) continue;
        isThere = true;
        this.#change(event.value);
        if (!hasEnded(event.value.state)) return true;
      }
    } finally {
      left.abort();
    }
    if (!signal.aborted) throw new Error("the stream ended");
    return false;
  }

  // No message of a watch says why tasks wait.
  async #readWaits(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#read(signal).catch(() => {});
      // What is read is drawn with the next frame.
      if (hasEnded((this.#pending ?? this.job.peek())?.state ?? JobState.RUNNING)) return;
      await sleep(WAITS_MS, signal);
    }
  }

  async #poll(signal: AbortSignal): Promise<void> {
    await this.#read(signal);
    if (this.status.peek() === "missing" || hasEnded(this.job.peek()?.state ?? JobState.PENDING)) return;
    const request = { jobId: this.id, states: [TaskState.RUNNING], pageSize: 100 };
    this.#active = (await service.listTasks(request, { ...CALL, signal })).tasks;
    this.#draw();
  }

  async #read(signal: AbortSignal): Promise<void> {
    try {
      const { job } = await service.getJob({ jobId: this.id }, { ...CALL, signal });
      if (job) this.#change(job);
    } catch (error) {
      if (isAborted(error, signal)) throw error;
      const fault = faultOf(error);
      if (fault.code === Code.NotFound || fault.code === Code.InvalidArgument) return void this.#miss();
      if (this.status.peek() === "loading") this.fault.value = fault;
      throw error;
    }
  }

  #miss(): false {
    draw("job-status", () => (this.status.value = this.job.peek() ? "gone" : "missing"));
    return false;
  }

  #apply({ event, sequence }: WatchJobResponse): void {
    switch (event.case) {
      case "snapshot":
      case "jobChanged":
      case "jobEnded":
        this.#change(event.value);
        break;
      case "progress":
        this.#progress(event.value);
        break;
      case "taskEnded":
        this.#ended.set(event.value.taskIndex, event.value);
        // While drawing is paused the oldest give way; the table asks for what is in sight by itself.
        if (this.#ended.size > ENDED_MAX) this.#ended.delete(this.#ended.keys().next().value!);
        this.#draw();
        break;
    }
    if (sequence !== this.sequence.peek()) this.#tellSequence(sequence);
  }

  #tellSequence(sequence: bigint): void {
    draw("job-sequence", () => (this.sequence.value = sequence));
  }

  // An answer may come behind an event that is newer than it: a job that has ended would run again for ever.
  #change(job: Job): void {
    if (job.sequence < this.#told) return;
    this.#told = job.sequence;
    if (job.sequence > this.sequence.peek()) this.#tellSequence(job.sequence);
    const before = this.#pending ?? this.job.peek();
    this.#pending = before ? join(before, job) : job;
    if (hasEnded(job.state)) this.#active = [];
    this.#draw();
  }

  #progress(it: JobProgress): void {
    const before = this.#pending ?? this.job.peek();
    if (!before) return;
    const { counts, progress } = it;
    const failures = it.failures.length ? it.failures : before.failures;
    this.#pending = create(JobSchema, { ...before, counts, progress, failures });
    this.#active = it.active;
    const now = performance.now();
    if (now - this.#rateAt > 900) {
      this.#rateAt = now;
      this.#rates = [...this.#rates, Number(progress?.bytesPerSecond ?? 0)].slice(-RATES_MAX);
    }
    this.#draw();
  }

  #draw(): void {
    draw("job", () => {
      const job = this.#pending ?? this.job.peek();
      if (!job) return;
      const before = this.job.peek();
      if (before && before.state !== job.state) announce(`The job is ${jobState(job.state)}`);
      batch(() => {
        this.job.value = job;
        this.status.value = "there";
        this.fault.value = null;
        if (this.#active) this.active.value = this.#active;
        this.rates.value = this.#rates;
        totals.value = {
          rate: Number(job.progress?.bytesPerSecond ?? 0),
          running: job.counts?.running ?? 0,
          waiting: (job.counts?.pending ?? 0) + (job.counts?.backingOff ?? 0),
        };
      });
      const tasks = new Map(this.#active?.map((it) => [it.taskIndex, it]));
      this.#ended.forEach((it, index) => tasks.set(index, it));
      this.#pending = null;
      this.#active = null;
      this.#ended.clear();
      if (tasks.size) this.#listeners.forEach((listener) => listener(tasks));
    });
  }
}

// Some messages leave out what others bring.
function join(before: Job, job: Job): Job {
  const failures = job.failures.length || !job.counts?.failed ? job.failures : before.failures;
  const waiting = job.waiting.length || hasEnded(job.state) ? job.waiting : before.waiting;
  return failures === job.failures && waiting === job.waiting ? job : create(JobSchema, { ...job, failures, waiting });
}
