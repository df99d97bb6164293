/** Client of haul, the server for durable fetch and download jobs. */

export { Code } from '@connectrpc/connect';
export { Client, type Jobs, type Options, type ReadOptions, type SubmitOptions, type WatchOptions } from './client.js';
export { HaulError, type Violation } from './errors.js';
export * from './gen/haul/v1/access_service_pb.js';
export * from './gen/haul/v1/admin_service_pb.js';
export * from './gen/haul/v1/content_service_pb.js';
export * from './gen/haul/v1/job_pb.js';
export * from './gen/haul/v1/job_service_pb.js';
export * from './gen/haul/v1/options_pb.js';
export * from './gen/haul/v1/task_pb.js';
