// Headers that go with each request; a secret one is never shown again.
import type { Draft } from "../core/draft";
import { Button } from "../ui/bits";
import { Violations } from "../ui/fields";

interface Props {
  headers: Draft["headers"];
  set: (headers: Draft["headers"]) => void;
  violations: { field: string; description: string }[];
}

export function HeaderFields({ headers, set, violations }: Props) {
  const change = (at: number, changes: Partial<Draft["headers"][number]>) => set(headers.map((it, index) => (index === at ? { ...it, ...changes } : it)));
  return (
    <fieldset class="header-fields">
      <legend>Headers</legend>
      {headers.map((it, at) => (
        <div class="header-field" key={at}>
          <input type="text" aria-label="Name of the header" placeholder="Name" value={it.name} onInput={(event) => change(at, { name: event.currentTarget.value })} />
          <input type={(it.isSecret ? "password" : "text") as "text"} aria-label="Value of the header" placeholder="Value" autocomplete="off" value={it.value} onInput={(event) => change(at, { value: event.currentTarget.value })} />
          <label class="check">
            <input type="checkbox" checked={it.isSecret} onChange={(event) => change(at, { isSecret: event.currentTarget.checked })} />
            <span>secret</span>
          </label>
          <Button kind="quiet" icon="close" label="Remove this header" onClick={() => set(headers.filter((_, index) => index !== at))} />
        </div>
      ))}
      <Violations of={violations} />
      <Button icon="plus" onClick={() => set([...headers, { name: "", value: "", isSecret: false }])}>
        Add a header
      </Button>
    </fieldset>
  );
}
