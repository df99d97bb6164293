// What cannot be sent is told at once; a client that is closed ends its calls, and the program with them.
//
// Run by tests/clients.rs as `ends.mjs ADDRESS`.

import { Client, HaulError } from 'haul-client';

// Only where something is left running.
setTimeout(() => process.exit(1), 50_000).unref();

const client = new Client(process.argv[2]);
const told = (error) => console.log(error instanceof HaulError && !error.reason ? error.message : error);
const { jobId } = await client.submit({ title: 'open', open: true });
for (const call of [() => client.submit({ priority: 2 ** 40 }), () => client.watch('x', { after: -1n }).next(), () => client.read(jobId, -1).next()]) {
  await call().catch((error) => console.log(error instanceof HaulError ? error : 'it cannot be sent'));
}
try {
  for await (const { event } of client.watch(jobId, { progress: true })) {
    if (event.case === 'snapshot') client.close();
  }
} catch (error) {
  told(error);
}
await client.jobs.getJob({ jobId }).catch(told);
await client.submit({ title: 'late', open: true }).catch(told);
