// Fields of forms: a name, what the value means, and what is wrong with it.
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { Prose } from "./bits";

interface NumberProps {
  name: string;
  label: string;
  hint: string;
  value: number;
  hook?: string;
  isFirst?: boolean;
  isFraction?: boolean;
  isSigned?: boolean;
}

const SIZES: Record<string, number> = { k: 1e3, m: 1e6, g: 1e9 };

// Takes 5M for five million, as the command line does.
export function NumberField({ name, label, hint, value, hook, isFirst, isFraction, isSigned }: NumberProps) {
  const id = useId();
  const digits = isFraction ? "[0-9]+(\\.[0-9]+)?" : isSigned ? "-?[0-9]+" : "[0-9]+|[0-9]+(\\.[0-9]+)?[kKmMgG]";
  return (
    <label class="field">
      <span>{label}</span>
      <input type="text" inputMode={isSigned ? "text" : "decimal"} name={name} data-testid={hook} data-first={isFirst || undefined} pattern={digits} required defaultValue={String(value)} aria-describedby={id} autocomplete="off" />
      <small id={id} class="muted">
        {hint}
      </small>
    </label>
  );
}

export function readNumber(form: FormData, name: string): number {
  const text = String(form.get(name) ?? "").trim().toLowerCase();
  const unit = SIZES[text.slice(-1)];
  return unit ? Math.round(Number(text.slice(0, -1)) * unit) : Number(text) || 0;
}

const U32_MAX = 4_294_967_295;

// Reads a number as the contract has most of them. An error about a number that does not fit names the field.
export function readWhole(form: FormData, name: string, max = U32_MAX): number {
  const value = readNumber(form, name);
  if (Number.isInteger(value) && Math.abs(value) <= max) return value;
  throw new Error(`${name.replaceAll("_", " ")} is ${String(form.get(name))}; write a whole number up to ${max.toLocaleString("en")}`);
}

export const readBytes = (form: FormData, name: string): bigint => BigInt(readWhole(form, name, Number.MAX_SAFE_INTEGER));

interface FieldProps {
  label: string;
  hint?: ComponentChildren;
  // What the server says is wrong with it.
  violations?: { field: string; description: string }[];
  children: (describedBy: string) => ComponentChildren;
}

export function Field({ label, hint, violations = [], children }: FieldProps) {
  const id = useId();
  return (
    <div class={violations.length ? "field wrong" : "field"}>
      <label>
        <span>{label}</span>
        {children(id)}
      </label>
      <div id={id}>
        {hint && <small class="muted">{hint}</small>}
        <Violations of={violations} />
      </div>
    </div>
  );
}

export function Violations({ of }: { of: { field: string; description: string }[] }) {
  return (
    <>
      {of.map((it) => (
        <p class="violation" key={it.field + it.description} data-testid="violation" data-field={it.field}>
          <Prose text={it.description} />
        </p>
      ))}
    </>
  );
}
