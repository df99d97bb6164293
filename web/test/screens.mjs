// Takes pictures of every page, in both themes and at three widths, for whoever changes how they look:
// `node test/screens.mjs FOLDER [page...]`.
import { mkdirSync } from "node:fs";
import { startBrowser, openContext, ready } from "./browser.mjs";
import { startOrigin } from "./origin.mjs";
import { downloadOf, startServer } from "./server.mjs";
import { seed } from "./seed.mjs";

const [folder = "screens", ...only] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });
const [origin, server, browser] = await Promise.all([startOrigin(), startServer(["--max-per-host", "40"]), startBrowser()]);
const empty = await startServer();
const ids = await seed(server, origin);
const pages = {
  jobs: "/jobs", failed: "/jobs?state=failed", none: "/jobs?search=nothing-like-it", job: `/jobs/${ids.running}`, tasks: `/jobs/${ids.running}/tasks`,
  failures: `/jobs/${ids.failed}/failures`, activity: `/jobs/${ids.failed}/activity`, spec: `/jobs/${ids.content}/spec`,
  task: `/jobs/${ids.failed}/tasks/30`, preview: `/jobs/${ids.content}/tasks/0`, backing: `/jobs/${ids.backing}/tasks`, hosts: "/hosts", server: "/server",
  submit: "/submit", missing: "/nothing", ended: `/jobs/${ids.failed}`, "job-missing": "/jobs/0197aaaa-0000-7000-8000-000000000000",
};
const sizes = { wide: { width: 1920, height: 1080 }, middle: { width: 1024, height: 768 }, narrow: { width: 360, height: 740 } };
for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries(sizes)) {
    const { context, wrong } = await openContext(browser, { viewport, colorScheme });
    const page = await context.newPage();
    const shots = Object.entries(pages).map(([name, path]) => [name, server.base + path]);
    shots.push(["first-run", `${empty.base}/jobs`], ["hosts-empty", `${empty.base}/hosts`]);
    for (const [name, url] of shots) {
      if (only.length && !only.includes(name)) continue;
      await page.goto(url);
      await ready(page).catch(() => console.log("not ready:", name));
      await page.waitForTimeout(name === "job" ? 2500 : 700);
      if (name === "preview") await page.click('[data-testid="task-preview"]').then(() => page.waitForTimeout(500), () => {});
      await page.screenshot({ path: `${folder}/${name}-${size}-${colorScheme}.png` });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (wide > 0) console.log(`${name} ${size}: ${wide} px too wide`);
    }
    if (!only.length || only.includes("lost")) {
      // A server that is gone under an open page.
      const gone = await startServer();
      const id = await gone.submit({ title: "survivor", tasks: [downloadOf(origin.url("slow/200000?bytes=60000000"))] });
      for (const [name, path] of [["lost-jobs", "/jobs"], ["lost-job", `/jobs/${id}`]]) {
        await page.goto(gone.base + path);
        await ready(page);
        await page.waitForTimeout(1000);
        await gone.kill();
        await page.waitForSelector('[data-testid="bar"][data-kind="lost"]');
        await page.screenshot({ path: `${folder}/${name}-${size}-${colorScheme}.png` });
        await gone.launch();
      }
      await gone.stop();
    }
    if (wrong.length) console.log(wrong);
    await context.close();
  }
}
await browser.close();
origin.stop();
await Promise.all([server.stop(), empty.stop()]);
