// What this browser remembers: the theme, and whether single keys are shortcuts.
import { signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";
const THEMES: Theme[] = ["auto", "light", "dark"];

function stored(name: string): string | null {
  try {
    return localStorage.getItem(`haul-${name}`);
  } catch {
    return null;
  }
}

function store(name: string, value: string): void {
  try {
    localStorage.setItem(`haul-${name}`, value);
  } catch {
    // A browser that keeps nothing forgets this too.
  }
}

export const theme = signal<Theme>(THEMES.find((it) => it === stored("theme")) ?? "auto");
export const areKeysOn = signal(stored("keys") !== "off");

theme.subscribe((it) => {
  document.documentElement.dataset.theme = it;
  store("theme", it);
});
areKeysOn.subscribe((it) => store("keys", it ? "on" : "off"));

export const nextTheme = (): void => {
  theme.value = THEMES[(THEMES.indexOf(theme.peek()) + 1) % THEMES.length]!;
};
