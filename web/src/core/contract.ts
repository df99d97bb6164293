// The types of the contract that the pages use, in one place.
export * from "../../gen/haul/v1/admin_service_pb";
export * from "../../gen/haul/v1/content_service_pb";
export * from "../../gen/haul/v1/job_pb";
export * from "../../gen/haul/v1/job_service_pb";
export * from "../../gen/haul/v1/options_pb";
export * from "../../gen/haul/v1/task_pb";
