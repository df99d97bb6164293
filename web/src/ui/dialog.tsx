// What asks before something happens. The browser's own dialogs hold the focus within and give it back.
import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { signal, useSignal } from "@preact/signals";
import { said } from "../core/notice";
import { Button } from "./bits";

interface DialogProps {
  title: string;
  hook?: string;
  role?: "dialog" | "alertdialog";
  onClose: () => void;
  children: ComponentChildren;
  wide?: boolean;
}

export function Dialog({ title, hook, role, onClose, children, wide }: DialogProps) {
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Opens before the browser handles the next key: an effect that runs after the paint leaves a moment in which the dialog
  // is not open yet and the first Escape is lost.
  useLayoutEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current?.showModal();
    ref.current?.querySelector<HTMLElement>("[data-first]")?.focus();
    return () => before?.isConnected && before.focus();
  }, []);
  return (
    <dialog
      ref={ref}
      class={wide ? "dialog wide" : "dialog"}
      role={role}
      aria-labelledby={id}
      data-testid={hook}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => event.target === ref.current && onClose()}
    >
      <div class="dialog-body">
        <h2 id={id}>{title}</h2>
        {children}
      </div>
    </dialog>
  );
}

interface Question {
  title: string;
  // Says what will happen, and to how many.
  text: ComponentChildren;
  yes: string;
  isDangerous?: boolean;
  // A word that has to be typed first.
  word?: string;
  // A choice that comes with it.
  option?: string;
}

const asked = signal<(Question & { answer: (it: { option: boolean } | null) => void }) | null>(null);

// Asks, and returns null unless the answer is yes.
export const ask = (question: Question): Promise<{ option: boolean } | null> =>
  new Promise((answer) => (asked.value = { ...question, answer }));

export function Confirm() {
  const question = asked.value;
  return question && <Asking key={question.title} question={question} />;
}

function Asking({ question }: { question: NonNullable<typeof asked.value> }) {
  const typed = useSignal("");
  const option = useSignal(false);
  const end = (isYes: boolean) => {
    asked.value = null;
    question.answer(isYes ? { option: option.value } : null);
  };
  const isOff = question.word !== undefined && typed.value.trim() !== question.word;
  return (
    <Dialog title={question.title} hook="confirm" role="alertdialog" onClose={() => end(false)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!isOff) end(true);
        }}
      >
        <div class="dialog-text" data-testid="confirm-text">
          {question.text}
        </div>
        {question.option && (
          <label class="check">
            <input type="checkbox" checked={option.value} onChange={() => (option.value = !option.value)} />
            <span>{question.option}</span>
          </label>
        )}
        {question.word && (
          <label class="field">
            <span>
              Type <code>{question.word}</code> to go on
            </span>
            <input type="text" data-testid="confirm-type" data-first autocomplete="off" value={typed.value} onInput={(event) => (typed.value = event.currentTarget.value)} />
          </label>
        )}
        <div class="dialog-actions">
          <button type="button" class="button" data-testid="confirm-no" data-first={!question.word || undefined} onClick={() => end(false)}>
            {question.isDangerous ? "Keep as it is" : "Cancel"}
          </button>
          <button type="submit" class={`button ${question.isDangerous ? "danger full" : "primary"}`} data-testid="confirm-yes" disabled={isOff}>
            {question.yes}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function Said() {
  const it = said.value;
  return (
    <div class="said-space" role="status">
      {it && (
        <div class={it.isBad ? "said bad" : "said"}>
          <span>{it.text}</span>
          <Button kind="quiet" icon="close" label="Dismiss" onClick={() => (said.value = null)} />
        </div>
      )}
    </div>
  );
}
