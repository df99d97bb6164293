// An address that leads nowhere.
import { useTotals } from "../core/poll";
import { Empty, Heading } from "../ui/bits";
import { useReady } from "./ready";

export function MissingPage() {
  useTotals();
  useReady(true);
  return (
    <>
      <div class="page-head">
        <Heading title="There is no such page" />
      </div>
      <Empty hook="page-missing" title="This address leads nowhere">
        <a class="button" href="/jobs">
          All jobs
        </a>
      </Empty>
    </>
  );
}
