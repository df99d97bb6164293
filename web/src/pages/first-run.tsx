// What a server without any job shows: how the first one comes.
import { Copy, Empty } from "../ui/bits";
import { Icon } from "../ui/icons";

export function FirstRun() {
  const spec = `{"tasks":[{"fetch":{"url":"https://example.com/"}}]}`;
  const line = `curl --json '${spec}' ${location.origin}/v1/jobs`;
  return (
    <Empty hook="jobs-empty" title="No jobs yet">
      <p>A job is a group of fetches and downloads that haul runs, retries and resumes until they are done.</p>
      <p>
        <a class="button primary" href="/submit">
          <Icon name="plus" />
          <span>Submit the first job</span>
        </a>
      </p>
      <p class="muted">or from a terminal</p>
      <div class="command">
        <code data-testid="first-curl">{line}</code>
        <Copy text={line} what="the command" />
      </div>
    </Empty>
  );
}
