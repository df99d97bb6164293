// What has no watch of its own is asked for again and again while the page is shown.
import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { isSignInAsked, jobs } from "./api";
import { faultOf, type Fault } from "./errors";
import { draw } from "./frame";
import { follow, tellTotals } from "./live";

export interface Asked<T> {
  value: Signal<T | null>;
  fault: Signal<Fault | null>;
  again: () => Promise<void>;
}

let numbers = 0;

export function useAsked<T>(ask: () => Promise<T>, everyMs: number): Asked<T> {
  const value = useSignal<T | null>(null);
  const fault = useSignal<Fault | null>(null);
  // Of answers that come in another order than they were asked for, the older ones say what no longer is.
  const order = useRef({ asked: 0, drawn: 0 }).current;
  const again = async () => {
    const nth = ++order.asked;
    try {
      const it = await ask();
      if (nth < order.drawn) return;
      order.drawn = nth;
      draw(`asked-${name}`, () => {
        value.value = it;
        fault.value = null;
      });
    } catch (error) {
      // What is there stays; the bar says that the server is away.
      if (value.peek() === null) fault.value = faultOf(error);
    }
  };
  const name = useSignal(numbers++).peek();
  useEffect(() => {
    void again();
    // Who is asked to sign in is asked once.
    const timer = setInterval(() => !document.hidden && !isSignInAsked.peek() && void again(), everyMs);
    return () => clearInterval(timer);
  }, []);
  return { value, fault, again };
}

// The numbers of the whole server, for pages that watch no job.
export function useTotals(): void {
  useEffect(() => {
    const request = { totals: true, maxJobs: 0 };
    const { stop } = follow({
      async stream(aborted, alive) {
        for await (const { event } of jobs.watchJobs(request, { signal: aborted })) {
          alive();
          if (event.case === "totals") tellTotals(event.value);
        }
        if (!aborted.aborted) throw new Error("the stream ended");
      },
      async poll(aborted) {
        const ended = new AbortController();
        for await (const { event } of jobs.watchJobs(request, { signal: AbortSignal.any([aborted, ended.signal]) })) {
          if (event.case === "totals") tellTotals(event.value);
          else if (event.case === "synced") break;
        }
        ended.abort();
      },
    });
    return stop;
  }, []);
}

