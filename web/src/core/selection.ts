// What is selected can be acted on, so it must be in sight: rows that a list no longer has are no longer selected.
export function onlyOf<T>(selected: ReadonlySet<T>, there: ReadonlySet<T>): ReadonlySet<T> {
  const kept = [...selected].filter((it) => there.has(it));
  return kept.length === selected.size ? selected : new Set(kept);
}
