// The conditions of the list. Each stands in the address.
import { writeLabels, type JobsQuery, isFiltered, labelParameters, readLabels } from "../core/query";
import { setQuery } from "../core/router";
import { JOB_STATES, jobState, say } from "../core/words";
import { Button } from "../ui/bits";
import { Choices, Search } from "../ui/menu";

const STATES = JOB_STATES.map((it) => ({ value: jobState(it), label: say(jobState(it)) }));
const SINCE = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 h"], ["7d", "Last 7 days"], ["30d", "Last 30 days"]];

export function JobsFilter({ query }: { query: JobsQuery }) {
  const isOtherSince = query.since && !SINCE.some(([value]) => value === query.since);
  return (
    <div class="filters" role="search" aria-label="Jobs">
      <Search hook="jobs-search" label="Search title, label or id" value={query.search} onChange={(search) => setQuery({ search })} />
      <Choices hook="jobs-state" label="State" choices={STATES} chosen={query.states} onChange={(chosen) => setQuery({ state: chosen.join(",") })} />
      <input
        class="label-filter"
        type="text"
        data-testid="jobs-label"
        aria-label="Labels, as name=value"
        placeholder="Label, as team=ml"
        defaultValue={writeLabels(query.labels)}
        key={writeLabels(query.labels)}
        onChange={(event) => setQuery({ label: labelParameters(readLabels(event.currentTarget.value)) })}
      />
      <select data-testid="jobs-since" aria-label="Since" value={query.since} onChange={(event) => setQuery({ since: event.currentTarget.value })}>
        {SINCE.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
        {isOtherSince && <option value={query.since}>Last {query.since}</option>}
      </select>
      <select data-testid="jobs-order" aria-label="Order" value={query.isByEnd ? "end_time" : ""} onChange={(event) => setQuery({ order: event.currentTarget.value })}>
        <option value="">Newest first</option>
        <option value="end_time">Last ended first</option>
      </select>
      {(isFiltered(query) || query.isByEnd) && (
        <Button kind="quiet" hook="jobs-clear" onClick={() => setQuery({ search: "", state: "", label: "", since: "", order: "" })}>
          Clear
        </Button>
      )}
    </div>
  );
}
