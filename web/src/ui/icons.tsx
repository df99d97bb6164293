// The pictures of the dashboard, drawn on a grid of 16: each is beside a word, or its control has one.
const PATHS = {
  pending: "M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11Z",
  check: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM5.2 8.2l2 2 3.7-4.2",
  cross: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM5.8 5.8l4.4 4.4m0-4.4-4.4 4.4",
  slash: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM3.8 12.2l8.4-8.4",
  pause: "M5.5 3v10M10.5 3v10",
  play: "M5 3.2v9.6L12.8 8 5 3.2Z",
  stop: "M4 4h8v8H4z",
  clock: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM8 4.8V8l2.2 1.6",
  retry: "M12.8 6.5A5.2 5.2 0 1 0 13.2 9M13 3v3.7H9.3",
  sun: "M8 5.2a2.8 2.8 0 1 1 0 5.6 2.8 2.8 0 0 1 0-5.6ZM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13.5 9.7A5.8 5.8 0 0 1 6.3 2.5a5.8 5.8 0 1 0 7.2 7.2Z",
  auto: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8Zm0 0v12.4",
  help: "M8 1.8a6.2 6.2 0 1 1 0 12.4A6.2 6.2 0 0 1 8 1.8ZM6.3 6.3a1.7 1.7 0 1 1 2.5 1.5c-.5.3-.8.6-.8 1.2M8 11.2v.1",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9ZM10.3 10.3l3.2 3.2",
  down: "M4 6l4 4 4-4",
  right: "M6 4l4 4-4 4",
  up: "M8 13V3M4 7l4-4 4 4",
  close: "M3.5 3.5l9 9m0-9-9 9",
  copy: "M5.5 5.5V3h7.5v7.5h-2.5M3 5.5h7.5V13H3z",
  plus: "M8 3v10M3 8h10",
  download: "M8 2.5v7.5M4.8 7l3.2 3.2L11.2 7M3 13h10",
  eye: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8ZM8 6.2a1.8 1.8 0 1 1 0 3.6 1.8 1.8 0 0 1 0-3.6Z",
  trash: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.5 8.5h6l.5-8.5",
  warn: "M8 2.2 14.5 13.5h-13L8 2.2ZM8 6.5v3.3M8 11.7v.1",
  rate: "M8 3v10M4.5 9.5 8 13l3.5-3.5",
  gauge: "M2.5 11a5.8 5.8 0 1 1 11 0M8 10.5 10.5 7",
} as const;

export type IconName = keyof typeof PATHS | "running" | "cancelling";

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg class={`icon icon-${name}`} width={size} height={size} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      {name === "running" || name === "cancelling" ? (
        <>
          <circle cx="8" cy="8" r="6.2" class="ring" />
          <path d="M8 1.8a6.2 6.2 0 0 1 6.2 6.2" class="arc" />
          {name === "running" ? <circle cx="8" cy="8" r="2.2" class="dot" /> : <path d="M6 6h4v4H6z" class="dot" />}
        </>
      ) : (
        <path d={PATHS[name]} />
      )}
    </svg>
  );
}

const STATES: Record<string, IconName> = {
  pending: "pending", running: "running", paused: "pause", cancelling: "cancelling", succeeded: "check", failed: "cross",
  cancelled: "slash", backing_off: "clock", ok: "check",
};

// A state: its picture and its word, since colour alone says nothing to many.
export function State({ state, hook, quiet }: { state: string; hook?: string; quiet?: boolean }) {
  return (
    <span class={`state s-${state}`} data-testid={hook}>
      <Icon name={STATES[state] ?? "pending"} />
      <span class={quiet ? "state-word quiet" : "state-word"}>{state.replaceAll("_", " ")}</span>
    </span>
  );
}
