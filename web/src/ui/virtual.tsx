// A table of up to millions of rows of one height, of which only those in sight are in the document.
//
// A million rows are taller than browsers lay out, so the length of the scroll bar has a ceiling. Whoever turns the wheel
// moves by pixels, as everywhere; whoever drags the bar goes to the share of the rows where it is dropped. The bar is put
// right again when the rows have come to rest.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";

const LENGTH_MAX = 4_000_000;
const AROUND = 8;
const REST_MS = 150;

export interface Mover {
  // Brings a row to the top, or leaves it where it can be seen already.
  show(row: number): void;
}

interface VirtualProps {
  label: string;
  hook: string;
  count: number;
  rowHeight: number;
  head: ComponentChildren;
  row: (at: number) => ComponentChildren;
  onRange: (first: number, last: number) => void;
  mover?: (it: Mover) => void;
  // Where it begins.
  start?: number;
}

export function Virtual({ label, hook, count, rowHeight, head, row, onRange, mover, start = 0 }: VirtualProps) {
  const box = useRef<HTMLDivElement>(null);
  const top = useSignal(start);
  const at = useSignal(0);
  const height = useSignal(600);
  const state = useRef({ expected: -1, last: 0, timer: 0 as unknown as ReturnType<typeof setTimeout> });

  const seen = Math.max(1, height.value / rowHeight);
  const length = Math.min(LENGTH_MAX, count * rowHeight);
  const rowMax = Math.max(0, count - seen);
  const pixelMax = Math.max(0, length - height.value);

  // Puts the bar where the rows are.
  const settle = () => {
    const element = box.current;
    if (!element) return;
    const wanted = rowMax ? (top.value / rowMax) * pixelMax : 0;
    state.current.expected = wanted;
    state.current.last = wanted;
    at.value = wanted;
    element.scrollTop = wanted;
  };

  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    const now = element.scrollTop;
    const { expected, last } = state.current;
    state.current.last = now;
    if (Math.abs(now - expected) < 1.5) return;
    state.current.expected = -1;
    const moved = now - last;
    const isJump = Math.abs(moved) > 2 * height.value || now <= 0 || now >= pixelMax - 1;
    const wanted = isJump && pixelMax ? (now / pixelMax) * rowMax : top.value + moved / rowHeight;
    top.value = Math.min(rowMax, Math.max(0, wanted));
    at.value = now;
    clearTimeout(state.current.timer);
    state.current.timer = setTimeout(settle, REST_MS);
  };

  useLayoutEffect(() => {
    const element = box.current!;
    const measure = () => {
      const head = element.querySelector("thead")?.clientHeight ?? 0;
      height.value = Math.max(rowHeight, element.clientHeight - head);
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => {
      observer.disconnect();
      clearTimeout(state.current.timer);
    };
  }, []);

  // Fewer rows than before, or a bar of another length.
  useLayoutEffect(() => {
    if (top.value > rowMax) top.value = rowMax;
    settle();
  }, [count, height.value]);

  mover?.({
    show: (wanted) => {
      const isSeen = wanted >= top.value && wanted <= top.value + seen - 1;
      if (!isSeen) top.value = Math.min(rowMax, Math.max(0, wanted));
      settle();
    },
  });

  const first = Math.max(0, Math.floor(top.value) - AROUND);
  const last = Math.min(count, Math.ceil(top.value + seen) + AROUND);
  useEffect(() => {
    onRange(first, last);
  }, [first, last, count]);

  const before = Math.max(0, at.value - (top.value - first) * rowHeight);
  const after = Math.max(0, length - before - (last - first) * rowHeight);
  const rows = [];
  for (let index = first; index < last; index++) rows.push(row(index));
  return (
    <div class="viewport" ref={box} onScroll={scrolled} tabIndex={0} role="region" aria-label={label} style={{ "--rows": Math.min(count, 400) }}>
      <table class="table virtual" data-testid={hook} aria-rowcount={count + 1} aria-label={label}>
        {head}
        <tbody>
          {/* One cell each: a span over columns that a narrow page hides would keep their room. */}
          {before > 0 && (
            <tr class="space" aria-hidden="true">
              <td style={{ height: `${before}px` }} />
            </tr>
          )}
          {rows}
          {after > 0 && (
            <tr class="space" aria-hidden="true">
              <td style={{ height: `${after}px` }} />
            </tr>
          )}
        </tbody>
      </table>
    </div>
  );
}
