// Says whether the page shows what it is about, for whoever waits for that.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

export const isReady = signal(false);

export function useReady(is: boolean): void {
  useEffect(() => {
    isReady.value = is;
  }, [is]);
}
