// What is around every page: where one can go, how much the server does, and what is amiss with it.
import { Fragment } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { announced } from "../core/announce";
import { hasTokenEnded, isSignInAsked, signIn, visits } from "../core/api";
import { clock, count, rate, short } from "../core/format";
import { now, pausedAt, togglePause } from "../core/frame";
import { moveRow, useKeys } from "../core/keys";
import { isDraining, isUpgraded, link, totals, tryNow } from "../core/live";
import { useVisitor } from "../core/roles";
import { go, path } from "../core/router";
import { nextTheme, theme } from "../core/settings";
import { Button } from "../ui/bits";
import { Confirm, Dialog, Said } from "../ui/dialog";
import { Icon } from "../ui/icons";
import { Help } from "./help";
import { HostsPage } from "./hosts";
import { JobPage } from "./job";
import { JobsPage } from "./jobs";
import { MissingPage } from "./missing";
import { isReady } from "./ready";
import { ServerPage } from "./server";
import { SubmitPage } from "./submit";

const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" } as const;
const NAV = [
  ["jobs", "/jobs", "Jobs"],
  ["hosts", "/hosts", "Hosts"],
  ["server", "/server", "Server"],
] as const;

function pageOf(at: string): { name: string; page: preact.JSX.Element } {
  const [, first, id, tab, ...rest] = at.split("/");
  const isJob = first === "jobs" && id && (!tab || ["tasks", "failures", "activity", "spec"].includes(tab)) && (rest.length === 0 || (tab === "tasks" && rest.length === 1));
  if (isJob) return { name: "job", page: <JobPage key={id} id={id} /> };
  switch (at) {
    case "/":
    case "/jobs":
      return { name: "jobs", page: <JobsPage /> };
    case "/hosts":
      return { name: "hosts", page: <HostsPage /> };
    case "/server":
      return { name: "server", page: <ServerPage /> };
    case "/submit":
      return { name: "submit", page: <SubmitPage /> };
    default:
      return { name: "missing", page: <MissingPage /> };
  }
}

export function Shell() {
  const isHelping = useSignal(false);
  const main = useRef<HTMLElement>(null);
  const { name, page } = pageOf(path.value);
  useVisitor();
  const isFirst = useRef(true);

  // A page that one came to by a link begins at its heading, from the moment that it is seen: later, what one has moved to
  // meanwhile would lose the focus.
  useLayoutEffect(() => {
    if (!isFirst.current) main.current?.querySelector<HTMLElement>("h1")?.focus({ preventScroll: true });
    isFirst.current = false;
  }, [name, name === "job" ? path.value.split("/")[2] : ""]);

  useKeys(
    {
      "/": () => document.querySelector<HTMLElement>("[data-search]")?.focus(),
      j: () => moveRow(1),
      k: () => moveRow(-1),
      "g j": () => go("/jobs"),
      "g h": () => go("/hosts"),
      "g s": () => go("/server"),
      n: () => go("/submit"),
      ".": togglePause,
      t: nextTheme,
      "?": () => (isHelping.value = true),
    },
    [],
  );

  const kind = pausedAt.value ? "paused" : link.value.kind;
  return (
    <>
      <a class="skip" href="#main" data-testid="skip-link">
        Skip to the page
      </a>
      <header class="top">
        <a class="brand" href="/jobs" aria-label="haul, all jobs">
          <Icon name="download" size={18} />
          <span>haul</span>
        </a>
        <nav aria-label="Pages">
          {NAV.map(([word, to, label]) => (
            <a key={word} href={to} data-testid={`nav-${word}`} aria-current={(name === "job" ? "jobs" : name) === word ? "page" : undefined}>
              {label}
            </a>
          ))}
        </nav>
        <Totals isOfJob={name === "job"} />
        <div class="tools">
          <button type="button" class="button quiet only-icon" data-testid="live-toggle" aria-pressed={pausedAt.value !== null} aria-label="Pause updates" title={pausedAt.value ? "Go on with updates ( . )" : "Pause updates ( . )"} onClick={togglePause}>
            <Icon name={pausedAt.value ? "play" : "pause"} />
          </button>
          <button type="button" class="button quiet only-icon" data-testid="theme" aria-label={`Theme: ${theme.value}`} title={`Theme: ${theme.value} ( t )`} onClick={nextTheme}>
            <Icon name={THEME_ICONS[theme.value]} />
          </button>
          <Button hook="help-open" kind="quiet" icon="help" label="Help and keys" title="Help and keys ( ? )" onClick={() => (isHelping.value = true)} />
        </div>
      </header>
      <Bars />
      <main id="main" ref={main} tabIndex={-1} data-testid="page" data-page={name} data-ready={isReady.value} data-live={kind === "connecting" ? undefined : kind} class={kind === "lost" || kind === "paused" ? "old" : undefined}>
        {/* Who signed in sees every page anew. */}
        <Fragment key={visits.value}>{page}</Fragment>
      </main>
      <div class="unseen" role="status" aria-live="polite" data-testid="announcer">
        {announced.value}
      </div>
      <Confirm />
      {isHelping.value && <Help onClose={() => (isHelping.value = false)} />}
      {isSignInAsked.value && <SignIn />}
      <Said />
    </>
  );
}

function Totals({ isOfJob }: { isOfJob: boolean }) {
  const it = totals.value;
  if (!it) return <div class="totals" />;
  return (
    <div class="totals" role="group" aria-label={isOfJob ? "This job" : "The whole server"} title={isOfJob ? "Of this job" : "Of the whole server"}>
      {isOfJob && <span class="total">this job</span>}
      <span class="total" data-testid="total-rate">
        <Icon name="rate" size={14} />
        <b>{rate(it.rate)}</b>
      </span>
      <span class="total" data-testid="total-running" data-count={it.running}>
        running <b>{count(it.running)}</b>
      </span>
      <span class="total" data-testid="total-waiting" data-count={it.waiting}>
        waiting <b>{short(it.waiting)}</b>
      </span>
    </div>
  );
}

function Bars() {
  const it = link.value;
  const wait = it.kind === "lost" ? Math.max(0, Math.ceil((it.nextTry - now.value) / 1000)) : 0;
  return (
    <div class="bars">
      {isUpgraded.value && (
        <div class="bar-line info" data-testid="bar" data-kind="upgraded" role="status">
          <span>haul was upgraded.</span>
          <Button hook="bar-action" onClick={() => location.reload()}>
            Reload
          </Button>
        </div>
      )}
      {isDraining.value && (
        <div class="bar-line warn" data-testid="bar" data-kind="draining" role="status">
          <span>The server is shutting down: nothing new starts, and what runs stops where it can go on later.</span>
        </div>
      )}
      {it.kind === "lost" && (
        <div class="bar-line bad" data-testid="bar" data-kind="lost" role="status">
          <span>
            Connection lost at {clock(it.since)}
            <span aria-hidden="true">, {wait > 0 ? `next try in ${wait} s` : "trying now"}</span>; what you see is from then.
          </span>
          <Button hook="bar-action" onClick={tryNow}>
            Try now
          </Button>
        </div>
      )}
      {it.kind === "polling" && (
        <div class="bar-line info" data-testid="bar" data-kind="polling" role="status">
          <span>Other tabs hold this browser’s live connections; this one asks every 3 s.</span>
        </div>
      )}
      {pausedAt.value && (
        <div class="bar-line info" role="status">
          <span>Paused at {clock(pausedAt.value)}; what you see is from then.</span>
          <Button onClick={togglePause}>Go on</Button>
        </div>
      )}
    </div>
  );
}

function SignIn() {
  const typed = useSignal("");
  const wrong = useSignal("");
  const isBusy = useSignal(false);
  const enter = async () => {
    if (!typed.value.trim() || isBusy.value) return;
    isBusy.value = true;
    wrong.value = await signIn(typed.value.trim());
    isBusy.value = false;
  };
  return (
    <Dialog title={hasTokenEnded.value ? "You are no longer signed in" : "This server needs a token"} hook="sign-in-dialog" onClose={() => (isSignInAsked.value = false)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void enter();
        }}
      >
        {hasTokenEnded.value && (
          <p class="dialog-text" data-testid="sign-in-ended">
            The token or session that this page had counts no more: it was revoked, or has expired. Sign in with a token that counts.
          </p>
        )}
        <p class="dialog-text">
          <code>haul token create me --grant operator --grant control --grant submit</code> makes one.
        </p>
        <label class={wrong.value ? "field wrong" : "field"}>
          <span>Token</span>
          <input type="password" name="token" data-testid="sign-in-token" data-first autocomplete="current-password" aria-describedby="sign-in-wrong" value={typed.value} onInput={(event) => (typed.value = event.currentTarget.value)} />
        </label>
        <p id="sign-in-wrong" class="bad-text" role="alert" data-testid="sign-in-wrong">
          {wrong.value}
        </p>
        <div class="dialog-actions">
          <button type="submit" class="button primary" data-testid="sign-in" disabled={isBusy.value}>
            Sign in
          </button>
        </div>
      </form>
    </Dialog>
  );
}
