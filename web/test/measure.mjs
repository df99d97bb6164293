// Measures the dashboard on a server with 10,000 jobs and a million tasks: `HAUL_BIN=target/release/haul node test/measure.mjs`.
//
// Prints how long the page of the jobs takes until its rows are there (and that of a server without jobs, which says how much
// of it is the browser's), how long task 999,999 takes, both as medians of HAUL_ROUNDS (7), and the heap of a page over
// HAUL_MINUTES (10) of a busy job, after a collection each time. Without rounds it makes no jobs but the busy one.
import { at, openContext, ready, startBrowser } from "./browser.mjs";
import { startOrigin } from "./origin.mjs";
import { downloadOf, fetchOf, startServer } from "./server.mjs";

const JOBS = 10_000;
const TASKS = 1_000_000;
const AT_ONCE = 32;
const minutes = Number(process.env.HAUL_MINUTES ?? 10);
const rounds = Number(process.env.HAUL_ROUNDS ?? 7);
const [origin, server, browser] = await Promise.all([startOrigin(), startServer(), startBrowser()]);

// Fills the server, and returns the job of a million tasks.
async function fill() {
  const large = await server.submit({ title: "a million", open: true });
  await server.call("POST", `/v1/jobs/${large}:pause`, {});
  await server.haul(["add", large, "--fetch", "-i", "-"], Array.from({ length: TASKS }, (_, nth) => `http://127.0.0.1:9/${nth}\n`).join(""));
  await server.call("POST", `/v1/jobs/${large}:seal`, {});
  let next = 0;
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      while (next < JOBS) {
        const nth = next++;
        await server.submit({ title: `job ${nth}`, labels: { team: `team-${nth % 7}` }, open: true });
      }
    }),
  );
  console.log(`${JOBS} jobs and ${TASKS} tasks are there`);
  return large;
}

// Prints how long pages take.
async function measureTimes(large) {
  const times = { empty: [], jobs: [], search: [], task: [], address: [] };
  for (let round = 0; round < rounds; round++) {
    // A browser of its own each time: nothing is in its cache.
    const { context } = await openContext(browser);
    const page = await context.newPage();
    const timed = async (name, act, hook, rest) => {
      const began = performance.now();
      await act();
      await at(page, hook, rest).first().waitFor();
      times[name].push(performance.now() - began);
    };
    await timed("empty", () => page.goto(`${empty.base}/jobs`, { waitUntil: "commit" }), "jobs-empty", "");
    await timed("jobs", () => page.goto(`${server.base}/jobs`, { waitUntil: "commit" }), "job-row", "");
    await timed("search", () => at(page, "jobs-search").fill("job 4242"), "job-title", ':text-is("job 4242")');
    await page.goto(`${server.base}/jobs/${large}/tasks`);
    await ready(page);
    await at(page, "task-row").first().waitFor();
    await at(page, "tasks-goto").fill("999999");
    await timed("task", () => at(page, "tasks-goto").press("Enter"), "task-row", '[data-task-index="999999"]');
    await timed("address", () => page.goto(`${server.base}/jobs/${large}/tasks/999999`, { waitUntil: "commit" }), "task", '[data-state="pending"]');
    await context.close();
  }
  for (const [name, all] of Object.entries(times)) {
    const sorted = all.map(Math.round).sort((one, other) => one - other);
    console.log(`${name}: median ${sorted[rounds >> 1]} ms, all ${sorted.join(" ")}`);
  }
}

const empty = await startServer();
if (rounds > 0) await measureTimes(await fill());

const tasks = Array.from({ length: 8 }, (_, nth) => downloadOf(origin.url(`slow/200000?bytes=${2e8}&n=${nth}`)));
const busy = await server.submit({ title: "busy", group: { mode: "GROUP_MODE_COLLECT" }, open: true, tasks });
const { context } = await openContext(browser);
const page = await context.newPage();
await page.goto(`${server.base}/jobs/${busy}/tasks`);
await ready(page);
const devtools = await context.newCDPSession(page);
const end = Date.now() + minutes * 60_000;
let fed = 0;
let nextSample = 0;
while (minutes > 0 && Date.now() < end) {
  const lines = Array.from({ length: 500 }, () => JSON.stringify(fetchOf(origin.url(`ok/${fed++}`))) + "\n").join("");
  await server.haul(["add", busy, "-i", "-"], lines);
  await page.waitForTimeout(5_000);
  if (Date.now() < nextSample) continue;
  nextSample = Date.now() + 60_000;
  await devtools.send("HeapProfiler.collectGarbage");
  const { usedSize } = await devtools.send("Runtime.getHeapUsage");
  console.log(`heap ${(usedSize / 1e6).toFixed(2)} MB after ${fed} more tasks`);
}
await browser.close();
origin.stop();
await Promise.all([server.stop(), empty.stop()]);
