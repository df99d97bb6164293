// What a server without any job shows: how the first one comes.
import { whyNot } from "../core/roles";
import { ButtonLink, Copy, Empty } from "../ui/bits";

export function FirstRun() {
  const spec = `{"tasks":[{"fetch":{"url":"https://example.com/"}}]}`;
  const line = `curl --json '${spec}' ${location.origin}/v1/jobs`;
  return (
    <Empty hook="jobs-empty" title="No jobs yet">
      <p>A job is a group of fetches and downloads that haul runs, retries and resumes until they are done.</p>
      <p>
        <ButtonLink icon="plus" kind="primary" no={whyNot.submit()} to="/submit">
          Submit the first job
        </ButtonLink>
      </p>
      <p class="muted">or from a terminal</p>
      <div class="command">
        <code data-testid="first-curl">{line}</code>
        <Copy text={line} what="the command" />
      </div>
    </Empty>
  );
}
