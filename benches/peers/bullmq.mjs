// What BullMQ does with the same work: node bullmq.mjs MEASURE COUNT REDIS_PORT [URL]
//
// Prints one line of JSON: what `benches/system/peers.rs` reads.
import { Queue, QueueEvents, Worker } from "bullmq";
import { Agent, request } from "undici";

const [measure, countText, port, url] = process.argv.slice(2);
const count = Number(countText);
const connection = { host: "127.0.0.1", port: Number(port), maxRetriesPerRequest: null };
const queue = new Queue("bench", { connection });
await queue.waitUntilReady();

/** Runs COUNT calls of `call`, by 32 callers. */
async function callers(call) {
  let next = 0;
  await Promise.all(
    Array.from({ length: 32 }, async () => {
      while (next < count) await call(next++);
    }),
  );
}

/** A worker whose jobs are one GET each; the body is the job's result. */
function worker(concurrency) {
  const dispatcher = new Agent({ connections: concurrency });
  const get = async (job) => (await request(job.data.url, { dispatcher })).body.text();
  return new Worker("bench", get, { connection, concurrency });
}

function seconds(started) {
  return Number(process.hrtime.bigint() - started) / 1e9;
}

const measures = {
  async submit() {
    const started = process.hrtime.bigint();
    await callers((nth) => queue.add("get", { url: `http://127.0.0.1:2/${nth}` }));
    return { rate: count / seconds(started) };
  },

  async worked() {
    const working = worker(64);
    await working.waitUntilReady();
    let ended = 0;
    const all = new Promise((done) => working.on("completed", () => ++ended === count && done()));
    const started = process.hrtime.bigint();
    for (let nth = 0; nth < count; nth += 1000) {
      const some = Math.min(1000, count - nth);
      await queue.addBulk(Array.from({ length: some }, () => ({ name: "get", data: { url } })));
    }
    await all;
    const rate = count / seconds(started);
    await working.close();
    return { rate };
  },

  async latency() {
    const events = new QueueEvents("bench", { connection });
    const working = worker(1);
    await Promise.all([events.waitUntilReady(), working.waitUntilReady()]);
    const times = [];
    for (let nth = 0; nth < count; nth++) {
      const started = process.hrtime.bigint();
      const job = await queue.add("get", { url });
      await job.waitUntilFinished(events);
      times.push(seconds(started) * 1e3);
    }
    times.sort((a, b) => a - b);
    await working.close();
    await events.close();
    return { p50: times[Math.floor(count / 2)], p99: times[Math.floor((count * 99) / 100)] };
  },
};

const result = await measures[measure]();
const { user, system } = process.cpuUsage();
console.log(JSON.stringify({ ...result, cpu_us: (user + system) / count }));
await queue.close();
process.exit(0);
