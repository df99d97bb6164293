/** How long a server that is away is waited for. */

import { setTimeout as sleep } from 'node:timers/promises';
import { Code } from '@connectrpc/connect';
import { HaulError } from './errors.js';

/** How long a server that has never answered is waited for: more likely than its restart is a wrong address. */
const FIRST_PATIENCE_MS = 10_000;
/** The wait before the first try after a cut, which doubles with each further one, and its bound. */
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;

/** What calls of a client that was closed end with. */
export const closed = (): HaulError => new HaulError(Code.Canceled, 'the client is closed');

/** Over all calls of a client. */
export class Patience {
  wasReached = false;
  /** Aborted when the client is closed: its streams break then, and are not to go on. */
  readonly end = new AbortController();

  constructor(readonly patienceMs: number) {}
}

/** The tries of one call, or of one stream that goes on over many calls. */
export class Retries {
  #tries = 0;
  #since = 0;

  constructor(
    private readonly patience: Patience,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** The server has said something: the next cut is the first one again. */
  answered(): void {
    this.#tries = 0;
    this.patience.wasReached = true;
  }

  /** Waits for the time of the next try; throws the error where there is none. */
  async wait(error: HaulError): Promise<void> {
    this.signal?.throwIfAborted();
    if (this.patience.end.signal.aborted) throw closed();
    if (error.reason) this.patience.wasReached = true;
    const now = performance.now();
    if (this.#tries === 0) this.#since = now;
    const { patienceMs, wasReached } = this.patience;
    const bound = wasReached ? patienceMs : Math.min(FIRST_PATIENCE_MS, patienceMs);
    if (!error.isCut || now - this.#since > bound) throw error;
    const backoff = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** this.#tries);
    this.#tries += 1;
    // Clients that lost one server at once come back one after the other.
    const delay = Math.max(error.retryDelayMs ?? 0, backoff) * (0.75 + Math.random() / 2);
    const end = this.patience.end.signal;
    const signal = this.signal ? AbortSignal.any([this.signal, end]) : end;
    await sleep(delay, undefined, { signal }).catch((thrown) => {
      throw end.aborted ? closed() : thrown;
    });
  }
}
