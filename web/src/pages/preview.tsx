// A look at the content of a task, and the way to all of it.
import { useEffect } from "preact/hooks";
import { useSignal } from "@preact/signals";
import { contents, token } from "../core/api";
import type { Task } from "../core/contract";
import { IMAGE_BYTES_MAX, judge, LOOK_BYTES, type Content } from "../core/content";
import { faultOf, type Fault } from "../core/errors";
import { bytes, plain } from "../core/format";
import { tell } from "../core/notice";
import { ErrorBox, Button, Skeleton } from "../ui/bits";
import { Icon } from "../ui/icons";
import { Tree } from "../ui/tree";

interface Looked {
  content: Content;
  shown: number;
  total: number;
  image?: string;
}

export function Preview({ jobId, task }: { jobId: string; task: Task }) {
  const looked = useSignal<Looked | null>(null);
  const fault = useSignal<Fault | null>(null);
  useEffect(() => {
    const ended = new AbortController();
    void look(jobId, task.taskIndex, ended.signal).then(
      (it) => (looked.value = it),
      (error) => ended.signal.aborted || (fault.value = faultOf(error)),
    );
    return () => {
      ended.abort();
      if (looked.value?.image) URL.revokeObjectURL(looked.value.image);
    };
  }, []);
  if (fault.value) return <ErrorBox fault={fault.value} />;
  const it = looked.value;
  if (!it) return <Skeleton lines={4} />;
  const { content, shown, total } = it;
  return (
    <section class="preview" data-testid="preview" data-kind={content.kind} aria-label="Preview">
      {content.kind === "image" && it.image && <img src={it.image} alt="The content of this task" />}
      {content.kind === "json" && (
        <div class="code" tabIndex={0}>
          <Tree value={content.value} />
        </div>
      )}
      {content.kind === "text" && (
        <pre class="code" tabIndex={0}>
          {total ? content.text : "The content is empty."}
        </pre>
      )}
      {content.kind === "hex" && (
        <pre class="code" tabIndex={0}>
          {content.text}
        </pre>
      )}
      <p class="muted">{shown < total ? `The first ${bytes(shown)} of ${bytes(total)}` : bytes(total)}</p>
    </section>
  );
}

async function look(jobId: string, index: number, signal: AbortSignal): Promise<Looked> {
  const first = await read(jobId, index, LOOK_BYTES, signal);
  const content = judge(first.bytes, first.bytes.length >= first.total, first.total);
  if (content.kind !== "image") return { content, shown: first.bytes.length, total: first.total };
  const all = first.bytes.length < first.total ? (await read(jobId, index, IMAGE_BYTES_MAX, signal)).bytes : first.bytes;
  return { content, shown: all.length, total: first.total, image: URL.createObjectURL(new Blob([all], { type: content.type })) };
}

async function read(jobId: string, index: number, length: number, signal: AbortSignal) {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let total = 0;
  const request = { jobId, task: { case: "taskIndex" as const, value: index }, length: BigInt(length) };
  for await (const chunk of contents.readContent(request, { signal })) {
    parts.push(chunk.data as Uint8Array<ArrayBuffer>);
    total = Number(chunk.totalBytes);
  }
  return { bytes: new Uint8Array(await new Blob(parts).arrayBuffer()), total };
}

// The name that a header gives a file, as RFC 8187 writes it.
function nameIn(disposition: string): string | undefined {
  const coded = /filename\*=UTF-8''([^;]+)/i.exec(disposition)?.[1];
  try {
    return coded && decodeURIComponent(coded);
  } catch {
    return undefined;
  }
}

// Without a token the browser downloads by itself. A link cannot carry one, so then the page fetches it.
export function Download({ jobId, index }: { jobId: string; index: number }) {
  const url = `/v1/jobs/${jobId}/tasks/${index}/content`;
  const isBusy = useSignal(false);
  if (!token.value) {
    return (
      <a class="button" href={url} download data-testid="task-download">
        <Icon name="download" />
        <span>Download</span>
      </a>
    );
  }
  const fetchIt = async () => {
    isBusy.value = true;
    try {
      const response = await fetch(url, { headers: { authorization: `Bearer ${token.value}` } });
      if (!response.ok) throw new Error(`the server answered ${response.status}`);
      const name = nameIn(response.headers.get("content-disposition") ?? "");
      const blob = URL.createObjectURL(await response.blob());
      const link = document.createElement("a");
      link.href = blob;
      link.download = plain(name ?? `${jobId}-${index}`);
      link.click();
      setTimeout(() => URL.revokeObjectURL(blob), 60_000);
    } catch (error) {
      tell(faultOf(error).message, true);
    }
    isBusy.value = false;
  };
  return (
    <Button hook="task-download" icon="download" busy={isBusy.value} onClick={() => void fetchIt()}>
      Download
    </Button>
  );
}
