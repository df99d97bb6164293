// The server: what it is, what it may ask of the network, and the way to its end.
import { useSignal } from "@preact/signals";
import { admin, CALL, signOut } from "../core/api";
import type { GetServerInfoResponse, Limits } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import { bytes, count, durationText, plain } from "../core/format";
import { isDraining } from "../core/live";
import { tell } from "../core/notice";
import { useAsked, useTotals } from "../core/poll";
import { visitor, whyNot } from "../core/roles";
import { Button, Copy, ErrorBox, Fact, Heading, Skeleton } from "../ui/bits";
import { ask } from "../ui/dialog";
import { NumberField, readBytes, readNumber, readWhole } from "../ui/fields";
import { useReady } from "./ready";

const EVERY_MS = 5_000;

export function ServerPage() {
  useTotals();
  const asked = useAsked(() => admin.getServerInfo({}, CALL), EVERY_MS);
  const info = asked.value.value;
  useReady(info !== null || asked.fault.value !== null);
  return (
    <>
      <div class="page-head">
        <Heading title="Server" />
      </div>
      {asked.fault.value && <ErrorBox fault={asked.fault.value} again={() => void asked.again()} />}
      {!info && !asked.fault.value && <Skeleton lines={8} />}
      {info && (
        <div class="columns">
          <div class="column">
            <Info info={info} />
            <Drain />
          </div>
          {info.limits && <LimitsForm limits={info.limits} />}
        </div>
      )}
    </>
  );
}

function Info({ info }: { info: GetServerInfoResponse }) {
  const counts = info.counts;
  return (
    <section class="panel" aria-labelledby="about">
      <h2 id="about" class="panel-title">
        About
      </h2>
      <dl class="facts">
        <Fact name="Version">
          <span data-testid="server-version">{info.version}</span>
        </Fact>
        <Fact name="Node">
          <span class="mono" data-testid="server-node">
            {info.nodeId}
          </span>
          <Copy text={info.nodeId} what="the node's id" />
        </Fact>
        <Fact name="Up for">
          <span data-testid="server-uptime">{info.uptime ? durationText(info.uptime) : ""}</span>
        </Fact>
        <Fact name="Store">
          {info.storeBackend}
          {info.storeBytes > 0n && <span class="muted">, {bytes(info.storeBytes)}</span>}
        </Fact>
        <Fact name="Room for data">
          {info.diskFreeBytes > 0n && <span data-testid="disk-free">{bytes(info.diskFreeBytes)} free</span>}
        </Fact>
        <Fact name="Room for downloads">{info.downloadFreeBytes > 0n && `${bytes(info.downloadFreeBytes)} free`}</Fact>
        <Fact name="Open tasks">
          {counts && `${count(counts.pending + counts.running + counts.backingOff)}, of which ${count(counts.running)} run and ${count(counts.backingOff)} back off`}
        </Fact>
        <Visitor />
      </dl>
    </section>
  );
}

// Who looks, where the server asks for that.
function Visitor() {
  const it = visitor.value;
  if (!it || it.method !== "TOKEN") return null;
  return (
    <Fact name="You are">
      {plain(it.principal)}{" "}
      <button type="button" class="link" onClick={() => void signOut()}>
        Sign out
      </button>
    </Fact>
  );
}

function LimitsForm({ limits }: { limits: Limits }) {
  // The form begins with what holds when it is opened; what others change later does not fall into what one types.
  const held = useSignal(limits);
  const fault = useSignal<Fault | null>(null);
  const isSaved = useSignal(false);
  const isBusy = useSignal(false);
  const save = async (form: FormData) => {
    isBusy.value = true;
    try {
      const answer = await admin.updateLimits(
        {
          limits: {
            maxConcurrentTasks: readWhole(form, "max_concurrent_tasks"),
            maxPerHost: readWhole(form, "max_per_host"),
            requestsPerSecondPerHost: readNumber(form, "requests_per_second_per_host"),
            bytesPerSecond: readBytes(form, "bytes_per_second"),
          },
          updateMask: { paths: ["max_concurrent_tasks", "max_per_host", "requests_per_second_per_host", "bytes_per_second"] },
        },
        CALL,
      );
      if (answer.limits) held.value = answer.limits;
      fault.value = null;
      isSaved.value = true;
    } catch (error) {
      fault.value = faultOf(error);
      isSaved.value = false;
    }
    isBusy.value = false;
  };
  const it = held.value;
  const no = whyNot.operate();
  return (
    <section class="panel" aria-labelledby="limits">
      <h2 id="limits" class="panel-title">
        Limits
      </h2>
      <form
        data-testid="limits-form"
        onInput={() => (isSaved.value = false)}
        onSubmit={(event) => {
          event.preventDefault();
          void save(new FormData(event.currentTarget));
        }}
      >
        {fault.value && <ErrorBox fault={fault.value} />}
        <div class="grid-2">
          <NumberField hook="limit-max_concurrent_tasks" name="max_concurrent_tasks" label="Tasks at once" hint="Over all jobs" value={it.maxConcurrentTasks} />
          <NumberField hook="limit-max_per_host" name="max_per_host" label="Requests at once, each host" hint="Segments included" value={it.maxPerHost} />
          <NumberField hook="limit-requests_per_second_per_host" name="requests_per_second_per_host" label="Requests per second, each host" hint="0: no limit" value={it.requestsPerSecondPerHost} isFraction />
          <NumberField hook="limit-bytes_per_second" name="bytes_per_second" label="Bytes per second" hint="0: no limit; 5M is five million" value={Number(it.bytesPerSecond)} />
        </div>
        <div class="form-actions">
          <Button hook="limits-save" kind="primary" submits off={isBusy.value} no={no}>
            Save
          </Button>
          <span class="muted" role="status">
            {isSaved.value ? <span data-testid="limits-saved">Saved; in force at once and after a restart.</span> : `${no ?? "Takes effect at once, on running tasks too"}.`}
          </span>
        </div>
        {it.hosts.length > 0 && (
          <p class="muted">
            {count(it.hosts.length)} {it.hosts.length === 1 ? "host has" : "hosts have"} limits of {it.hosts.length === 1 ? "its" : "their"} own: <a href="/hosts">Hosts</a>
          </p>
        )}
      </form>
    </section>
  );
}

function Drain() {
  const drain = async () => {
    const answer = await ask({
      title: "Drain this server?",
      text: "No attempt starts any more, running downloads stop at a checkpoint, and the process ends. Nothing is lost: what is open goes on when the server is started again.",
      yes: "Drain the server",
      isDangerous: true,
      word: "drain",
    });
    if (!answer) return;
    try {
      await admin.drain({}, CALL);
      isDraining.value = true;
    } catch (error) {
      tell(faultOf(error).message, true);
    }
  };
  return (
    <section class="panel" aria-labelledby="drain-title">
      <h2 id="drain-title" class="panel-title">
        Drain
      </h2>
      <p class="muted">Ends the server as SIGTERM does: what runs stops where it can go on later, then the process ends.</p>
      <div class="form-actions">
        <Button hook="drain-open" kind="danger" off={isDraining.value} no={whyNot.operate()} onClick={() => void drain()}>
          {isDraining.value ? "Draining…" : "Drain…"}
        </Button>
      </div>
    </section>
  );
}
