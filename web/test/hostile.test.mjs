// What pages of others can do to a server on the visitor's machine, tried in a real browser: nothing.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { CHROMIUM } from "./browser.mjs";
import { startServer } from "./server.mjs";

// Names of somebody else, which the browser is told lead to this machine: one for a page of another origin, and one whose
// owner rebinds it to the server itself.
const NAMES = ["--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1"];
let server, browser, evil;

before(async () => {
  server = await startServer();
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", ...NAMES] });
  evil = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html><title>a page</title><body>"));
  await new Promise((done) => evil.listen(0, "127.0.0.1", done));
});
after(async () => {
  await browser?.close();
  evil?.close();
  await server?.stop();
});

// Tries everything that a script may send, and returns what it could read of the answers.
async function attack(base) {
  const job = JSON.stringify({ title: "planted", tasks: [{ fetch: { url: "http://127.0.0.1:9/" } }] });
  const submit = "/haul.v1.JobService/SubmitJob";
  const read = [];
  const send = async (path, init) => {
    try {
      const answer = await fetch(base + path, init);
      // gRPC tells errors beside a status of 200.
      const grpc = answer.headers.get("grpc-status");
      read.push(`${init.method ?? "GET"} ${path} ${answer.type} ${answer.status}${grpc ? ` grpc ${grpc}` : ""}`);
    } catch {
      read.push(`${init.method ?? "GET"} ${path} failed`);
    }
  };
  for (const mode of ["cors", "no-cors"]) {
    for (const type of ["text/plain", "application/json", "application/x-www-form-urlencoded"]) {
      await send("/v1/jobs", { method: "POST", mode, headers: { "content-type": type }, body: job });
    }
    await send("/v1/jobs", { mode });
    await send("/metrics", { mode });
  }
  for (const type of ["application/grpc-web+proto", "application/grpc-web-text"]) {
    await send(submit, { method: "POST", headers: { "content-type": type, "x-grpc-web": "1" }, body: new Uint8Array(5) });
  }
  navigator.sendBeacon(`${base}/v1/jobs`, new Blob([job], { type: "text/plain" }));
  navigator.sendBeacon(`${base}/v1/jobs`, new Blob([job], { type: "application/json" }));
  // A form whose text is a document of JSON.
  const frame = Object.assign(document.createElement("iframe"), { name: "into" });
  const form = Object.assign(document.createElement("form"), { method: "post", enctype: "text/plain", action: `${base}/v1/jobs`, target: "into" });
  form.append(Object.assign(document.createElement("input"), { name: job.slice(0, -1) + ',"labels":{"a":"', value: '"}}' }));
  document.body.append(frame, form);
  const loaded = new Promise((done) => (frame.onload = done));
  form.submit();
  await loaded;
  const settled = (one, names) => new Promise((done) => names.forEach((name) => one.addEventListener(name, () => done(name))));
  const source = new EventSource(`${base}/v1/jobs:watch`);
  read.push(`events ${await settled(source, ["open", "error"])}`);
  source.close();
  read.push(`socket ${await settled(new WebSocket(base.replace("http", "ws") + "/v1/jobs"), ["open", "error"])}`);
  for (const kind of ["img", "script"]) {
    const one = document.createElement(kind);
    const ended = settled(one, ["load", "error"]);
    one.src = `${base}/v1/jobs`;
    document.body.append(one);
    read.push(`${kind} ${await ended}`);
  }
  return read;
}

async function attackFrom(place, base) {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  await page.goto(place);
  const read = await page.evaluate(attack, base);
  await context.close();
  return read;
}

const titles = async () => ((await server.call("GET", "/v1/jobs")).jobs ?? []).map((job) => job.title);

for (const host of ["evil.example", "127.0.0.1", "localhost"]) {
  test(`a page of another origin at ${host} reads and does nothing`, async () => {
    const read = await attackFrom(`http://${host}:${evil.address().port}/`, server.base);
    // What could not be read says so; an answer without a reading has neither a status nor a type.
    const seen = read.filter((line) => !/( failed| opaque 0|^events error|^socket error|^(img|script) error)$/.test(line));
    assert.deepEqual(seen, []);
    assert.deepEqual(await titles(), []);
  });
}

test("a page whose name is rebound to the server reads and does nothing", async () => {
  const base = `http://rebound.example:${new URL(server.base).port}`;
  const read = await attackFrom(base, base);
  const seen = read.filter((line) => !/( failed| basic 421| basic 200 grpc 7|^events error|^socket error|^(img|script) error)$/.test(line));
  assert.deepEqual(seen, []);
  assert.deepEqual(await titles(), []);
});

// Without this nothing above would show more than that the server is not there.
test("the server's own page may do what others may not", async () => {
  const page = await browser.newPage();
  await page.goto(server.base);
  const status = await page.evaluate(async () => {
    const body = JSON.stringify({ title: "planted", tasks: [{ fetch: { url: "http://127.0.0.1:9/" } }] });
    return (await fetch("/v1/jobs", { method: "POST", headers: { "content-type": "application/json" }, body })).status;
  });
  await page.close();
  assert.equal(status, 200);
  assert.deepEqual(await titles(), ["planted"]);
});
