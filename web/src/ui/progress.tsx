// How far something is: a bar in parts, and the course of a rate.
import { percent, rate } from "../core/format";

interface Parts {
  all: number;
  done: number;
  failed?: number;
  cancelled?: number;
  running?: number;
}

export function Bar({ parts, label, hook, thick }: { parts: Parts; label: string; hook?: string; thick?: boolean }) {
  const { all, done, failed = 0, cancelled = 0, running = 0 } = parts;
  const part = (value: number, kind: string) =>
    value > 0 && all > 0 ? (
      // What is there at all can be seen.
      <span class={`part ${kind}`} style={{ width: `max(2px, ${(value / all) * 100}%)` }} />
    ) : null;
  const text = percent(done + failed + cancelled, all);
  return (
    <div
      class={thick ? "bar thick" : "bar"}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={parseInt(text, 10)}
      data-testid={hook}
    >
      {part(done, "done")}
      {part(failed, "failed")}
      {part(cancelled, "cancelled")}
      {part(running, "running")}
    </div>
  );
}

// The last rates, oldest first. The number stands beside it, so the line itself says nothing to screen readers.
export function Sparkline({ rates }: { rates: number[] }) {
  const width = 96;
  const height = 20;
  const top = Math.max(1, ...rates);
  const step = width / 59;
  const points = rates.map((it, at) => {
    const x = width - (rates.length - 1 - at) * step;
    return `${x.toFixed(1)},${(height - 1 - (it / top) * (height - 3)).toFixed(1)}`;
  });
  if (points.length < 4) return null;
  const first = points[0]!.split(",")[0];
  return (
    <svg class="spark" width={width} height={height} viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
      <title>{`at most ${rate(top)}`}</title>
      <polygon points={`${first},${height} ${points.join(" ")} ${width},${height}`} />
      <polyline points={points.join(" ")} />
    </svg>
  );
}
