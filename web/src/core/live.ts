// Keeps the page at what the server says: by one stream while the tab is shown, by asking every three seconds where the
// browser has no stream left, and again and again where the server is away.
import { batch, signal } from "@preact/signals";
import { Code } from "@connectrpc/connect";
import type { ServerTotals } from "../../gen/haul/v1/job_service_pb";
import { admin, askToSignIn, CALL, visits } from "./api";
import { faultOf, isAborted, type Fault } from "./errors";
import { draw } from "./frame";
import { takeSlot } from "./slots";

export interface Source {
  // Follows until the signal aborts it or there is nothing more to come; what ends otherwise throws. `alive` is called with each message.
  stream(signal: AbortSignal, alive: () => void): Promise<void>;
  // Asks once for what the stream would bring.
  poll(signal: AbortSignal): Promise<void>;
}

export type Link =
  | { kind: "connecting" | "live" | "polling" }
  | { kind: "lost"; since: Date; nextTry: number; fault: Fault };

const POLL_MS = 3_000;
const HIDDEN_MS = 5_000;
const WAIT_MS_MAX = 15_000;
const LOOKS_MAX = 5;

export const link = signal<Link>({ kind: "connecting" });
export const isDraining = signal(false);
// The version of the server that this page came from, and whether another one answers now.
export const version = signal("");
export const isUpgraded = signal(false);
export const totals = signal<{ rate: number; running: number; waiting: number } | null>(null);

let current: AbortController | null = null;
// Ends when the source before has given back its stream, which the next one takes.
let before: Promise<void> = Promise.resolve();
let wake: () => void = () => {};

// Makes this the source of the page, in place of the one before. The function that is returned ends it; `again` starts it
// over, for instance when a job that had ended runs again.
export function follow(source: Source): { stop: () => void; again: () => void } {
  current?.abort();
  const own = new AbortController();
  current = own;
  let turn: AbortController | null = null;
  const last = before;
  const loop = async () => {
    await last;
    while (!own.signal.aborted) {
      turn = new AbortController();
      const ended = await run(source, AbortSignal.any([own.signal, turn.signal]));
      if (ended && !own.signal.aborted && !turn.signal.aborted) await aborted(AbortSignal.any([own.signal, turn.signal]));
    }
  };
  before = loop();
  return { stop: () => own.abort(), again: () => turn?.abort() };
}

// Tries at once where the next try would come later.
export const tryNow = (): void => wake();

async function run(source: Source, signal: AbortSignal): Promise<boolean> {
  let failures = 0;
  let since: Date | null = null;
  while (!signal.aborted) {
    await shown(signal);
    if (signal.aborted) break;
    const slot = await takeSlot();
    const hidden = untilHidden();
    const both = AbortSignal.any([signal, hidden.signal]);
    try {
      if (slot) {
        let isFirst = true;
        await source.stream(both, () => {
          if (!isFirst) return;
          isFirst = false;
          connected("live", since !== null);
          failures = 0;
          since = null;
        });
        if (both.aborted) continue;
        connected("live", false);
        return true;
      }
      await source.poll(both);
      connected("polling", since !== null);
      failures = 0;
      since = null;
      await sleep(POLL_MS, both);
    } catch (error) {
      if (isAborted(error, both)) continue;
      const fault = faultOf(error);
      if (fault.code === Code.Unauthenticated) {
        askToSignIn(fault);
        await signedIn(both);
        continue;
      }
      failures++;
      since ??= new Date();
      const wait = Math.max(fault.retryAfterMs, Math.min(WAIT_MS_MAX, 500 * 2 ** failures));
      lost(fault, since, wait);
      await sleep(wait, both, (end) => (wake = end));
    } finally {
      hidden.stop();
      slot?.release();
    }
  }
  return false;
}

function connected(kind: "live" | "polling", isBack: boolean): void {
  if (link.peek().kind !== kind) link.value = { kind };
  if (isBack || !version.peek()) void lookAtServer();
}

function lost(fault: Fault, since: Date, wait: number): void {
  batch(() => {
    if (fault.reason === "SERVER_DRAINING") isDraining.value = true;
    link.value = { kind: "lost", since, nextTry: Date.now() + wait, fault };
  });
}

// A server that came back may be another version than the one that this page belongs to. One that has just started may not
// answer at once.
async function lookAtServer(): Promise<void> {
  for (let tries = 0; tries < LOOKS_MAX && link.peek().kind !== "lost"; tries++) {
    try {
      const info = await admin.getServerInfo({}, CALL);
      batch(() => {
        isDraining.value = info.draining;
        if (!version.peek()) version.value = info.version;
        isUpgraded.value = info.version !== version.peek();
      });
      return;
    } catch {
      await sleep(1_000, new AbortController().signal);
    }
  }
}

export function tellTotals(it: ServerTotals): void {
  draw("totals", () => {
    isDraining.value = it.draining;
    totals.value = {
      rate: Number(it.bytesPerSecond),
      running: it.tasks?.running ?? 0,
      waiting: (it.tasks?.pending ?? 0) + (it.tasks?.backingOff ?? 0),
    };
  });
}

function untilHidden(): { signal: AbortSignal; stop: () => void } {
  const hidden = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => hidden.abort(), HIDDEN_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  const stop = () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", look);
  };
  return { signal: hidden.signal, stop };
}

async function shown(signal: AbortSignal): Promise<void> {
  if (!document.hidden || signal.aborted) return;
  await new Promise<void>((done) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
  });
}

async function signedIn(signal: AbortSignal): Promise<void> {
  const before = visits.peek();
  await new Promise<void>((done) => {
    const stop = visits.subscribe((it) => {
      if (it !== before) queueMicrotask(end);
    });
    const end = () => {
      stop();
      signal.removeEventListener("abort", end);
      done();
    };
    signal.addEventListener("abort", end);
  });
}

export async function sleep(ms: number, signal: AbortSignal, early?: (end: () => void) => void): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((done) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, ms);
    early?.(end);
    signal.addEventListener("abort", end);
  });
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((done) => signal.addEventListener("abort", () => done(), { once: true }));
}
