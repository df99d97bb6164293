// The limits of one host. What is 0 is as the server has it for every host.
import { create } from "@bufbuild/protobuf";
import { useSignal } from "@preact/signals";
import { admin, CALL } from "../core/api";
import { HostLimitsSchema, type Host } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import { useAsked } from "../core/poll";
import { ErrorBox, Skeleton } from "../ui/bits";
import { Dialog } from "../ui/dialog";
import { NumberField, readBytes, readNumber, readWhole } from "../ui/fields";

export function HostLimitsDialog({ host, onClose }: { host: Host; onClose: () => void }) {
  const fault = useSignal<Fault | null>(null);
  const asked = useAsked(() => admin.getLimits({}, CALL), 3_600_000);
  const limits = asked.value.value?.limits;
  // What the host has itself; `host.limits` is what holds, the server's among it.
  const own = limits?.hosts.find((it) => it.host === host.host);
  const save = async (form: FormData) => {
    try {
      const changed = create(HostLimitsSchema, {
        host: host.host,
        maxConcurrent: readWhole(form, "max_concurrent"),
        requestsPerSecond: readNumber(form, "requests_per_second"),
        bytesPerSecond: readBytes(form, "bytes_per_second"),
        burst: own?.burst ?? 0,
      });
      const isNone = !changed.maxConcurrent && !changed.requestsPerSecond && !changed.bytesPerSecond && !changed.burst;
      const others = limits!.hosts.filter((it) => it.host !== host.host);
      await admin.updateLimits({ limits: { hosts: isNone ? others : [...others, changed] }, updateMask: { paths: ["hosts"] } }, CALL);
      onClose();
    } catch (error) {
      fault.value = faultOf(error);
    }
  };
  return (
    <Dialog title={`Limits of ${host.host}`} onClose={onClose}>
      {!limits ? (
        <Skeleton lines={4} />
      ) : (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void save(new FormData(event.currentTarget));
          }}
        >
          {fault.value && <ErrorBox fault={fault.value} />}
          <NumberField name="max_concurrent" label="Requests at once" hint={`0: ${limits.maxPerHost}, as for every host`} value={own?.maxConcurrent ?? 0} isFirst />
          <NumberField name="requests_per_second" label="Requests per second" hint="0: as for every host" value={own?.requestsPerSecond ?? 0} isFraction />
          <NumberField name="bytes_per_second" label="Bytes per second" hint="0: as for every host; 5M is five million" value={Number(own?.bytesPerSecond ?? 0)} />
          <div class="dialog-actions">
            <button type="button" class="button" onClick={onClose}>
              Cancel
            </button>
            <button type="submit" class="button primary">
              Save
            </button>
          </div>
        </form>
      )}
    </Dialog>
  );
}
