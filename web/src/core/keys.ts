// Single keys. They do nothing while one types, where a dialog is open, and where they are switched off.
import { useLayoutEffect } from "preact/hooks";
import { areKeysOn } from "./settings";

type Action = (event: KeyboardEvent) => void;
const actions = new Map<string, Action[]>();
let prefix = "";
let prefixTimer: ReturnType<typeof setTimeout> | undefined;

// Binds keys until the function that is returned is called; the last binding of a key is the one that acts.
export function bind(keys: Record<string, Action>): () => void {
  for (const [key, action] of Object.entries(keys)) actions.set(key, [...(actions.get(key) ?? []), action]);
  return () => {
    for (const [key, action] of Object.entries(keys)) {
      actions.set(key, (actions.get(key) ?? []).filter((it) => it !== action));
    }
  };
}

// Binds keys for as long as a component is there, as they are when `inputs` change. They act as soon as the component is seen:
// an effect that runs after the paint leaves a moment in which a key is lost.
export function useKeys(keys: Record<string, Action>, inputs: unknown[]): void {
  useLayoutEffect(() => bind(keys), inputs);
}

const TYPES_TEXT = "input:not([type=checkbox]):not([type=radio]):not([type=button]), textarea, select, [contenteditable]";

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target as Element;
  if (document.querySelector("dialog[open]")) return;
  const isTyping = target.matches?.(TYPES_TEXT);
  if (event.key !== "Escape" && (!areKeysOn.peek() || isTyping)) return;
  const key = prefix + event.key;
  prefix = "";
  clearTimeout(prefixTimer);
  const action = actions.get(key)?.at(-1);
  if (action) {
    if (event.key !== "Enter") event.preventDefault();
    action(event);
  } else if (event.key === "g") {
    prefix = "g ";
    prefixTimer = setTimeout(() => (prefix = ""), 1500);
  }
});

// Moves the focus along the links that open rows.
export function moveRow(step: 1 | -1): void {
  const rows = [...document.querySelectorAll<HTMLElement>("[data-row-link]")];
  const at = rows.findIndex((it) => it === document.activeElement || it.closest("tr")?.contains(document.activeElement));
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step))];
  next?.focus();
  next?.closest("tr")?.scrollIntoView({ block: "nearest" });
}

export const focusedRow = (): HTMLElement | null => document.activeElement?.closest<HTMLElement>("tr[data-row]") ?? null;
