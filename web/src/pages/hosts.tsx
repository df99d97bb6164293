// The hosts that the server talks to: how much, how well, and what holds them back.
import { timestampDate, timestampMs } from "@bufbuild/protobuf/wkt";
import { useSignal } from "@preact/signals";
import { admin, CALL } from "../core/api";
import type { Host } from "../core/contract";
import { faultOf } from "../core/errors";
import { clock, count, plain, plural, rate } from "../core/format";
import { now } from "../core/frame";
import { tell } from "../core/notice";
import { useAsked, useTotals } from "../core/poll";
import { whyNot } from "../core/roles";
import { Ago, Button, Empty, ErrorBox, Heading, HostName, Prose, Skeleton } from "../ui/bits";
import { Icon } from "../ui/icons";
import { HostLimitsDialog } from "./host-limits";
import { useReady } from "./ready";

const EVERY_MS = 2_000;
// How many more are shown at a time.
const PART = 100;
const PAGE_MAX = 1_000;

interface Shown {
  hosts: Host[];
  isAll: boolean;
}

// The first hosts by name, so many of them, over as many pages as that takes.
async function firstHosts(most: number): Promise<Shown> {
  const hosts: Host[] = [];
  let pageToken = "";
  do {
    const page = await admin.listHosts({ pageSize: Math.min(most - hosts.length, PAGE_MAX), pageToken }, CALL);
    hosts.push(...page.hosts);
    pageToken = page.nextPageToken;
  } while (pageToken && hosts.length < most);
  return { hosts, isAll: !pageToken };
}

export function HostsPage() {
  useTotals();
  const most = useSignal(PART);
  const isLoading = useSignal(false);
  const asked = useAsked(() => firstHosts(most.peek()), EVERY_MS);
  const limited = useSignal<Host | null>(null);
  const shown = asked.value.value;
  useReady(shown !== null || asked.fault.value !== null);
  const hosts = shown?.hosts ?? [];
  const showMore = async () => {
    isLoading.value = true;
    most.value = hosts.length + PART;
    await asked.again();
    isLoading.value = false;
  };
  const resume = async (host: string) => {
    try {
      await admin.resumeHost({ host }, CALL);
      tell(`${host} is asked again.`);
    } catch (error) {
      tell(faultOf(error).message, true);
    }
    await asked.again();
  };
  return (
    <>
      <div class="page-head">
        <Heading title="Hosts" />
        {shown && <span class="muted">{shown.isAll ? plural(hosts.length, "host") : `the first ${count(hosts.length)}`}</span>}
      </div>
      {asked.fault.value && <ErrorBox fault={asked.fault.value} again={() => void asked.again()} />}
      {!shown && !asked.fault.value && <Skeleton lines={6} />}
      {shown && hosts.length === 0 && (
        <Empty hook="hosts-empty" title="No hosts">
          <p class="muted">Hosts are listed here while the server talks to them, or has begun to work for them and waits.</p>
        </Empty>
      )}
      {hosts.length > 0 && (
        <div class="sheet">
          <table class="table hosts" aria-label="Hosts">
            <thead>
              <tr>
                <th>Host</th>
                <th>State</th>
                <th class="num">In flight</th>
                <th class="num c-mid">Waiting</th>
                <th class="num c-mid">Rate</th>
                <th class="num c-wide">Requests</th>
                <th class="c-error">Last error</th>
                <th>
                  <span class="unseen">Actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {hosts.map((it) => (
                <Row key={it.host} host={it} resume={resume} change={(host) => (limited.value = host)} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {shown && !shown.isAll && (
        <div class="foot">
          <span class="muted">The {plural(hosts.length, "host")} shown so far</span>
          <Button hook="hosts-more" busy={isLoading.value} onClick={() => void showMore()}>
            Show more
          </Button>
        </div>
      )}
      {limited.value && <HostLimitsDialog host={limited.value} onClose={() => ((limited.value = null), void asked.again())} />}
    </>
  );
}

function Row({ host, resume, change }: { host: Host; resume: (host: string) => Promise<void>; change: (host: Host) => void }) {
  const isPaused = host.pausedUntil !== undefined && timestampMs(host.pausedUntil) > now.value;
  const most = host.limits?.maxConcurrent ?? 0;
  return (
    <tr data-testid="host-row" data-host={host.host} data-state={isPaused ? "paused" : "ok"}>
      <th scope="row" class="mono wrap">
        <HostName host={host.host} />
      </th>
      <td class="host-state">
        <span class={isPaused ? "state s-paused" : "state s-ok"}>
          <Icon name={isPaused ? "pause" : "check"} />
          <span>{isPaused ? `paused until ${clock(timestampDate(host.pausedUntil!))}` : "ok"}</span>
        </span>
        {isPaused && host.pauseReason && <div class="row-sub"><Prose isFirst text={host.pauseReason} /></div>}
      </td>
      <td class="num">
        {count(host.running)}
        {most > 0 && <span class="muted"> / {count(most)}</span>}
      </td>
      <td class="num c-mid">{host.waiting ? count(host.waiting) : <span class="faint">0</span>}</td>
      <td class="num c-mid">{host.bytesPerSecond ? rate(host.bytesPerSecond) : <span class="faint">0</span>}</td>
      <td class="num c-wide">{host.requestsPerSecond >= 0.05 ? `${host.requestsPerSecond.toFixed(1)}/s` : <span class="faint">0</span>}</td>
      <td class="c-error">
        {host.recentError && (
          <>
            <span class="clamp" title={plain(host.recentError)}>
              <Prose isFirst text={host.recentError} />
            </span>
            <div class="row-sub">
              <Ago time={host.recentErrorTime} />
              {host.recentFailures > 0 && <span>{plural(host.recentFailures, "failure")} in 5 min</span>}
            </div>
          </>
        )}
      </td>
      <td class="row-actions">
        {isPaused && (
          <Button hook="host-resume" icon="play" no={whyNot.operate()} onClick={() => void resume(host.host)}>
            Resume now
          </Button>
        )}
        <Button hook="host-limits" no={whyNot.operate()} onClick={() => change(host)}>
          Limits…
        </Button>
      </td>
    </tr>
  );
}
