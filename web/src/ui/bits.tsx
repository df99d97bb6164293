// The small parts that every page is made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { timestampDate, type Timestamp } from "@bufbuild/protobuf/wkt";
import { advice, type Fault } from "../core/errors";
import { ago, plain } from "../core/format";
import { now } from "../core/frame";
import { tell } from "../core/notice";
import { Icon, type IconName } from "./icons";

interface ButtonProps {
  hook?: string;
  icon?: IconName;
  kind?: "primary" | "danger" | "quiet";
  off?: boolean;
  // Why it would only be refused. It can still be come to, since nobody is told the reason otherwise.
  no?: string;
  busy?: boolean;
  submits?: boolean;
  title?: string;
  label?: string;
  onClick?: (event: MouseEvent) => void;
  children?: ComponentChildren;
}

export function Button({ hook, icon, kind, off, no, busy, submits, title, label, onClick, children }: ButtonProps) {
  const refuse = (event: MouseEvent) => {
    event.preventDefault();
    tell(`${no}.`, true);
  };
  return (
    <button
      type={submits ? "submit" : "button"}
      class={`button ${kind ?? ""} ${children ? "" : "only-icon"}`}
      data-testid={hook}
      disabled={off || busy}
      aria-disabled={no ? true : undefined}
      aria-busy={busy || undefined}
      title={no ?? title}
      aria-label={label}
      onClick={no ? refuse : onClick}
    >
      {icon && <Icon name={icon} />}
      {children && <span>{children}</span>}
    </button>
  );
}

interface LinkProps {
  hook?: string;
  icon?: IconName;
  kind?: "primary";
  // As that of a button.
  no?: string;
  // Whether it stands at the right.
  isLast?: boolean;
  to: string;
  children: ComponentChildren;
}

// A link that looks like a button, and is one where it leads to nothing that the visitor may do.
export function ButtonLink({ hook, icon, kind, no, isLast, to, children }: LinkProps) {
  const link = no ? (
    <Button hook={hook} icon={icon} kind={kind} no={no}>
      {children}
    </Button>
  ) : (
    <a class={`button ${kind ?? ""}`} data-testid={hook} href={to}>
      {icon && <Icon name={icon} />}
      <span>{children}</span>
    </a>
  );
  return isLast ? <span class="push">{link}</span> : link;
}

export function Copy({ text, what, hook }: { text: string; what: string; hook?: string }) {
  const done = useSignal(false);
  const copy = async () => {
    await writeClipboard(text);
    done.value = true;
    setTimeout(() => (done.value = false), 1500);
  };
  return (
    <button type="button" class="button quiet only-icon copy" data-testid={hook} aria-label={`Copy ${what}`} title={`Copy ${what}`} onClick={copy}>
      <Icon name={done.value ? "check" : "copy"} />
    </button>
  );
}

// Pages without TLS have no clipboard of their own, but may copy what is selected.
async function writeClipboard(text: string): Promise<void> {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

// "3 min ago", with the time itself where one points at it.
export function Ago({ time }: { time: Timestamp | undefined }) {
  if (!time) return null;
  const date = timestampDate(time);
  return (
    <time dateTime={date.toISOString()} title={date.toLocaleString()}>
      {ago(time, now.value)}
    </time>
  );
}

export function ErrorBox({ fault, again }: { fault: Fault; again?: () => void }) {
  const hint = advice(fault);
  return (
    <div class="note bad" role="alert" data-testid="error" data-reason={fault.reason || "unreachable"}>
      <Icon name="warn" />
      <div>
        <p class="note-title">
          <Prose isFirst text={fault.message} />
        </p>
        {fault.violations.length > 1 && (
          <ul>
            {fault.violations.map((it) => (
              <li key={it.field}>
                <code>{it.field}</code> <Prose text={it.description} />
              </li>
            ))}
          </ul>
        )}
        <p class="muted">
          {hint} {fault.reason && <code>{fault.reason}</code>}
        </p>
      </div>
      {again && (
        <Button hook="error-retry" onClick={again}>
          Try again
        </Button>
      )}
    </div>
  );
}

// Lines where text will be, after a moment: what comes at once needs none.
export function Skeleton({ lines = 6 }: { lines?: number }) {
  const isShown = useSignal(false);
  useEffect(() => {
    const timer = setTimeout(() => (isShown.value = true), 200);
    return () => clearTimeout(timer);
  }, []);
  if (!isShown.value) return <div class="skeleton-space" />;
  return (
    <div class="skeleton" data-testid="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, line) => (
        <div key={line} class={`skeleton-line w${(line * 7) % 5}`} />
      ))}
    </div>
  );
}

export function Empty({ hook, title, children }: { hook: string; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty" data-testid={hook}>
      <h2>{title}</h2>
      {children}
    </div>
  );
}

// The heading of a page. It takes the focus when the page changes, so that screen readers say where one is.
export function Heading({ title, hook, children }: { title: string; hook?: string; children?: ComponentChildren }) {
  const ref = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = title === "haul" ? title : `${title} · haul`;
  }, [title]);
  return (
    <h1 ref={ref} tabIndex={-1} data-testid={hook} title={title}>
      {children ?? title}
    </h1>
  );
}

// A sentence of the server. What it quotes stands between backticks, and it begins in lower case, since it may follow others.
export function Prose({ text, isFirst }: { text: string; isFirst?: boolean }) {
  const shown = isFirst ? text.slice(0, 1).toUpperCase() + text.slice(1) : text;
  return <>{plain(shown).split("`").map((it, at) => (at % 2 ? <code key={at}>{it}</code> : it))}</>;
}

// The name and port of a host, which goes on in the next line before the port where the room is scarce.
export function HostName({ host }: { host: string }) {
  const text = plain(host);
  const at = text.lastIndexOf(":");
  if (at < 1) return <>{text}</>;
  return (
    <>
      {text.slice(0, at)}
      <wbr />
      {text.slice(at)}
    </>
  );
}

export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  if (children === undefined || children === null || children === "" || children === false) return null;
  return (
    <div class="fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
