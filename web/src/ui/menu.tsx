// A button that opens a list of choices, of which several may hold.
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { Icon } from "./icons";

interface Choice {
  value: string;
  label: string;
}

interface ChoicesProps {
  label: string;
  hook: string;
  choices: Choice[];
  chosen: string[];
  onChange: (chosen: string[]) => void;
}

export function Choices({ label, hook, choices, chosen, onChange }: ChoicesProps) {
  const isOpen = useSignal(false);
  const ref = useRef<HTMLDivElement>(null);
  const id = useId();
  useLayoutEffect(() => {
    if (!isOpen.value) return;
    ref.current?.querySelector<HTMLInputElement>("input")?.focus();
    const outside = (event: Event) => {
      if (!ref.current?.contains(event.target as Node)) isOpen.value = false;
    };
    document.addEventListener("pointerdown", outside);
    document.addEventListener("focusin", outside);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("focusin", outside);
    };
  }, [isOpen.value]);
  const said = chosen.map((value) => choices.find((it) => it.value === value)?.label ?? value);
  const keys = (event: KeyboardEvent) => {
    const inputs = [...(ref.current?.querySelectorAll<HTMLInputElement>("input") ?? [])];
    const at = inputs.indexOf(document.activeElement as HTMLInputElement);
    if (event.key === "Escape" && isOpen.value) {
      event.preventDefault();
      event.stopPropagation();
      isOpen.value = false;
      ref.current?.querySelector("button")?.focus();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!isOpen.value) isOpen.value = true;
      inputs[(at + (event.key === "ArrowDown" ? 1 : inputs.length - 1)) % inputs.length]?.focus();
    }
  };
  return (
    <div class="choices" ref={ref} onKeyDown={keys}>
      <button type="button" class={chosen.length ? "button chosen" : "button"} data-testid={hook} aria-expanded={isOpen.value} aria-controls={id} onClick={() => (isOpen.value = !isOpen.value)}>
        <span>
          {label}
          {said.length > 0 && <b>{said.length > 2 ? ` ${said.length}` : ` ${said.join(", ")}`}</b>}
        </span>
        <Icon name="down" size={12} />
      </button>
      {isOpen.value && (
        <div class="menu" id={id} role="group" aria-label={label}>
          {choices.map((it) => (
            <label key={it.value} class="check">
              <input
                type="checkbox"
                data-testid={`${hook}-${it.value}`}
                checked={chosen.includes(it.value)}
                onChange={(event) => {
                  const others = chosen.filter((value) => value !== it.value);
                  onChange(event.currentTarget.checked ? [...others, it.value] : others);
                }}
              />
              <span>{it.label}</span>
            </label>
          ))}
        </div>
      )}
    </div>
  );
}

interface SearchProps {
  hook: string;
  label: string;
  value: string;
  onChange: (value: string) => void;
}

// A field that searches as one types, after a moment of quiet.
export function Search({ hook, label, value, onChange }: SearchProps) {
  const typed = useSignal(value);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const last = useRef(value);
  if (last.current !== value) {
    last.current = value;
    typed.value = value;
  }
  const search = (text: string) => {
    last.current = text.trim();
    onChange(last.current);
  };
  return (
    <div class="search">
      <Icon name="search" />
      <input
        type="search"
        data-testid={hook}
        data-search
        aria-label={label}
        placeholder={label}
        maxLength={128}
        value={typed.value}
        onInput={(event) => {
          typed.value = event.currentTarget.value;
          clearTimeout(timer.current);
          timer.current = setTimeout(() => search(typed.value), 250);
        }}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return;
          clearTimeout(timer.current);
          search(typed.value);
        }}
      />
    </div>
  );
}
