// What the TypeScript client does while its server is killed.
//
// Run by tests/clients.rs as `tour.mjs ADDRESS ORIGIN COUNT`. It says where it is on stdout; `kill` asks for the server to
// be killed and started again, and it goes on at once.

import assert from 'node:assert';
import { Client, Code, GroupMode, HaulError } from 'haul-client';

const [address, origin, number] = process.argv.slice(2);
const count = Number(number);
const kill = () => console.log('kill');

/** More than is held in memory at once, and two kills in their midst. */
function* tasks(count, killAt = []) {
  for (let n = 0; n < count; n += 1) {
    if (killAt.includes(n)) kill();
    yield { key: `task ${n}`, work: { case: 'fetch', value: { url: `${origin}/many?n=${n}` } } };
  }
}

async function refusal(work) {
  try {
    await work;
  } catch (error) {
    assert.ok(error instanceof HaulError, error);
    return error;
  }
  return assert.fail('it is not refused');
}

const fetch = (key) => ({ key, work: { case: 'fetch', value: { url: `${origin}/${key}` } } });
const client = new Client(address);
let job = {
  title: 'watched',
  group: { mode: GroupMode.COLLECT },
  tasks: [fetch('quick'), fetch('slow'), fetch('missing')],
};
const { jobId } = await client.submit(job, { requestId: 'tour' });
assert.equal((await client.submit(job, { requestId: 'tour' })).jobId, jobId);
const events = [];
for await (const event of client.watch(jobId)) {
  events.push(event);
  if (events.length === 2) kill();
}
assert.deepEqual(events.map(({ sequence }) => sequence), events.map((_, index) => BigInt(index + 1)));
const ended = events.flatMap(({ event }) => (event.case === 'taskEnded' ? [event.value.taskIndex] : []));
assert.deepEqual(ended.toSorted(), [0, 1, 2]);
assert.equal(events.at(-1).event.case, 'jobEnded');
console.log('watched', events.length);

async function all(pieces) {
  let text = '';
  for await (const piece of pieces) text += Buffer.from(piece).toString();
  return text;
}
assert.equal(await all(client.read(jobId, 'quick')), 'quick');
assert.equal(await all(client.read(jobId, 0, { offset: 1n, length: 3n })), 'uic');

job = await client.submit({ title: 'fed', open: true });
await client.jobs.pauseJob({ jobId: job.jobId });
const third = Math.floor(count / 3);
assert.equal(await client.feed(job.jobId, tasks(count, [third, 2 * third])), count);
// As after the death of this process.
assert.equal(await client.feed(job.jobId, tasks(count / 4)), count / 4);
({ job } = await client.jobs.sealJob({ jobId: job.jobId }));
console.log('fed', job.counts.total);
await client.jobs.cancelJob({ jobId: job.jobId }, { timeoutMs: 120_000 });

// What is wrong is an error with all that the server says.
let error = await refusal(client.submit({ tasks: [{ work: { case: 'fetch', value: { url: 'example.com' } } }, { key: 'k' }] }));
assert.deepEqual([error.code, error.reason], [Code.InvalidArgument, 'INVALID_ARGUMENT']);
assert.equal(error.violations.length, 2);
assert.equal(error.violations[0].field, 'job.tasks[0].fetch.url');
assert.ok(error.violations.every(({ description }) => description));
error = await refusal(client.jobs.getJob({ jobId: '01900000-0000-7000-8000-000000000000' }));
assert.deepEqual([error.code, error.reason, error.retryDelayMs], [Code.NotFound, 'JOB_NOT_FOUND', undefined]);
console.log('refused');
client.close();
