/** What went wrong, with what the server said about it. */

import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb.js';

/** A field of the request that is wrong, by its path (`job.tasks[3].fetch.url`), and why. */
export interface Violation {
  readonly field: string;
  readonly description: string;
}

/** Codes of connections that broke, where no server has said them: Node.js resets open streams with any of them. */
const BROKEN = [Code.Unknown, Code.Internal, Code.Aborted, Code.Canceled];

/** A call that failed. */
export class HaulError extends Error {
  override readonly name = 'HaulError';

  constructor(
    /** The code of gRPC. */
    readonly code: Code,
    message: string,
    /** Stable, and explained in docs/ERRORS.md. Empty where no haul server answered. */
    readonly reason = '',
    /** Every wrong field of an INVALID_ARGUMENT. */
    readonly violations: readonly Violation[] = [],
    /** How long the server asks to wait before another try, where it says so. */
    readonly retryDelayMs?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /**
   * Whether the connection broke or the server is away, so that the call can be made again.
   *
   * A haul server gives a reason with each error of its own, so that one without is the connection's or a proxy's.
   */
  get isCut(): boolean {
    return this.code === Code.Unavailable || (this.reason === '' && BROKEN.includes(this.code));
  }

  /** Reads what a call has thrown. */
  static of(thrown: unknown): HaulError {
    if (thrown instanceof HaulError) return thrown;
    const error = ConnectError.from(thrown);
    const [info] = error.findDetails(ErrorInfoSchema);
    const violations = error
      .findDetails(BadRequestSchema)
      .flatMap((bad) => bad.fieldViolations)
      .map(({ field, description }) => ({ field, description }));
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const delayMs = delay && Number(delay.seconds) * 1000 + delay.nanos / 1e6;
    // What the server has said is all read; what a connection has done may be of use.
    const cause = info ? {} : { cause: thrown };
    return new HaulError(error.code, error.rawMessage, info?.reason, violations, delayMs, cause);
  }
}
