// A short word at the edge of the page about something that was done or refused.
import { signal } from "@preact/signals";

export const said = signal<{ text: string; isBad: boolean } | null>(null);
let timer: ReturnType<typeof setTimeout> | undefined;

export function tell(text: string, isBad = false): void {
  said.value = { text, isBad };
  clearTimeout(timer);
  timer = setTimeout(() => (said.value = null), isBad ? 10_000 : 4_000);
}
