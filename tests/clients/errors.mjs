// Errors as the default Node.js client sees them, and as a browser does: each call 200 times, and each time the right
// code with its details.
//
// Run by tests/clients.rs as `errors.mjs ADDRESS JOB PROTOS`: JOB is a job that does not end.

import assert from 'node:assert';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const ROUNDS = 200;
const [address, job_id, protos] = process.argv.slice(2);
const options = { includeDirs: [protos], keepCase: true };
const { haul } = grpc.loadPackageDefinition(loader.loadSync('haul/v1/job_service.proto', options));
const jobs = new haul.v1.JobService(address, grpc.credentials.createInsecure());
const seen = new Map();

function note(name, code, details) {
  // The reason stands in the bytes as it is.
  const [reason] = /[A-Z]+_[A-Z_]+|UNIMPLEMENTED/.exec(details) ?? [''];
  const key = [name, code, reason].join(' ');
  seen.set(key, (seen.get(key) ?? 0) + 1);
}

function details(error) {
  return error.metadata?.get('grpc-status-details-bin')[0]?.toString('latin1').replace(/^[^]*?ErrorInfo/, '') ?? '';
}

function unary(name, method, request, options = {}) {
  return new Promise((resolve) => {
    jobs[method](request, options, (error) => resolve(note(name, grpc.status[error?.code ?? 0], error ? details(error) : '')));
  });
}

async function stream(name, request, options) {
  try {
    for await (const _ of jobs.WatchJob(request, options));
    note(name, 'OK', '');
  } catch (error) {
    note(name, grpc.status[error.code], details(error));
  }
}

/** A call of gRPC-Web: headers and trailers are in the response's head or at the end of its body. */
async function web(name, method, message, headers = {}) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  const response = await fetch(`http://${address}/haul.v1.JobService/${method}`, {
    method: 'POST',
    headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1', ...headers },
    body: Buffer.concat([head, message]),
  });
  const body = Buffer.from(await response.arrayBuffer());
  const trailers = new Headers(response.headers);
  for (let at = 0; at < body.length; at += 5 + body.readUInt32BE(at + 1)) {
    if (!(body[at] & 0x80)) continue;
    for (const line of body.subarray(at + 5).toString('latin1').trim().split(/\r\n/)) {
      const colon = line.indexOf(':');
      trailers.set(line.slice(0, colon), line.slice(colon + 1).trim());
    }
  }
  const text = Buffer.from(trailers.get('grpc-status-details-bin') ?? '', 'base64').toString('latin1');
  note(name, grpc.status[Number(trailers.get('grpc-status'))], text.replace(/^[^]*?ErrorInfo/, ''));
}

const encode = (method, request) => haul.v1.JobService.service[method].requestSerialize(request);
const long = 'ü\n'.repeat(4000);
const wrong = { job: { title: long, tasks: Array.from({ length: 200 }, () => ({ key: long, fetch: { url: long } })) } };
const wrongBytes = encode('SubmitJob', wrong);
const waitBytes = encode('WaitJob', { job_id });
const noMethod = { ...haul.v1.JobService.service.GetJob, path: '/haul.v1.JobService/Nope' };
jobs.Nope = (request, options, done) =>
  jobs.makeUnaryRequest(noMethod.path, noMethod.requestSerialize, noMethod.responseDeserialize, request, options, done);
for (let round = 0; round < ROUNDS; round += 1) {
  await unary('wrong', 'SubmitJob', wrong);
  await unary('key', 'GetTask', { job_id, task_key: 'k'.repeat(4000) });
  await unary('method', 'Nope', {});
  await web('web-wrong', 'SubmitJob', wrongBytes);
  await web('web-method', 'Nope', Buffer.alloc(0));
}
const soon = () => ({ deadline: Date.now() + 100 });
const many = (work) => Promise.all(Array.from({ length: ROUNDS / 4 }, work));
for (let round = 0; round < 4; round += 1) {
  await many(() => unary('deadline', 'WaitJob', { job_id }, soon()));
  await many(() => stream('stream', { job_id }, soon()));
  await many(() => web('web-deadline', 'WaitJob', waitBytes, { 'grpc-timeout': '100m' }));
  await many(() => web('web-stream', 'WatchJob', waitBytes, { 'grpc-timeout': '100m' }));
}
jobs.close();

for (const [key, count] of [...seen].sort()) console.log(count, key);
const right = [
  'wrong INVALID_ARGUMENT INVALID_ARGUMENT',
  'key NOT_FOUND TASK_NOT_FOUND',
  'method UNIMPLEMENTED UNIMPLEMENTED',
  'web-wrong INVALID_ARGUMENT INVALID_ARGUMENT',
  'web-method UNIMPLEMENTED UNIMPLEMENTED',
  'web-deadline DEADLINE_EXCEEDED DEADLINE_EXCEEDED',
  'web-stream DEADLINE_EXCEEDED DEADLINE_EXCEEDED',
];
for (const key of right) assert.equal(seen.get(key), ROUNDS, key);
// Without details where the client's own timer was first.
const timers = ['deadline', 'stream'].flatMap((name) => [`${name} DEADLINE_EXCEEDED DEADLINE_EXCEEDED`, `${name} DEADLINE_EXCEEDED `]);
for (const key of seen.keys()) assert.ok(right.includes(key) || timers.includes(key), key);
