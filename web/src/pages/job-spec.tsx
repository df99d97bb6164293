// What was submitted, as JSON that can be submitted again.
import { toJsonString } from "@bufbuild/protobuf";
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { CALL, jobs } from "../core/api";
import { JobSpecSchema } from "../core/contract";
import { faultOf, type Fault } from "../core/errors";
import type { JobModel } from "../core/jobmodel";
import { Copy, ErrorBox, Skeleton } from "../ui/bits";

export const specText = (spec: Parameters<typeof toJsonString<typeof JobSpecSchema>>[1]): string =>
  toJsonString(JobSpecSchema, spec, { prettySpaces: 2, useProtoFieldName: true });

export function Spec({ model }: { model: JobModel }) {
  const text = useSignal<string | null>(null);
  const isCut = useSignal(false);
  const fault = useSignal<Fault | null>(null);
  const load = async () => {
    try {
      const { job } = await jobs.getJob({ jobId: model.id, includeSpec: true }, CALL);
      text.value = job?.spec ? specText(job.spec) : "";
      isCut.value = job?.specTasksOmitted ?? false;
      fault.value = null;
    } catch (error) {
      fault.value = faultOf(error);
    }
  };
  useEffect(() => void load(), [model]);
  if (fault.value) return <ErrorBox fault={fault.value} again={() => void load()} />;
  if (text.value === null) return <Skeleton lines={10} />;
  return (
    <section class="panel flush" aria-labelledby="spec-title">
      <div class="panel-head">
        <h2 id="spec-title" class="panel-title">
          JobSpec
        </h2>
        <span class="muted">{isCut.value ? "without its tasks, of which there are too many" : "as submitted; secrets read REDACTED"}</span>
        <Copy text={text.value} what="the spec" hook="spec-copy" />
      </div>
      <pre class="code" data-testid="spec" tabIndex={0}>
        {text.value}
      </pre>
    </section>
  );
}
