// A `haul serve` process over a directory of its own, and its API as JSON.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export const HAUL = process.env.HAUL_BIN ?? new URL("../../target/debug/haul", import.meta.url).pathname;

// A test that breaks off leaves no server behind.
const children = new Set();
process.once("exit", () => children.forEach((child) => child.kill("SIGKILL")));

export async function startServer(flags = []) {
  const dir = mkdtempSync(join(tmpdir(), "haul-web-"));
  let child;
  const isRunning = () => child.exitCode === null && child.signalCode === null;
  const it = {
    base: "",
    dir,
    // The same port after a restart, since a page is open at it.
    async launch() {
      const listen = it.base ? new URL(it.base).host : "127.0.0.1:0";
      const all = ["serve", "--listen", listen, "--allow-private-networks", "--data-dir", join(dir, "data"), "--download-dir", join(dir, "files"), ...flags];
      child = spawn(HAUL, all, { stdio: ["ignore", "pipe", process.env.HAUL_LOG ? "inherit" : "ignore"] });
      const started = child;
      children.add(started);
      started.once("exit", () => children.delete(started));
      const lines = createInterface({ input: child.stdout });
      const ended = new Promise((_, fail) => child.once("exit", (code, signal) => fail(new Error(`haul ended with ${signal ?? code}`))));
      ended.catch(() => {});
      const line = await Promise.race([new Promise((done) => lines.once("line", done)), ended]);
      const scheme = flags.includes("--tls-cert") ? "https" : "http";
      it.base = `${scheme}://${line.replace("listening on ", "").trim()}`;
    },
    kill: async () => {
      const ended = new Promise((done) => child.once("exit", done));
      child.kill("SIGKILL");
      await ended;
    },
    ended: () => child.exitCode ?? new Promise((done) => child.once("exit", done)),
    async stop() {
      if (isRunning()) await it.kill();
      rmSync(dir, { recursive: true, force: true });
    },
    async call(method, path, body) {
      const response = await fetch(it.base + path, {
        method,
        headers: body === undefined ? {} : { "content-type": "application/json" },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(`${method} ${path}: ${answer.error.message}`);
      return answer;
    },
    submit: async (job) => (await it.call("POST", "/v1/jobs", job)).job.job_id,
    wait: async (id) => (await it.call("GET", `/v1/jobs/${id}:wait?timeout=30s`)).job,
    // Runs the command line against this server, with this input.
    haul: (args, input = "") =>
      new Promise((done, fail) => {
        // The server's own user needs neither a certificate nor a token.
        const run = spawn(HAUL, ["--server", `unix:${join(dir, "data", "haul.sock")}`, ...args], { stdio: ["pipe", "pipe", "pipe"] });
        let out = "";
        let bad = "";
        run.stdout.on("data", (text) => (out += text));
        run.stderr.on("data", (text) => (bad += text));
        const fate = () => (isRunning() ? "" : `; the server had ended with ${child.signalCode ?? child.exitCode}`);
        run.on("exit", (code) => (code ? fail(new Error(`haul ${args[0]} ended with ${code}: ${bad}${fate()}`)) : done(out)));
        // A command that refuses its arguments does not read them.
        run.stdin.on("error", () => {});
        run.stdin.end(input);
      }),
  };
  await it.launch();
  return it;
}

export const fetchOf = (url, more = {}) => ({ fetch: { url }, ...more });
export const downloadOf = (url, more = {}) => ({ download: { url }, ...more });
