// Tells those who cannot see it that a state changed: at most every five seconds, so that they can hear it.
import { signal } from "@preact/signals";

const EVERY_MS = 5_000;
export const announced = signal("");
let waiting: string[] = [];
let timer: ReturnType<typeof setTimeout> | undefined;

export function announce(text: string): void {
  if (waiting.length < 20) waiting.push(text);
  timer ??= setTimeout(tell, announced.peek() ? EVERY_MS : 200);
}

function tell(): void {
  const rest = waiting.length > 3 ? `, and ${waiting.length - 3} more` : "";
  announced.value = waiting.slice(0, 3).join("; ") + rest;
  waiting = [];
  timer = setTimeout(() => {
    timer = undefined;
    if (waiting.length) tell();
  }, EVERY_MS);
}
