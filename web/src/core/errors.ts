// What went wrong, in words: the message, the reason and the violations of an error of the server.
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../../gen/google/rpc/error_details_pb";
import { durationMs } from "@bufbuild/protobuf/wkt";

export interface Fault {
  code: Code;
  // A word of `docs/ERRORS.md`; empty where the server could not be asked.
  reason: string;
  message: string;
  violations: { field: string; description: string }[];
  retryAfterMs: number;
}

export function faultOf(error: unknown): Fault {
  const it = ConnectError.from(error);
  const info = it.findDetails(ErrorInfoSchema)[0];
  const retry = it.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return {
    // What the page itself refuses is an argument that is wrong.
    code: isOfPage(it) && it.code === Code.Unknown ? Code.InvalidArgument : it.code,
    reason: info?.reason ?? "",
    message: isUnreachable(it, info?.reason) ? "The server cannot be reached." : it.rawMessage,
    violations: it.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations),
    retryAfterMs: retry ? durationMs(retry) : 0,
  };
}

// A failure without a reason of the server never came from it: the network failed, which browsers say by a TypeError, or the
// page could not even write the message.
function isUnreachable(error: ConnectError, reason: string | undefined): boolean {
  return !reason && !isOfPage(error) && (error.code === Code.Unknown || error.code === Code.Unavailable || error.code === Code.Internal);
}

const isOfPage = (error: ConnectError): boolean => error.cause instanceof Error && !(error.cause instanceof TypeError);

export const isAborted = (error: unknown, signal?: AbortSignal): boolean =>
  signal?.aborted === true || ConnectError.from(error).code === Code.Canceled;

// What one can do about it.
export function advice(fault: Fault): string {
  switch (fault.code) {
    case Code.Unauthenticated:
      return "Sign in with a token.";
    case Code.PermissionDenied:
      return "Ask the operator of this server for the role, or sign in with another token.";
    case Code.ResourceExhausted:
      return "The server is at one of its limits; try again in a moment.";
    case Code.DeadlineExceeded:
      return "The server took too long to answer; try again.";
    default:
      return fault.reason || fault.code === Code.InvalidArgument ? "" : "Check that it runs and that this page comes from its address.";
  }
}
