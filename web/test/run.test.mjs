// What the dashboard does, seen in a real browser against a real server.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync } from "node:zlib";
import { after, before, test } from "node:test";
import { at, openContext, ready, startBrowser } from "./browser.mjs";
import { startOrigin } from "./origin.mjs";
import { downloadOf, fetchOf, startServer } from "./server.mjs";
import { HOSTILE, seed } from "./seed.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
let origin, server, browser, ids, large;

before(async () => {
  [origin, server, browser] = await Promise.all([startOrigin(), startServer(["--max-per-host", "100", "--max-concurrent-tasks", "200"]), startBrowser()]);
  // A million tasks take their time, in which other things are looked at.
  large = feed(await startServer());
  large.catch(() => {});
  ids = await seed(server, origin);
});
after(async () => {
  await browser?.close();
  origin?.stop();
  await server?.stop();
  await large?.then((it) => it.server.stop(), () => {});
});

async function feed(own) {
  const id = await own.submit({ title: "a million", open: true });
  await own.call("POST", `/v1/jobs/${id}:pause`, {});
  await own.haul(["add", id, "--fetch", "-i", "-"], Array.from({ length: 1_000_000 }, (_, at) => `http://127.0.0.1:9/${at}\n`).join(""));
  await own.call("POST", `/v1/jobs/${id}:seal`, {});
  return { server: own, id };
}

// Runs with a page of its own, and fails on what must never happen in one.
async function withPage(run, { on = server, ...options } = {}) {
  const { context, wrong } = await openContext(browser, options);
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  try {
    await run(page, (path) => page.goto(on.base + path).then(() => ready(page)), context);
    assert.deepEqual(wrong, []);
  } catch (error) {
    if (process.env.HAUL_SHOTS) await page.screenshot({ path: `${process.env.HAUL_SHOTS}/failed-${Date.now()}.png` });
    throw error;
  } finally {
    await context.close();
  }
}

const text = (page, hook, rest) => at(page, hook, rest).first().innerText();
const counted = async (page, hook) => Number(await at(page, hook).first().getAttribute("data-count"));

async function until(what, judge, patience = 60_000) {
  const end = Date.now() + patience;
  let last;
  do {
    last = await judge();
    if (last) return last;
    await new Promise((done) => setTimeout(done, 50));
  } while (Date.now() < end);
  assert.fail(`never: ${what}`);
}

// Something to wait for, and what ends the wait.
function gate() {
  const it = {};
  it.passed = new Promise((done) => (it.open = done));
  return it;
}

async function axe(page, where) {
  await page.addScriptTag({ path: AXE });
  const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }));
  const violations = found.violations.map((it) => `${it.id}: ${it.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(" | ")} (${it.nodes[0].any[0]?.message ?? it.help})`);
  assert.deepEqual(violations, [], where);
}

test("the files of the dashboard take at most 120 kB", () => {
  const dist = new URL("../dist/", import.meta.url);
  const sizes = readdirSync(dist).map((name) => brotliCompressSync(readFileSync(new URL(name, dist))).length);
  const sum = sizes.reduce((one, other) => one + other, 0);
  assert.ok(sum > 10_000 && sum <= 120_000, `${sum} bytes`);
});

test("a first job is submitted by the keyboard alone, watched, and found again", async () => {
  const own = await startServer();
  try {
    await withPage(
      async (page, open) => {
        await open("/");
        assert.equal(await at(page, "page").getAttribute("data-page"), "jobs");
        await at(page, "jobs-empty").waitFor();
        assert.match(await text(page, "first-curl"), new RegExp(`curl --json .* ${own.base}/v1/jobs`));
        await page.keyboard.press("n");
        await at(page, "submit-urls").focus();
        await page.keyboard.type(`${origin.url("ok/a")}\n${origin.url("ok/b")}\n`);
        await at(page, "submit-fetch").focus();
        await page.keyboard.press("Space");
        await at(page, "submit-title").focus();
        await page.keyboard.type("by hand");
        await at(page, "submit-labels").focus();
        await page.keyboard.type("team=ml");
        await at(page, "submit-check").focus();
        await page.keyboard.press("Enter");
        await at(page, "submit-ok").waitFor();
        assert.equal((await own.call("GET", "/v1/jobs")).jobs?.length ?? 0, 0, "a check stores nothing");
        await at(page, "submit-send").focus();
        await page.keyboard.press("Enter");
        await at(page, "job", '[data-state="succeeded"]').waitFor();
        assert.equal(await text(page, "job-title"), "by hand");
        assert.equal(await counted(page, "count-succeeded"), 2);
        await page.keyboard.press("u");
        await at(page, "job-row", '[data-state="succeeded"]').waitFor();
        await page.keyboard.press("j");
        await page.keyboard.press("Enter");
        await at(page, "job").waitFor();
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("violations stand beside their fields", () =>
  withPage(async (page, open) => {
    await open("/submit");
    await at(page, "submit-urls").fill(`${origin.url("ok")}\n\nftp://example.com/x\n`);
    await at(page, "submit-title").fill("t".repeat(300));
    await at(page, "submit-check").click();
    const bad = at(page, "violation", '[data-field^="job.tasks[1]"]');
    await bad.waitFor();
    assert.match(await bad.innerText(), /line 3/);
    await at(page, "violation", '[data-field="job.title"]').waitFor();
    await at(page, "submit-json-open").click();
    await at(page, "submit-json").fill('{"tasks": [{"fetch": {"uri": "x"}}]}');
    await at(page, "submit-check").click();
    await at(page, "violation").waitFor();
    await at(page, "submit-json").fill('{"tasks": []}');
    await at(page, "submit-send").click();
    await at(page, "violation").waitFor();
    assert.equal(await at(page, "page").getAttribute("data-page"), "submit");
  }));

test("a job that ran is submitted again from what it was", () =>
  withPage(async (page, open) => {
    await open(`/jobs/${ids.docs}`);
    await at(page, "job-duplicate").click();
    await until("the spec is there", async () => (await at(page, "submit-json").inputValue().catch(() => "")).includes("docs snapshot"));
    await at(page, "submit-send").click();
    await at(page, "job").waitFor();
    assert.notEqual(await at(page, "job").getAttribute("data-job-id"), ids.docs);
  }));

test("jobs are filtered, and the address says by what", () =>
  withPage(async (page, open) => {
    await open("/jobs?state=failed,cancelled");
    await at(page, "job-row").first().waitFor();
    const states = await at(page, "job-row").evaluateAll((rows) => rows.map((it) => it.dataset.state));
    assert.ok(states.length > 0 && states.every((it) => it === "failed" || it === "cancelled"), states.join());
    await at(page, "jobs-clear").click();
    await page.keyboard.press("/");
    await page.keyboard.type("partner");
    await until("one row is left", async () => (await at(page, "job-row").count()) === 1);
    assert.match(page.url(), /search=partner/);
    assert.match(await text(page, "job-row"), /HTTP 403 ×9 at 127\.0\.0\.1/);
    await at(page, "jobs-search").fill("nothing is called like this");
    await at(page, "jobs-none").waitFor();
    await page.goBack().catch(() => {});
    await open("/jobs?label=team%3Dml");
    await until("three jobs have the label", async () => (await at(page, "job-row").count()) === 3);
    // A message has labels in any order.
    assert.deepEqual(await at(page, "job-row", `[data-job-id="${ids.running}"] .label`).allInnerTexts(), ["env=prod", "owner=sofia", "team=ml"]);
    await open("/jobs?order=end_time");
    const ended = await at(page, "job-row").evaluateAll((rows) => rows.map((it) => it.dataset.state));
    assert.ok(ended.every((it) => ["succeeded", "failed", "cancelled"].includes(it)), ended.join());
  }));

test("new jobs are counted and the list does not move", () =>
  withPage(async (page, open) => {
    await open("/jobs");
    const first = await at(page, "job-row").first().getAttribute("data-job-id");
    await until("it is live", async () => (await at(page, "page").getAttribute("data-live")) === "live");
    const id = await server.submit({ title: "came later", tasks: [fetchOf(origin.url("ok"))] });
    await at(page, "jobs-new", '[data-count="1"]').waitFor();
    assert.equal(await at(page, "job-row").first().getAttribute("data-job-id"), first);
    await at(page, "jobs-new").click();
    await at(page, "job-row", `[data-job-id="${id}"]`).waitFor();
  }));

test("a job is paused, resumed, cancelled, retried and deleted", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "steered", tasks: [fetchOf(origin.url("hang")), fetchOf(origin.url("hang"))] });
    await open(`/jobs/${id}`);
    await at(page, "job", '[data-state="running"]').waitFor();
    await page.keyboard.press("p");
    await at(page, "job", '[data-state="paused"]').waitFor();
    await at(page, "waiting-row", '[data-reason="job_paused"]').waitFor();
    await at(page, "job-resume").click();
    await at(page, "job", '[data-state="running"]').waitFor();
    await page.keyboard.press("c");
    assert.match(await text(page, "confirm-text"), /2 unfinished tasks/);
    await page.keyboard.press("Escape");
    await at(page, "confirm").waitFor({ state: "detached" });
    // A dialog is open when the key that opened it has been handled, so that an Escape just after it closes it.
    await page.keyboard.press("c");
    await page.keyboard.press("Escape");
    await at(page, "confirm").waitFor({ state: "detached" });
    await page.keyboard.press("c");
    await at(page, "confirm-yes").click();
    await at(page, "job", '[data-state="cancelled"]').waitFor();
    // The key does nothing before the page knows that there is something to run again.
    await until("it asks whether to run them again", async () => {
      await page.keyboard.press("r");
      return at(page, "confirm-yes").isVisible();
    });
    await at(page, "confirm-yes").click();
    await at(page, "job", '[data-state="running"]').waitFor();
    await at(page, "job-cancel").click();
    await at(page, "confirm-yes").click();
    await at(page, "job", '[data-state="cancelled"]').waitFor();
    await at(page, "job-delete").click();
    await at(page, "confirm-yes").click();
    await until("the list is shown", async () => (await at(page, "page").getAttribute("data-page")) === "jobs");
    await open(`/jobs/${id}`);
    await at(page, "job-missing").waitFor();
  }));

test("a job that is deleted under an open page says so", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "soon gone", tasks: [fetchOf(origin.url("ok"))] });
    await server.wait(id);
    await open("/jobs?search=soon+gone");
    await at(page, "job-row", `[data-job-id="${id}"]`).waitFor();
    await until("it is live", async () => (await at(page, "page").getAttribute("data-live")) === "live");
    await page.waitForTimeout(600);
    await server.call("DELETE", `/v1/jobs/${id}`);
    await page.locator(".row.gone").waitFor();
    const other = await server.submit({ title: "gone while it is looked at", tasks: [fetchOf(origin.url("ok"))] });
    await server.wait(other);
    await open(`/jobs/${other}`);
    await until("it is live", async () => (await at(page, "page").getAttribute("data-live")) === "live");
    await at(page, "tab-tasks").waitFor();
    await server.call("DELETE", `/v1/jobs/${other}`);
    await at(page, "job-gone").waitFor();
    for (const hook of ["job-duplicate", "job-delete"]) {
      assert.equal(await at(page, hook).getAttribute("title"), "This job was deleted", hook);
      assert.equal(await at(page, hook).getAttribute("aria-disabled"), "true", hook);
    }
    assert.equal(await at(page, "tab-tasks").count(), 0, "there is nothing more to look at");
  }));

test("many jobs are paused, resumed and deleted at once, after their number was told", () =>
  withPage(async (page, open) => {
    const label = `bulk-${Date.now()}`;
    for (let at = 0; at < 5; at++) await server.submit({ title: `bulk ${at}`, labels: { bulk: label }, tasks: [fetchOf(origin.url("hang"))] });
    await open(`/jobs?label=bulk%3D${label}`);
    await until("five rows", async () => (await at(page, "job-row").count()) === 5);
    await at(page, "select-all").check();
    assert.equal(await at(page, "selection").getAttribute("data-count"), "5");
    await at(page, "bulk-pause").click();
    assert.match(await text(page, "confirm-text"), /5 jobs/);
    await at(page, "confirm-yes").click();
    await until("all are paused", async () => (await at(page, "job-row", '[data-state="paused"]').count()) === 5);
    await at(page, "bulk-result").waitFor();
    await at(page, "select-all").check();
    await at(page, "bulk-cancel").click();
    await at(page, "confirm-yes").click();
    await until("all are cancelled", async () => (await at(page, "job-row", '[data-state="cancelled"]').count()) === 5);
    await at(page, "select-all").check();
    await at(page, "bulk-delete").click();
    assert.match(await text(page, "confirm-text"), /5 jobs will be deleted/);
    await at(page, "confirm-no").click();
    assert.equal(await at(page, "job-row").count(), 5);
    await at(page, "bulk-delete").click();
    await at(page, "confirm-yes").click();
    await until("all are gone", async () => (await page.locator(".row.gone").count()) === 5);
  }));

test("failures are counted by reason, shown and retried", () =>
  withPage(async (page, open) => {
    await open(`/jobs/${ids.failed}/failures`);
    const row = at(page, "failure-row", '[data-http-status="403"]');
    await row.waitFor();
    assert.equal(await row.getAttribute("data-count"), "9");
    assert.equal(await row.getAttribute("data-host"), origin.host);
    await at(row, "failure-show").click();
    await until("the nine are listed", async () => (await at(page, "task-row").count()) === 9);
    assert.match(page.url(), /reason=http_status/);
    await page.goBack();
    await at(row, "failure-retry").click();
    assert.match(await text(page, "confirm-text"), /9 failed tasks/);
    const first = (await server.call("GET", `/v1/jobs/${ids.failed}`)).job.sequence;
    await at(page, "confirm-yes").click();
    // Each of the nine ends once more, and the job is told to run and to have ended.
    await until("they ran again", async () => Number((await server.call("GET", `/v1/jobs/${ids.failed}`)).job.sequence) >= Number(first) + 10);
    await at(page, "job", '[data-state="failed"]').waitFor();
    await until("they failed again", async () => (await row.getAttribute("data-count").catch(() => "")) === "9");
    await open(`/jobs/${ids.docs}/failures`);
    await at(page, "failures-none").waitFor();
    await open(`/jobs/${ids.failed}/activity`);
    await at(page, "event-row", '[data-kind="task_ended"]').first().waitFor();
    await open(`/jobs/${ids.failed}/spec`);
    assert.match(await text(page, "spec"), /"title": "partner feed"/);
  }));

test("a task shows its attempts and its content, whatever that is", () =>
  withPage(async (page, open) => {
    const kinds = ["json", "image", "text", "hex", "text"];
    for (const [index, kind] of kinds.entries()) {
      await open(`/jobs/${ids.content}/tasks/${index}`);
      await at(page, "task", '[data-state="succeeded"]').waitFor();
      await at(page, "attempt-row", '[data-number="1"]').waitFor();
      await at(page, "task-preview").click();
      assert.equal(await at(page, "preview").getAttribute("data-kind"), kind, `task ${index}`);
    }
    assert.equal(await page.title(), "contents of every kind · haul");
    await open(`/jobs/${ids.content}/tasks/0`);
    const [download] = await Promise.all([page.waitForEvent("download"), at(page, "task-download").click()]);
    assert.equal(await download.failure(), null);
    await open(`/jobs/${ids.content}/tasks/77`);
    await at(page, "task-missing").waitFor();
    await page.keyboard.press("Escape");
    await at(page, "task-missing").waitFor({ state: "detached" });
  }));

test("what waits is retried now, and a task is cancelled", () =>
  withPage(async (page, open) => {
    await open(`/jobs/${ids.backing}/tasks/0`);
    await at(page, "task", '[data-state="backing_off"]').waitFor();
    const before = await at(page, "attempt-row").count();
    await at(page, "task-retry-now").click();
    await until("another attempt", async () => (await at(page, "attempt-row").count()) > before);
    await at(page, "task-cancel").click();
    await at(page, "confirm-yes").click();
    await at(page, "task", '[data-state="cancelled"]').waitFor();
    await until("it is counted", async () => (await counted(page, "count-cancelled")) === 1);
  }));

test("hosts are shown part by part", async () => {
  const own = await startServer();
  try {
    // Nothing listens there, which the server remembers of each host for a while.
    const tasks = Array.from({ length: 150 }, (_, at) => fetchOf(`http://127.0.0.1:${20_000 + at}/`));
    await own.wait(await own.submit({ tasks, group: { mode: "GROUP_MODE_COLLECT" }, defaults: { retry: { max_attempts: 1 } } }));
    assert.equal((await own.call("GET", "/v1/hosts?page_size=1000")).hosts.length, 150);
    await withPage(
      async (page, open) => {
        await open("/hosts");
        await at(page, "hosts-more").waitFor();
        assert.equal(await at(page, "host-row").count(), 100);
        await at(page, "hosts-more").click();
        await until("the others are shown", async () => (await at(page, "host-row").count()) === 150);
        await at(page, "hosts-more").waitFor({ state: "detached" });
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("an answer to an older question does not undo what was asked for after it", async () => {
  const own = await startServer();
  try {
    const tasks = Array.from({ length: 150 }, (_, at) => fetchOf(`http://127.0.0.1:${20_000 + at}/`));
    await own.wait(await own.submit({ tasks, group: { mode: "GROUP_MODE_COLLECT" }, defaults: { retry: { max_attempts: 1 } } }));
    await withPage(
      async (page, open) => {
        await open("/hosts");
        await at(page, "hosts-more").waitFor();
        // Questions for the first 100 hosts, and all but the first one for more, are answered when the test lets them be.
        const older = gate();
        const later = gate();
        const isHeld = gate();
        let wide = 0;
        await page.route("**/haul.v1.AdminService/ListHosts", async (route) => {
          const isNarrow = route.request().postDataBuffer().includes(100);
          const response = await route.fetch();
          if (isNarrow) isHeld.open();
          if (isNarrow) await older.passed;
          else if (++wide > 1) await later.passed;
          await route.fulfill({ response }).catch(() => {});
        });
        await isHeld.passed;
        await at(page, "hosts-more").click();
        await until("the others are shown", async () => (await at(page, "host-row").count()) === 150);
        const answered = page.waitForEvent("requestfinished", (it) => it.postDataBuffer()?.includes(100));
        older.open();
        await answered;
        await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))));
        assert.equal(await at(page, "host-row").count(), 150);
        later.open();
        await page.unrouteAll({ behavior: "ignoreErrors" });
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("what is selected is in sight", () =>
  withPage(async (page, open) => {
    const label = `seen-${Date.now()}`;
    const hanging = (title, more) => server.submit({ title, labels: { seen: label }, tasks: [fetchOf(origin.url("hang")), fetchOf(origin.url("hang"))], ...more });
    const id = await hanging("the first");
    await server.submit({ title: "the second", labels: { seen: label }, open: true });
    await open(`/jobs?label=seen%3D${label}`);
    const row = at(page, "job-row", `[data-job-id="${id}"]`);
    await row.waitFor();
    // Rows of the last conditions stay until those of the new ones are there; one that is selected meanwhile goes with them.
    const isLetThrough = gate();
    await page.route("**/haul.v1.JobService/ListJobs", async (route) => {
      await isLetThrough.passed;
      await route.continue();
    });
    await at(page, "jobs-search").fill("second");
    await page.waitForURL(/search=/);
    await at(row, "job-select").click();
    await at(page, "selection").waitFor();
    isLetThrough.open();
    await row.waitFor({ state: "detached" });
    assert.equal(await at(page, "job-row").count(), 1);
    assert.equal(await at(page, "selection").count(), 0);
    await page.unrouteAll({ behavior: "wait" });
    await open(`/jobs/${id}/tasks?state=running`);
    await at(page, "task-row", '[data-task-index="1"]').locator('[data-testid="task-select"]').click();
    await at(page, "selection", '[data-count="1"]').waitFor();
    await server.call("POST", `/v1/jobs/${id}/tasks:cancel`, { task_indexes: [1] });
    await at(page, "selection").waitFor({ state: "detached" });
    await server.call("POST", `/v1/jobs/${id}:cancel`, {});
  }));

test("limits are saved, a paused host is resumed", () =>
  withPage(async (page, open) => {
    const late = await server.submit({ title: "told to wait", defaults: { retry: { max_attempts: 3 } }, tasks: [fetchOf(origin.url("retry-after/600").replace("127.0.0.1", "localhost"))] });
    await open("/hosts");
    const row = at(page, "host-row", '[data-state="paused"]');
    await row.waitFor();
    await at(row, "host-limits").click();
    await page.locator('[name="max_concurrent"]').fill("3");
    await page.locator('dialog button[type="submit"]').click();
    await until("the limit holds", async () => (await server.call("GET", "/v1/limits")).limits.hosts?.[0]?.max_concurrent === 3);
    await at(row, "host-resume").click();
    await row.waitFor({ state: "detached" });
    await server.call("POST", `/v1/jobs/${late}:cancel`, {});
    await open("/server");
    assert.match(await text(page, "server-version"), /^\d+\.\d+\.\d+/);
    await at(page, "disk-free").waitFor();
    await at(page, "limit-bytes_per_second").fill("900M");
    await at(page, "limits-save").click();
    await at(page, "limits-saved").waitFor();
    assert.equal((await server.call("GET", "/v1/limits")).limits.bytes_per_second, "900000000");
    await at(page, "limit-max_concurrent_tasks").fill("0");
    await at(page, "limits-save").click();
    await at(page, "error", '[data-reason="INVALID_ARGUMENT"]').waitFor();
  }));

test("hostile text is text", () =>
  withPage(async (page, open) => {
    await open("/jobs");
    await page.waitForFunction(() => document.querySelectorAll('[data-testid="job-row"]').length > 5);
    const list = await server.call("GET", "/v1/jobs?search=l");
    assert.ok(list);
    for (const row of await at(page, "job-row").all()) {
      const title = await at(row, "job-title").innerText();
      assert.doesNotMatch(title, /[\u202a-\u202e\u2066-\u2069]/);
    }
    const { jobs } = await server.call("GET", "/v1/jobs?page_size=50");
    for (const job of jobs.filter((it) => HOSTILE.some((text) => text.startsWith(it.title.slice(0, 10)) && it.title))) {
      await open(`/jobs/${job.job_id}/tasks/0`);
      await at(page, "task").waitFor();
      await at(page, "task-preview").click().catch(() => {});
      await at(page, "preview").waitFor();
      assert.notEqual(await page.title(), "hacked");
      assert.equal(await page.locator("main img, main script, main b.evil").count(), 0);
    }
  }));

test("every page is accessible, in both themes", async () => {
  const paths = {
    jobs: "/jobs", none: "/jobs?search=zzzz", job: `/jobs/${ids.running}`, tasks: `/jobs/${ids.running}/tasks`, failures: `/jobs/${ids.failed}/failures`,
    activity: `/jobs/${ids.failed}/activity`, spec: `/jobs/${ids.failed}/spec`, task: `/jobs/${ids.failed}/tasks/30`, hosts: "/hosts", server: "/server", submit: "/submit", missing: "/nowhere",
  };
  for (const colorScheme of ["light", "dark"]) {
    await withPage(
      async (page, open) => {
        for (const [name, path] of Object.entries(paths)) {
          await open(path);
          await page.waitForTimeout(150);
          await axe(page, `${name}, ${colorScheme}`);
          assert.equal(await page.locator("h1").count(), 1, name);
        }
        await open("/jobs");
        await at(page, "select-all").check();
        await page.keyboard.press("?");
        await at(page, "help").waitFor();
        await axe(page, `help, ${colorScheme}`);
        await page.keyboard.press("Escape");
        await at(page, "bulk-delete").click();
        await at(page, "confirm").waitFor();
        await axe(page, `question, ${colorScheme}`);
        await at(page, "confirm-no").click();
      },
      { colorScheme, bypassCSP: true },
    );
  }
});

test("no page scrolls sideways at 320 px, and the theme is kept", () =>
  withPage(
    async (page, open) => {
      for (const path of ["/jobs", `/jobs/${ids.running}`, `/jobs/${ids.running}/tasks`, `/jobs/${ids.failed}`, `/jobs/${ids.failed}/failures`, `/jobs/${ids.failed}/activity`, `/jobs/${ids.content}/tasks/0`, "/hosts", "/server", "/submit", "/nowhere"]) {
        await open(path);
        await page.waitForTimeout(100);
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 320), path);
      }
      await open("/jobs");
      await at(page, "theme").click();
      await at(page, "theme").click();
      assert.equal(await page.locator("html").getAttribute("data-theme"), "dark");
      await open("/hosts");
      assert.equal(await page.locator("html").getAttribute("data-theme"), "dark");
      await at(page, "help-open").click();
      await at(page, "shortcuts-switch").uncheck();
      await page.keyboard.press("Escape");
      await page.keyboard.press("n");
      assert.equal(await at(page, "page").getAttribute("data-page"), "hosts", "a key that is switched off does nothing");
    },
    { viewport: { width: 320, height: 700 } },
  ));

test("updates are paused while one reads", () =>
  withPage(async (page, open) => {
    await open(`/jobs/${ids.running}`);
    await until("it is live", async () => (await at(page, "page").getAttribute("data-live")) === "live");
    await page.keyboard.press(".");
    assert.equal(await at(page, "page").getAttribute("data-live"), "paused");
    const before = await at(page, "job").innerHTML();
    await page.waitForTimeout(1500);
    assert.equal(await at(page, "job").innerHTML(), before);
    await at(page, "live-toggle").click();
    await until("it goes on", async () => (await at(page, "job").innerHTML()) !== before);
  }));

test("a page outlives its server", async () => {
  const own = await startServer();
  try {
    const id = await own.submit({ title: "survivor", tasks: [...Array(4)].map((_, at) => downloadOf(origin.url(`slow/200000?bytes=20000000&n=${at}`))) });
    await withPage(
      async (page, open) => {
        // The page has to know which version it belongs to.
        const told = page.waitForResponse(/GetServerInfo/).then((it) => it.finished());
        await open(`/jobs/${id}`);
        await at(page, "page", '[data-live="live"]').waitFor();
        await told;
        await page.waitForTimeout(300);
        await own.kill();
        await at(page, "bar", '[data-kind="lost"]').waitFor();
        assert.equal(await at(page, "page").getAttribute("data-live"), "lost");
        assert.equal(await text(page, "job-title"), "survivor", "what was there stays");
        // What comes back is another version: of the same length, so that its message stays whole.
        await page.route("**/GetServerInfo", async (route) => {
          const response = await route.fetch();
          const body = (await response.body()).toString("latin1").replace(/\d+\.\d+\.\d+/, (it) => it.replace(/\d/g, "9"));
          await route.fulfill({ response, body: Buffer.from(body, "latin1") });
        });
        await own.launch();
        await at(page, "bar-action").click().catch(() => {});
        await at(page, "bar", '[data-kind="upgraded"]').waitFor();
        await at(page, "page", '[data-live="live"]').waitFor();
        await at(page, "bar", '[data-kind="lost"]').waitFor({ state: "detached" });
        await until("it runs again", async () => (await counted(page, "count-running")) > 0);
        // The way to the end of the server, which has to be typed.
        await page.keyboard.press("g");
        await page.keyboard.press("s");
        await at(page, "drain-open").click();
        assert.ok(await at(page, "confirm-yes").isDisabled());
        await at(page, "confirm-type").fill("drain");
        await at(page, "confirm-yes").click();
        await at(page, "bar", '[data-kind="draining"]').waitFor();
        await own.ended();
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("seven tabs all show their jobs", () =>
  withPage(async (first, open, context) => {
    const pages = [first, ...(await Promise.all([...Array(6)].map(() => context.newPage())))];
    for (const page of pages) {
      await page.goto(`${server.base}/jobs`);
      await ready(page);
      await at(page, "page", "[data-live]").waitFor();
    }
    const kinds = await Promise.all(pages.map((page) => at(page, "page").getAttribute("data-live")));
    assert.ok(kinds.filter((it) => it === "live").length <= 3, kinds.join());
    assert.ok(kinds.includes("polling"), kinds.join());
    await at(pages[kinds.indexOf("polling")], "bar", '[data-kind="polling"]').waitFor();
    const id = await server.submit({ title: "seen by all", tasks: [fetchOf(origin.url("ok"))] });
    for (const page of pages) {
      await at(page, "jobs-new").click();
      await at(page, "job-row", `[data-job-id="${id}"]`).waitFor();
    }
  }));

test("a tab that is hidden gives its stream back, and takes it again", () =>
  withPage(async (page, open) => {
    const hide = (is) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, is);
    const held = () => page.evaluate(async () => (await navigator.locks.query()).held.length);
    await open("/jobs");
    await until("it has a stream", async () => (await held()) === 1);
    await hide(true);
    await until("it is given back", async () => (await held()) === 0);
    const id = await server.submit({ title: "while hidden", tasks: [fetchOf(origin.url("ok"))] });
    await hide(false);
    await until("it has a stream again", async () => (await held()) === 1);
    await at(page, "jobs-new").click();
    await at(page, "job-row", `[data-job-id="${id}"]`).waitFor();
  }));

test("a million tasks are gone through, and few of them are in the document", async () => {
  const { server: own, id } = await large;
    await withPage(
      async (page, open, context) => {
        await open(`/jobs/${id}/tasks`);
        await at(page, "task-row").first().waitFor();
        const rows = () => page.locator('[data-testid="tasks-table"] tbody tr').count();
        await at(page, "tasks-goto").fill("999,999");
        const began = Date.now();
        await at(page, "tasks-goto").press("Enter");
        await at(page, "task-row", '[data-task-index="999999"]').waitFor();
        console.log(`# task 999,999 after ${Date.now() - began} ms`);
        assert.match(page.url(), /from=999999/);
        assert.ok((await rows()) < 200);
        // The wheel goes row by row, the bar by shares.
        await page.locator(".viewport").hover();
        for (let turn = 0; turn < 9; turn++) {
          await page.mouse.wheel(0, -400);
          await page.waitForTimeout(20);
        }
        await at(page, "task-row", '[data-task-index="999880"]').waitFor();
        await page.locator(".viewport").evaluate((it) => (it.scrollTop = it.scrollHeight / 2));
        const middle = await until("the middle is there", async () => {
          const index = Number(await at(page, "task-row").first().getAttribute("data-task-index").catch(() => NaN));
          return index > 450_000 && index < 550_000 && index;
        });
        await page.waitForTimeout(400);
        const settled = Number(await at(page, "task-row").first().getAttribute("data-task-index"));
        assert.ok(Math.abs(settled - middle) < 100, "it stays where it was dropped");
        await page.locator(".viewport").evaluate((it) => (it.scrollTop = 0));
        await at(page, "task-row", '[data-task-index="0"]').waitFor();
        assert.ok((await rows()) < 200);
        assert.ok((await page.locator("*").count()) < 3000);
        // Where columns are hidden the others have their room.
        await page.setViewportSize({ width: 760, height: 800 });
        await until("the columns fill the table", () =>
          page.locator(".viewport").evaluate((it) => {
            const widths = [...it.querySelectorAll("th")].map((cell) => cell.getBoundingClientRect().width);
            return Math.abs(widths.reduce((one, other) => one + other, 0) - it.clientWidth) < 2;
          }),
        );
        const devtools = await context.newCDPSession(page);
        await devtools.send("HeapProfiler.collectGarbage");
        const { usedSize } = await devtools.send("Runtime.getHeapUsage");
        assert.ok(usedSize < 60e6, `${usedSize} bytes`);
      },
      { on: own },
    );
});

test("an action on many jobs that is cut says how far it came, and another one can follow", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "cut in the middle", tasks: [fetchOf(origin.url("hang"))] });
    let calls = 0;
    // The first call counts; the second one acts.
    await page.route("**/haul.v1.JobService/ControlJobs", (route) => (++calls === 2 ? route.abort() : route.continue()));
    await open("/jobs?search=cut+in+the+middle");
    const row = at(page, "job-row", `[data-job-id="${id}"]`);
    await row.locator('[data-testid="job-select"]').click();
    await at(page, "bulk-cancel").click();
    await at(page, "confirm-yes").click();
    await until("it says that it was cut", async () => /^Cut after 0 of/.test(await text(page, "bulk-result").catch(() => "")));
    await row.locator('[data-testid="job-select"]').click();
    await at(page, "bulk-cancel").click();
    await at(page, "confirm-yes").click();
    await at(page, "job-row", `[data-job-id="${id}"][data-state="cancelled"]`).waitFor();
  }));

test("numbers that do not fit are told beside their fields", () =>
  withPage(async (page, open) => {
    await open("/submit");
    await at(page, "submit-urls").fill(origin.url("ok"));
    await page.getByLabel("Tasks at once").fill("99999999999");
    await at(page, "submit-check").click();
    await at(page, "violation", '[data-field="job.group.max_concurrency"]').waitFor();
    await open("/server");
    await at(page, "limit-max_concurrent_tasks").fill("99999999999");
    await at(page, "limits-save").click();
    assert.match(await text(page, "error"), /max concurrent tasks is 99999999999; write a whole number/i);
  }));

test("lists of other programs are submitted, and what is wrong in them is told", () =>
  withPage(async (page, open) => {
    await open("/submit");
    await at(page, "submit-urls").fill(`${origin.url("ok/a")}\n  out=one.bin\n${origin.url("ok/b")}\n  bt-seed=1\n`);
    await at(page, "submit-title").fill("from aria2");
    await at(page, "submit-send").click();
    assert.match(await text(page, "violation", '[data-field="job.tasks"]'), /line 4: the option .?bt-seed/);
    await at(page, "submit-urls").fill(`${origin.url("ok/a")}\n  out=one.bin\n${origin.url("ok/b")}\n`);
    await at(page, "submit-send").click();
    await at(page, "job", '[data-state="succeeded"]').waitFor();
    assert.equal(await counted(page, "count-succeeded"), 2);
    await open("/submit");
    await at(page, "submit-file").setInputFiles({
      name: "x.meta4", mimeType: "application/metalink4+xml",
      buffer: Buffer.from(`<metalink><file name="two.bin"><url>${origin.url("ok/c")}</url></file></metalink>`),
    });
    await at(page, "submit-send").click();
    await at(page, "job", '[data-state="succeeded"]').waitFor();
  }));

test("a list whose sending is cut is one job, whose rest the next press adds", () =>
  withPage(async (page, open) => {
    let calls = 0;
    await page.route("**/tasks:import?*", async (route) => {
      if (++calls > 1) return route.continue();
      // All of it came, and the answer did not.
      await route.fetch();
      await route.abort();
    });
    await open("/submit");
    await at(page, "submit-urls").fill(`${origin.url("ok/a")}\n  out=cut-1.bin\n${origin.url("ok/b")}\n  out=cut-2.bin\n`);
    await at(page, "submit-title").fill("list that is cut");
    await at(page, "submit-send").click();
    assert.match(await text(page, "error"), /cannot be reached.*press Submit again/s);
    await at(page, "submit-send").click();
    await at(page, "job", '[data-state="succeeded"]').waitFor();
    assert.equal(await counted(page, "count-succeeded"), 2);
    assert.equal((await server.call("GET", "/v1/jobs?search=list+that+is+cut")).jobs.length, 1);
    await page.unrouteAll({ behavior: "ignoreErrors" });
  }));

test("an answer that comes behind the end of a job does not undo it", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "ends before an answer", tasks: [fetchOf(origin.url("hang"))] });
    const older = gate();
    const isHeld = gate();
    await open(`/jobs/${id}`);
    await at(page, "job", '[data-state="running"]').waitFor();
    // The page asks again and again why tasks wait.
    await page.route("**/haul.v1.JobService/GetJob", async (route) => {
      const response = await route.fetch();
      isHeld.open();
      await older.passed;
      await route.fulfill({ response }).catch(() => {});
    });
    await isHeld.passed;
    await server.call("POST", `/v1/jobs/${id}:cancel`, {});
    await at(page, "job", '[data-state="cancelled"]').waitFor();
    const answered = page.waitForEvent("requestfinished", (it) => it.url().endsWith("/GetJob"));
    older.open();
    await answered;
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)))));
    assert.equal(await at(page, "job").getAttribute("data-state"), "cancelled");
    await page.unrouteAll({ behavior: "ignoreErrors" });
  }));

test("an action on all of a list by the end leaves alone what goes on", async () => {
  const own = await startServer();
  try {
    const running = await own.submit({ title: "goes on", tasks: [fetchOf(origin.url("hang"))] });
    for (let at = 0; at < 60; at++) await own.wait(await own.submit({ title: `ended ${at}`, tasks: [fetchOf(origin.url("ok"))] }));
    await withPage(
      async (page, open) => {
        await open("/jobs?order=end_time");
        await at(page, "select-all").click();
        await at(page, "select-matching").click();
        await at(page, "bulk-cancel").click();
        await page.getByText("None of these jobs can be cancelled now.").waitFor();
        assert.equal((await own.call("GET", `/v1/jobs/${running}`)).job.state, "JOB_STATE_RUNNING");
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("an attempt that was stopped has not succeeded", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "stopped", tasks: [fetchOf(origin.url("hang"))] });
    await open(`/jobs/${id}/tasks/0`);
    await at(page, "task", '[data-state="running"]').waitFor();
    await server.call("POST", `/v1/jobs/${id}:pause`, {});
    await at(page, "attempt-row", '[data-number="1"]').waitFor();
    assert.match(await text(page, "attempt-row"), /stopped before its end/);
    await server.call("POST", `/v1/jobs/${id}:cancel`, {});
  }));

test("numbers of a content are shown as they came", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "large numbers", tasks: [fetchOf(origin.url("large")), fetchOf(origin.url("exact"))] });
    await server.wait(id);
    for (const [index, kind, part] of [[0, "text", "9007199254740993"], [1, "json", "1234.5"]]) {
      await open(`/jobs/${id}/tasks/${index}`);
      await at(page, "task-preview").click();
      assert.equal(await at(page, "preview").getAttribute("data-kind"), kind);
      assert.match(await text(page, "preview"), new RegExp(part));
    }
  }));

test("a label of any text leads to the jobs that have it", () =>
  withPage(async (page, open) => {
    const id = await server.submit({ title: "labelled", labels: { note: "a,b=c" }, tasks: [fetchOf(origin.url("ok"))] });
    await open(`/jobs/${id}`);
    await page.locator("a.label", { hasText: "note" }).click();
    await until("the job alone is listed", async () => (await at(page, "job-row").count()) === 1);
    assert.equal(await at(page, "job-row").getAttribute("data-job-id"), id);
  }));

test("a wrong token is told, and downloads keep their names without a cookie", async () => {
  const own = await startServer();
  try {
    const token = (await own.haul(["token", "create", "me", "--grant", "operator", "--grant", "submit", "--grant", "read"])).trim();
    const answer = await fetch(`${own.base}/v1/jobs`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      body: JSON.stringify({ tasks: [downloadOf(origin.url("ok/file%20%C3%BC.bin"))] }),
    });
    const id = (await answer.json()).job.job_id;
    await withPage(
      async (page) => {
        await page.goto(`${own.base}/jobs/${id}/tasks/0`);
        await at(page, "sign-in-token").fill("haul_0000000000_nonsense");
        await at(page, "sign-in").click();
        await until("it is told", async () => /invalid credentials/.test(await text(page, "sign-in-wrong")));
        await at(page, "sign-in-token").fill(token);
        await at(page, "sign-in").click();
        await at(page, "task", '[data-state="succeeded"]').waitFor();
        const [download] = await Promise.all([page.waitForEvent("download"), at(page, "task-download").click()]);
        assert.equal(download.suggestedFilename(), "file ü.bin");
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("over TLS who signs in has a cookie that no script can read, and stays signed in", async () => {
  const folder = mkdtempSync(join(tmpdir(), "haul-tls-"));
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(folder, name));
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key], { stdio: "ignore" });
  const own = await startServer(["--tls-cert", cert, "--tls-key", key]);
  try {
    const token = (await own.haul(["token", "create", "me", "--grant", "operator", "--grant", "read"])).trim();
    await withPage(
      async (page, _, context) => {
        await page.goto(`${own.base}/jobs`);
        await at(page, "sign-in-token").fill(token);
        await at(page, "sign-in").click();
        await at(page, "jobs-empty").waitFor();
        const [cookie, ...others] = await context.cookies();
        assert.deepEqual(others, []);
        assert.deepEqual([cookie.name, cookie.secure, cookie.httpOnly, cookie.sameSite, cookie.path], ["__Host-haul", true, true, "Strict", "/"]);
        assert.equal(await page.evaluate(() => document.cookie), "");
        const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
        assert.ok(!stored.includes(token), "and the token is kept nowhere");
        await page.reload();
        await at(page, "jobs-empty").waitFor();
        await at(page, "page", '[data-live="live"]').waitFor();
        assert.equal(await at(page, "sign-in-token").count(), 0);
      },
      { on: own, ignoreHTTPSErrors: true },
    );
  } finally {
    await own.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});

// Goes to another page without loading it, which would forget the token.
async function follow(page, path) {
  await page.evaluate((to) => {
    const link = Object.assign(document.createElement("a"), { href: to });
    document.body.append(link);
    link.click();
    link.remove();
  }, path);
  await ready(page);
}

async function signIn(page, own, token, path = "/jobs") {
  await page.goto(own.base + path);
  await at(page, "sign-in-token").fill(token);
  await at(page, "sign-in").click();
  await at(page, "page", '[data-live="live"]').waitFor();
}

test("what a visitor may not do is off, and says why", async () => {
  const own = await startServer();
  try {
    const grants = (...roles) => roles.flatMap((role) => ["--grant", role]);
    const create = async (name, ...roles) => (await own.haul(["token", "create", name, ...grants(...roles)])).trim();
    const hanging = await own.submit({ title: "of somebody else", tasks: [fetchOf(origin.url("hang"))] });
    const failed = await own.submit({ title: "failed", defaults: { retry: { max_attempts: 1 } }, tasks: [fetchOf(origin.url("status/403"))] });
    await own.wait(failed);
    const [all, viewer, submitter] = [await create("all", "operator", "control", "submit"), await create("viewer", "read"), await create("ci", "read", "submit")];
    const answer = await fetch(`${own.base}/v1/jobs`, { method: "POST", headers: { "content-type": "application/json", authorization: `Bearer ${submitter}` }, body: JSON.stringify({ title: "own", tasks: [fetchOf(origin.url("hang"))] }) });
    const ownId = (await answer.json()).job.job_id;
    // Of each page the buttons that somebody may not press, and the role that is missing.
    const pages = [
      ["/jobs", ["submit-open"], "submit"],
      [`/jobs/${hanging}`, ["job-pause", "job-cancel", "job-limits"], "control"],
      [`/jobs/${hanging}`, ["job-duplicate"], "submit"],
      [`/jobs/${failed}`, ["job-retry", "job-delete"], "control"],
      [`/jobs/${failed}/failures`, ["failure-retry"], "control"],
      [`/jobs/${failed}/tasks/0`, ["task-retry"], "control"],
      [`/jobs/${hanging}/tasks/0`, ["task-cancel"], "control"],
      ["/hosts", ["host-limits"], "operator"],
      ["/server", ["limits-save", "drain-open"], "operator"],
      ["/submit", ["submit-send", "submit-check"], "submit"],
    ];
    const look = async (page, mayDo) => {
      for (const [path, hooks, role] of pages) {
        await follow(page, path);
        for (const hook of hooks) {
          const button = at(page, hook).first();
          await button.waitFor();
          const isOff = !mayDo.includes(role);
          await until(`${hook} is ${isOff ? "off" : "on"}`, async () => ((await button.getAttribute("aria-disabled")) === "true") === isOff);
          if (isOff) assert.match(await button.getAttribute("title"), new RegExp(`This needs the role ${role}`), hook);
        }
      }
    };
    await withPage(
      async (page) => {
        await signIn(page, own, viewer);
        await look(page, []);
        // Pressed all the same, by the mouse or by a key, it says so and does nothing.
        await follow(page, "/jobs");
        await at(page, "job-select").first().check();
        await at(page, "bulk-delete", '[aria-disabled="true"]').click({ force: true });
        await page.locator(".said", { hasText: "This needs the role control" }).waitFor();
        assert.equal(await at(page, "confirm").count(), 0);
        await follow(page, `/jobs/${hanging}`);
        await at(page, "job", '[data-state="running"]').waitFor();
        await page.keyboard.press("c");
        await page.locator(".said", { hasText: "This needs the role control" }).waitFor();
        assert.equal(await at(page, "confirm").count(), 0);
        await page.keyboard.press("n");
        await at(page, "submit-urls").fill(origin.url("ok"));
        await at(page, "submit-title").press("Enter");
        await page.locator(".said", { hasText: "This needs the role submit" }).waitFor();
        await axe(page, "/submit of somebody who may not");
        await follow(page, "/server");
        await at(page, "limit-max_per_host").press("Enter");
        await page.locator(".said", { hasText: "This needs the role operator" }).waitFor();
        await axe(page, "/server of somebody who may not");
      },
      { on: own, bypassCSP: true },
    );
    await withPage(
      async (page) => {
        await signIn(page, own, submitter);
        await look(page, ["submit"]);
        await follow(page, `/jobs/${ownId}`);
        await until("the own job is controlled", async () => (await at(page, "job-cancel").getAttribute("aria-disabled")) === null);
        await page.keyboard.press("p");
        await at(page, "job", '[data-state="paused"]').waitFor();
      },
      { on: own },
    );
    await withPage(
      async (page) => {
        await signIn(page, own, all);
        await look(page, ["submit", "control", "operator"]);
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("a token that is revoked under an open page ends it in words", async () => {
  const own = await startServer();
  try {
    const first = (await own.haul(["token", "create", "first", "--grant", "operator", "--grant", "read"])).trim();
    const second = (await own.haul(["token", "create", "second", "--grant", "read"])).trim();
    await withPage(
      async (page) => {
        await page.goto(`${own.base}/jobs`);
        assert.equal(await at(page, "sign-in-dialog").locator("h2").innerText(), "This server needs a token");
        assert.equal(await at(page, "sign-in-ended").count(), 0, "at the first visit nothing has ended");
        await at(page, "sign-in-token").fill(second);
        await at(page, "sign-in").click();
        await at(page, "page", '[data-live="live"]').waitFor();
        await own.haul(["token", "revoke", second.split("_")[1]], "");
        await at(page, "sign-in-ended").waitFor();
        assert.match(await text(page, "sign-in-ended"), /was revoked, or has expired/);
        assert.equal(await at(page, "sign-in-dialog").locator("h2").innerText(), "You are no longer signed in");
        await at(page, "sign-in-token").fill(first);
        await at(page, "sign-in").click();
        await at(page, "sign-in-dialog").waitFor({ state: "detached" });
        await at(page, "page", '[data-live="live"]').waitFor();
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});

test("a server that needs a token asks for it", async () => {
  const own = await startServer();
  try {
    const token = (await own.haul(["token", "create", "me", "--grant", "operator", "--grant", "submit", "--grant", "control"])).trim();
    await withPage(
      async (page) => {
        await page.goto(`${own.base}/jobs`);
        await page.locator('input[name="token"]').fill(token);
        await page.keyboard.press("Enter");
        await at(page, "jobs-empty").waitFor();
        await at(page, "page", '[data-live="live"]').waitFor();
      },
      { on: own },
    );
  } finally {
    await own.stop();
  }
});
