/** How many tasks become chunks that can be sent again without being stored twice. */

import { createHash } from 'node:crypto';
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { type AddTasksRequest, AddTasksRequestSchema } from './gen/haul/v1/job_service_pb.js';
import { type TaskSpec, TaskSpecSchema } from './gen/haul/v1/task_pb.js';

/** Any number of tasks, which are taken as they are sent. */
export type Tasks = Iterable<MessageInitShape<typeof TaskSpecSchema>> | AsyncIterable<MessageInitShape<typeof TaskSpecSchema>>;

/** A chunk is closed by whichever it reaches first. The server takes 10,000 tasks and 16 MiB. */
const CHUNK_TASKS = 1_000;
const CHUNK_BYTES = 1 << 20;

/** Gathers tasks into chunks. The id of a chunk is its place and its content, so the same tasks give the same chunks. */
export async function* gather(jobId: string, tasks: Tasks): AsyncGenerator<AddTasksRequest> {
  let start = 0;
  let bytes = 0;
  let gathered: TaskSpec[] = [];
  let digest = createHash('sha256');
  const close = () => {
    const chunkId = `${start}-${digest.digest('hex').slice(0, 32)}`;
    const chunk = create(AddTasksRequestSchema, { jobId, chunkId, tasks: gathered });
    start += gathered.length;
    bytes = 0;
    gathered = [];
    digest = createHash('sha256');
    return chunk;
  };
  for await (const init of tasks) {
    const task = create(TaskSpecSchema, init);
    const encoded = toBinary(TaskSpecSchema, task);
    const isFull = gathered.length === CHUNK_TASKS || bytes + encoded.length > CHUNK_BYTES;
    if (isFull && gathered.length > 0) yield close();
    gathered.push(task);
    bytes += encoded.length;
    digest.update(`${encoded.length}:`).update(encoded);
  }
  if (gathered.length > 0) yield close();
}
