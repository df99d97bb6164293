// Bulk submission into graphile-worker: node graphile.mjs COUNT POSTGRES_URL
//
// Prints one line of JSON: what `benches/system/peers.rs` reads.
import { makeWorkerUtils } from "graphile-worker";

const [countText, connectionString] = process.argv.slice(2);
const count = Number(countText);
const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();

const CHUNK = 2000;
let next = 0;
const started = process.hrtime.bigint();
await Promise.all(
  Array.from({ length: 4 }, async () => {
    while (next < count) {
      const from = next;
      next += CHUNK;
      const some = Math.min(CHUNK, count - from);
      const jobs = Array.from({ length: some }, (_, nth) => ({
        identifier: "get",
        payload: { url: `http://127.0.0.1:2/${from + nth}` },
      }));
      await utils.addJobs(jobs);
    }
  }),
);
const seconds = Number(process.hrtime.bigint() - started) / 1e9;
console.log(JSON.stringify({ rate: count / seconds }));
await utils.release();
process.exit(0);
