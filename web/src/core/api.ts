// The services of the server, as every other client has them: gRPC, in the form that browsers can speak.
import { Code, createClient, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { signal } from "@preact/signals";
import { AccessService } from "../../gen/haul/v1/access_service_pb";
import { AdminService } from "../../gen/haul/v1/admin_service_pb";
import { ContentService } from "../../gen/haul/v1/content_service_pb";
import { JobService } from "../../gen/haul/v1/job_service_pb";
import { faultOf, type Fault } from "./errors";

// The token of whoever signed in without TLS. It lives as long as the page: what scripts can read is not kept.
export const token = signal("");
// Counts who signed in and out, since then everything is another's.
export const visits = signal(0);

// Whether a call was refused because it came without a token, or with one that counts no more; and which of the two it was.
export const isSignInAsked = signal(false);
export const hasTokenEnded = signal(false);

export function askToSignIn(fault: Fault): void {
  // What follows while it is asked is refused for want of a token, too.
  if (isSignInAsked.peek()) return;
  hasTokenEnded.value = fault.reason === "BAD_CREDENTIALS";
  isSignInAsked.value = true;
}

const authorize: Interceptor = (next) => async (request) => {
  if (token.peek()) request.header.set("authorization", `Bearer ${token.peek()}`);
  try {
    return await next(request);
  } catch (error) {
    const fault = faultOf(error);
    if (fault.code === Code.Unauthenticated) askToSignIn(fault);
    throw error;
  }
};

const transport = createGrpcWebTransport({ baseUrl: location.origin, interceptors: [authorize] });

export const jobs = createClient(JobService, transport);
export const contents = createClient(ContentService, transport);
export const admin = createClient(AdminService, transport);

// Unary calls end after this time, so that nothing waits for a server that does not answer.
export const CALL = { timeoutMs: 30_000 };

// Exchanges a token for a cookie that no script can read, where the server may give one, and else keeps it. Returns what is
// wrong; empty: nothing, and whoever it was is signed in.
export async function signIn(text: string): Promise<string> {
  const headers = { authorization: `Bearer ${text}` };
  try {
    const answer = await fetch("/v1/session", { method: "POST", headers });
    // 412: this server gives no cookie, since nothing encrypts. Whether the token is one is another question then.
    const judged = answer.status === 412 ? await fetch("/v1/whoami", { headers }) : answer;
    if (!judged.ok) return await messageOf(judged);
    // A browser that reached the server without TLS, past what encrypts, has not taken the cookie.
    const isKnown = answer.ok && (await fetch("/v1/whoami")).ok;
    token.value = isKnown ? "" : text;
  } catch {
    // A token with other letters than ASCII cannot even be sent.
    return /[^\x21-\x7e]/.test(text) ? "This is not a token: it has letters that no token has." : "The server cannot be reached.";
  }
  isSignInAsked.value = false;
  visits.value++;
  return "";
}

async function messageOf(answer: Response): Promise<string> {
  const document = await answer.json().catch(() => null);
  return document?.error?.message ?? `The server answered ${answer.status}.`;
}

export async function signOut(): Promise<void> {
  await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
  token.value = "";
  visits.value++;
}

export const people = createClient(AccessService, transport);
