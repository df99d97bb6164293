/** How long a server that is away is waited for. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { HaulError } from './errors.js';

/** How long a server that has never answered is waited for: more likely than its restart is a wrong address. */
const FIRST_PATIENCE_MS = 10_000;
/** The wait before the first try after a cut, which doubles with each further one, and its bound. */
const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;

/** Over all calls of a client. */
export class Patience {
  wasReached = false;

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
    await sleep(delay, undefined, this.signal && { signal: this.signal });
  }
}
