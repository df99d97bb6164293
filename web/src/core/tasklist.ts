// The tasks of a job as its table has them: by their places where nothing is looked for, else page behind page.
import { signal } from "@preact/signals";
import { CALL, jobs as service } from "./api";
import { FailureReason, TaskState, type Task } from "./contract";
import { faultOf, isAborted, type Fault } from "./errors";
import { draw } from "./frame";
import { reasonOf, taskStateOf } from "./words";
import { words } from "./query";

export const PAGE = 100;
const PAGES_MAX = 30;
const QUIET_MS = 60;

export interface TasksQuery {
  states: string[];
  reasons: string[];
  statuses: number[];
  host: string;
  search: string;
}

export function readTasksQuery(query: URLSearchParams): TasksQuery {
  return {
    states: words(query.get("state")).filter((it) => taskStateOf(it)),
    reasons: words(query.get("reason")).filter((it) => reasonOf(it)),
    statuses: words(query.get("status")).map(Number).filter((it) => it >= 100 && it <= 999),
    host: query.get("host") ?? "",
    search: query.get("search") ?? "",
  };
}

export const isLooking = (it: TasksQuery): boolean =>
  Boolean(it.states.length || it.reasons.length || it.statuses.length || it.host || it.search);

function conditions(it: TasksQuery) {
  return {
    states: it.states.map((word) => taskStateOf(word) as TaskState),
    reasons: it.reasons.map((word) => reasonOf(word) as FailureReason),
    httpStatuses: it.statuses,
    host: it.host,
    search: it.search,
  };
}

abstract class Tasks {
  readonly version = signal(0);
  readonly fault = signal<Fault | null>(null);
  readonly isLoaded = signal(false);
  protected readonly aborts = new AbortController();

  constructor(protected readonly jobId: string) {}

  abstract at(place: number): Task | undefined;
  abstract want(first: number, last: number): void;
  abstract refresh(): Promise<void>;
  // Takes what the watch sent about tasks that are held.
  abstract take(tasks: Map<number, Task>): void;

  stop = (): void => this.aborts.abort();

  protected changed(): void {
    draw("tasks", () => this.version.value++);
  }

  protected async guard(work: () => Promise<void>): Promise<void> {
    try {
      await work();
      this.fault.value = null;
    } catch (error) {
      if (!isAborted(error, this.aborts.signal)) this.fault.value = faultOf(error);
    } finally {
      if (!this.aborts.signal.aborted) this.isLoaded.value = true;
    }
  }

  protected list(request: Parameters<typeof service.listTasks>[0]) {
    return service.listTasks({ jobId: this.jobId, pageSize: PAGE, ...request }, { ...CALL, signal: this.aborts.signal });
  }
}

// Every task, by its place.
export class TasksByPlace extends Tasks {
  #pages = new Map<number, Task[]>();
  #asked = new Set<number>();
  #seen: [number, number] = [0, 0];
  #quiet: ReturnType<typeof setTimeout> | undefined;

  at = (place: number): Task | undefined => this.#pages.get(Math.floor(place / PAGE))?.[place % PAGE];

  want(first: number, last: number): void {
    this.#seen = [first, last];
    clearTimeout(this.#quiet);
    // Whoever drags the bar passes many pages, and means the last one.
    const isKnown = this.#wanted().every((it) => this.#pages.has(it));
    if (!isKnown) this.#quiet = setTimeout(() => this.#load(this.#wanted()), this.isLoaded.peek() ? QUIET_MS : 0);
  }

  // The pages in sight, and the next ones.
  #wanted(): number[] {
    const [first, last] = this.#seen;
    const pages = [];
    for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page++) pages.push(page);
    return pages;
  }

  #load(pages: number[]): void {
    for (const page of pages.filter((it) => !this.#pages.has(it) && !this.#asked.has(it))) {
      this.#asked.add(page);
      void this.guard(() => this.#read(page)).finally(() => this.#asked.delete(page));
    }
  }

  async #read(page: number): Promise<void> {
    const tasks: Task[] = [];
    let pageToken = "";
    do {
      const part = await this.list({ firstTaskIndex: page * PAGE, pageToken, pageSize: PAGE - tasks.length });
      tasks.push(...part.tasks);
      pageToken = part.tasks.length ? part.nextPageToken : "";
    } while (pageToken && tasks.length < PAGE);
    this.#pages.delete(page);
    this.#pages.set(page, tasks);
    const [first, last] = this.#seen;
    for (const old of this.#pages.keys()) {
      if (this.#pages.size <= PAGES_MAX) break;
      if (old < Math.floor(first / PAGE) || old > Math.floor(last / PAGE)) this.#pages.delete(old);
    }
    this.changed();
  }

  async refresh(): Promise<void> {
    await this.guard(async () => {
      await Promise.all(this.#wanted().map((page) => this.#read(page)));
    });
  }

  take(tasks: Map<number, Task>): void {
    let isHeld = false;
    for (const [index, task] of tasks) {
      const page = this.#pages.get(Math.floor(index / PAGE));
      if (page?.[index % PAGE]) {
        page[index % PAGE] = task;
        isHeld = true;
      }
    }
    if (isHeld) this.version.value++;
  }
}

// The tasks that match, in their order, as far as they were looked for.
export class TasksThatMatch extends Tasks {
  readonly rows = signal<Task[]>([]);
  readonly next = signal("");
  readonly examined = signal(0);
  #isLoading = false;

  constructor(
    jobId: string,
    readonly query: TasksQuery,
  ) {
    super(jobId);
    void this.more();
  }

  at = (place: number): Task | undefined => this.rows.peek()[place];

  want(_first: number, last: number): void {
    if (last >= this.rows.peek().length - PAGE / 2 && this.next.peek() && !this.examined.peek()) void this.more();
  }

  async more(): Promise<void> {
    if (this.#isLoading) return;
    this.#isLoading = true;
    await this.guard(async () => {
      const page = await this.list({ ...conditions(this.query), pageToken: this.next.peek() });
      this.rows.value = [...this.rows.peek(), ...page.tasks];
      this.next.value = page.nextPageToken;
      // A short page with a token: the server stopped looking, and goes on when one asks it to.
      this.examined.value = page.nextPageToken && page.tasks.length < PAGE ? this.examined.peek() + page.examined : 0;
      this.changed();
    });
    this.#isLoading = false;
  }

  async refresh(): Promise<void> {
    if (this.rows.peek().length > PAGE || this.#isLoading) return;
    await this.guard(async () => {
      const page = await this.list(conditions(this.query));
      if (this.rows.peek().length > PAGE) return;
      this.rows.value = page.tasks;
      this.next.value = page.nextPageToken;
      this.changed();
    });
  }

  take(tasks: Map<number, Task>): void {
    if (!this.rows.peek().some((it) => tasks.has(it.taskIndex))) return;
    this.rows.value = this.rows.peek().map((it) => tasks.get(it.taskIndex) ?? it);
    this.version.value++;
  }
}
