/** The client. */

import { randomUUID } from 'node:crypto';
import { create, type DescMessage, type DescService, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { type Client as Stub, Code, createClient } from '@connectrpc/connect';
import { gather, type Tasks } from './chunks.js';
import { HaulError } from './errors.js';
import { AccessService } from './gen/haul/v1/access_service_pb.js';
import { AdminService } from './gen/haul/v1/admin_service_pb.js';
import { ContentService, ReadContentRequestSchema } from './gen/haul/v1/content_service_pb.js';
import type { Job, JobSpecSchema } from './gen/haul/v1/job_pb.js';
import {
  type AddTasksRequest,
  JobService,
  SubmitJobRequestSchema,
  WatchJobRequestSchema,
  type WatchJobResponse,
} from './gen/haul/v1/job_service_pb.js';
import { Patience, Retries } from './retries.js';
import { type Options, type Reached, reach, TIMEOUT_MS } from './transport.js';

export type { Options } from './transport.js';

/** The generated client of the service of jobs. */
export type Jobs = Stub<typeof JobService>;

export interface SubmitOptions {
  /** Makes the submission one and the same over several processes. A new one if it is left out. */
  requestId?: string;
  signal?: AbortSignal;
}

export interface WatchOptions {
  /** The sequence after which the events are wanted: 0. */
  after?: bigint;
  /** Brings the bodies of fetches. */
  includeBody?: boolean;
  /** Brings what comes between, too: snapshots (one at each connection) and progress. */
  progress?: boolean;
  signal?: AbortSignal;
}

export interface ReadOptions {
  offset?: bigint;
  /** All of it if it is left out. */
  length?: bigint;
  signal?: AbortSignal;
}

const PATIENCE_MS = 300_000;
/** The chunks of one stream; that many are held in memory until they are answered. */
const WINDOW = 8;
const DURABLE: readonly unknown[] = ['taskEnded', 'jobChanged', 'jobEnded'];

/**
 * A server, connected to with the first call.
 *
 * `submit`, `feed`, `watch` and `read` go on by themselves when the connection breaks or the server restarts. `jobs`,
 * `contents`, `admin` and `access` are the generated clients, for all other calls: calls with one answer have a deadline
 * without being asked to, and throw `HaulError`.
 */
export class Client {
  readonly jobs: Jobs;
  readonly contents: Stub<typeof ContentService>;
  readonly admin: Stub<typeof AdminService>;
  readonly access: Stub<typeof AccessService>;
  readonly #reached: Reached;
  readonly #patience: Patience;
  readonly #timeoutMs: number;

  constructor(address = '127.0.0.1:4285', options: Options = {}) {
    this.#patience = new Patience(options.patienceMs ?? PATIENCE_MS);
    this.#reached = reach(address, options, this.#patience.end.signal);
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    const stub = <S extends DescService>(service: S) => createClient(service, this.#reached.transport);
    this.jobs = stub(JobService);
    this.contents = stub(ContentService);
    this.admin = stub(AdminService);
    this.access = stub(AccessService);
  }

  /** Submits a job, once: however often the connection breaks. It is durable when this resolves. */
  async submit(job: MessageInitShape<typeof JobSpecSchema>, options: SubmitOptions = {}): Promise<Job> {
    const { requestId = randomUUID(), signal } = options;
    const request = written(SubmitJobRequestSchema, { requestId, job });
    const retries = new Retries(this.#patience, signal);
    for (;;) {
      try {
        const answer = await this.jobs.submitJob(request, signal && { signal });
        retries.answered();
        if (answer.job) return answer.job;
        throw new HaulError(Code.Internal, 'the answer has no job');
      } catch (thrown) {
        await retries.wait(HaulError.of(thrown));
      }
    }
  }

  /**
   * Adds tasks to an open job, each once, and resolves to how many. They are durable then.
   *
   * The tasks are taken as they are sent, so there may be any number of them. To go on after this process died, feed all
   * of the same tasks again: what is there already is not added twice.
   */
  async feed(jobId: string, tasks: Tasks, options: { signal?: AbortSignal } = {}): Promise<number> {
    const window = new Map<string, AddTasksRequest>();
    let count = 0;
    for await (const chunk of gather(jobId, tasks)) {
      window.set(chunk.chunkId, chunk);
      if (window.size >= WINDOW) count += await this.#send(window, options.signal);
    }
    return count + (await this.#send(window, options.signal));
  }

  /** Yields each durable event of a job once and in order, to the end of the job. */
  async *watch(jobId: string, options: WatchOptions = {}): AsyncGenerator<WatchJobResponse, void, undefined> {
    const { includeBody = false, progress = false } = options;
    const retries = new Retries(this.#patience, options.signal);
    let afterSequence = options.after ?? 0n;
    for (;;) {
      const request = written(WatchJobRequestSchema, { jobId, afterSequence, includeBody });
      try {
        for await (const message of streamed(options.signal, (signal) => this.jobs.watchJob(request, { signal }))) {
          retries.answered();
          const kind = message.event.case;
          if (DURABLE.includes(kind) && message.sequence > afterSequence) {
            afterSequence = message.sequence;
            yield message;
          } else if (progress && (kind === 'snapshot' || kind === 'progress')) {
            yield message;
          }
        }
        return;
      } catch (thrown) {
        await retries.wait(HaulError.of(thrown));
      }
    }
  }

  /** Yields the content of a task, which is named by its index or its key, in pieces of at most 256 KiB. */
  async *read(jobId: string, task: number | string, options: ReadOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    const retries = new Retries(this.#patience, options.signal);
    let offset = options.offset ?? 0n;
    const end = options.length === undefined ? undefined : offset + options.length;
    const named =
      typeof task === 'number' ? ({ case: 'taskIndex', value: task } as const) : ({ case: 'taskKey', value: task } as const);
    while (end === undefined || offset < end) {
      const length = end === undefined ? 0n : end - offset;
      const request = written(ReadContentRequestSchema, { jobId, task: named, offset, length });
      try {
        for await (const { data, offset: at } of streamed(options.signal, (signal) =>
          this.contents.readContent(request, { signal }),
        )) {
          retries.answered();
          offset = at + BigInt(data.length);
          if (data.length > 0) yield data;
        }
        return;
      } catch (thrown) {
        await retries.wait(HaulError.of(thrown));
      }
    }
  }

  /** Ends the connection, and all calls. */
  close(): void {
    this.#patience.end.abort();
    this.#reached.close();
  }

  /** Sends what is in the window until all of it is answered; resolves to how many tasks that were. */
  async #send(window: Map<string, AddTasksRequest>, signal: AbortSignal | undefined): Promise<number> {
    const retries = new Retries(this.#patience, signal);
    let count = 0;
    while (window.size > 0) {
      const chunks = [...window.values()];
      const timeoutMs = this.#timeoutMs;
      try {
        for await (const { chunkId } of streamed(signal, (signal) => this.jobs.addTasks(each(chunks), { signal, timeoutMs }))) {
          retries.answered();
          count += window.get(chunkId)?.tasks.length ?? 0;
          window.delete(chunkId);
        }
        if (window.size > 0) throw new HaulError(Code.Internal, 'the stream ended before all chunks were answered');
      } catch (thrown) {
        await retries.wait(HaulError.of(thrown));
      }
    }
    return count;
  }
}

/** A request that can be sent. One that cannot is the caller's mistake, which another try does not correct. */
function written<S extends DescMessage>(schema: S, init: MessageInitShape<S>): MessageShape<S> {
  const request = create(schema, init);
  toBinary(schema, request);
  return request;
}

async function* each<T>(all: T[]): AsyncGenerator<T> {
  yield* all;
}

/** The messages of a stream, which is ended when nobody wants more of them. */
async function* streamed<T>(
  signal: AbortSignal | undefined,
  call: (signal: AbortSignal) => AsyncIterable<T>,
): AsyncGenerator<T, void, undefined> {
  const left = new AbortController();
  try {
    yield* call(signal ? AbortSignal.any([signal, left.signal]) : left.signal);
  } finally {
    left.abort();
  }
}
