// The limits of one job, which take effect at once.
import { useSignal } from "@preact/signals";
import { CALL, jobs } from "../core/api";
import type { Job } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import type { JobModel } from "../core/jobmodel";
import { ErrorBox } from "../ui/bits";
import { Dialog } from "../ui/dialog";
import { NumberField, readBytes, readNumber, readWhole } from "../ui/fields";

export function JobLimits({ model, job, onClose }: { model: JobModel; job: Job; onClose: () => void }) {
  const fault = useSignal<Fault | null>(null);
  const isBusy = useSignal(false);
  const save = async (form: FormData) => {
    isBusy.value = true;
    try {
      const answer = await jobs.updateJob(
        {
          jobId: job.jobId,
          priority: readWhole(form, "priority", 2_147_483_647),
          group: { maxConcurrency: readWhole(form, "max_concurrency") },
          rateLimit: {
            requestsPerSecond: readNumber(form, "requests_per_second"),
            bytesPerSecond: readBytes(form, "bytes_per_second"),
            burst: job.rateLimit?.burst ?? 0,
          },
          updateMask: { paths: ["priority", "group.max_concurrency", "rate_limit"] },
        },
        CALL,
      );
      model.take(answer.job);
      onClose();
    } catch (error) {
      fault.value = faultOf(error);
    }
    isBusy.value = false;
  };
  return (
    <Dialog title="Limits of this job" onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void save(new FormData(event.currentTarget));
        }}
      >
        {fault.value && <ErrorBox fault={fault.value} />}
        <NumberField name="max_concurrency" label="Tasks at once" hint="0: as many as the server allows" value={job.group?.maxConcurrency ?? 0} isFirst />
        <NumberField name="requests_per_second" label="Requests per second" hint="0: no limit of its own" value={job.rateLimit?.requestsPerSecond ?? 0} isFraction />
        <NumberField name="bytes_per_second" label="Bytes per second" hint="0: no limit of its own; 5M is five million" value={Number(job.rateLimit?.bytesPerSecond ?? 0)} />
        <NumberField name="priority" label="Priority" hint="Higher runs first" value={job.priority} isSigned />
        <div class="dialog-actions">
          <button type="button" class="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="button primary" disabled={isBusy.value}>
            Save
          </button>
        </div>
      </form>
    </Dialog>
  );
}
