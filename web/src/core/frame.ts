// Draws what is live, at most once a frame: what arrives meanwhile under the same name replaces what waited.
//
// All of a frame is drawn together, so that parts of a page never disagree.
import { batch, signal } from "@preact/signals";

const waiting = new Map<string, () => void>();
let isAsked = false;

// Since when drawing is paused; null while it is not.
export const pausedAt = signal<Date | null>(null);

export function draw(name: string, apply: () => void): void {
  waiting.set(name, apply);
  if (isAsked || pausedAt.peek()) return;
  isAsked = true;
  requestAnimationFrame(flush);
}

function flush(): void {
  isAsked = false;
  const all = [...waiting.values()];
  waiting.clear();
  batch(() => all.forEach((apply) => apply()));
}

// What waits for another page is not drawn on this one.
export function forget(): void {
  waiting.clear();
}

export function togglePause(): void {
  if (!pausedAt.peek()) {
    pausedAt.value = new Date();
    return;
  }
  pausedAt.value = null;
  now.value = Date.now();
  flush();
}

// The time, by which "3 min ago" is reckoned.
export const now = signal(Date.now());
setInterval(() => {
  if (!pausedAt.peek() && !document.hidden) now.value = Date.now();
}, 1000);
