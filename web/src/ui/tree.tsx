// JSON that folds. Long lists are drawn in pieces.
import { useSignal } from "@preact/signals";
import { count, plain } from "../core/format";

const PIECE = 100;
const TEXT_MAX = 2_000;

export function Tree({ value, name, depth = 0 }: { value: unknown; name?: string; depth?: number }) {
  const isOpen = useSignal(depth < 2);
  const shown = useSignal(PIECE);
  const label = name === undefined ? null : <span class="json-name">{plain(name)}: </span>;
  if (value === null || typeof value !== "object") {
    return (
      <div class="json-line">
        {label}
        <Leaf value={value} />
      </div>
    );
  }
  const isList = Array.isArray(value);
  const entries = isList ? value.map((it, at) => [String(at), it] as const) : Object.entries(value);
  const [open, close] = isList ? "[]" : "{}";
  if (!entries.length) {
    return (
      <div class="json-line">
        {label}
        {open}
        {close}
      </div>
    );
  }
  return (
    <details class="json-node" open={isOpen.value} onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>
        {label}
        {open}
        {!isOpen.value && (
          <span class="muted">
            {" "}
            {count(entries.length)} {close}
          </span>
        )}
      </summary>
      {isOpen.value && (
        <div class="json-inner">
          {entries.slice(0, shown.value).map(([key, it]) => (
            <Tree key={key} name={key} value={it} depth={depth + 1} />
          ))}
          {entries.length > shown.value && (
            <button type="button" class="link" onClick={() => (shown.value += PIECE * 10)}>
              {count(entries.length - shown.value)} more
            </button>
          )}
        </div>
      )}
    </details>
  );
}

function Leaf({ value }: { value: unknown }) {
  if (typeof value === "string") {
    const cut = value.length > TEXT_MAX ? `${value.slice(0, TEXT_MAX)}…` : value;
    return <span class="json-text">{JSON.stringify(plain(cut))}</span>;
  }
  return <span class="json-word">{String(value)}</span>;
}
