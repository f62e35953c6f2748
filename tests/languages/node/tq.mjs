// tq from Node.js: stubs made from proto/, the published retry policy, and how to read an error's reason.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PROTO = join(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "proto");

const api = grpc.loadPackageDefinition(
  protoLoader.loadSync(["task_service", "worker_service", "cluster_service", "conversation_service"].map((name) => `tq/v1/${name}.proto`), {
    includeDirs: [PROTO],
    enums: String,
    // Fencing tokens stay below 2^53 for this.
    longs: Number,
    defaults: true,
    oneofs: true,
  }),
).tq.v1;

const CHANNEL_OPTIONS = {
  // Calls that end UNAVAILABLE are repeated with the same bytes; their request_id makes that safe.
  "grpc.service_config": readFileSync(join(PROTO, "service_config.json"), "utf8"),
  // Keepalive notices a broker that fell silent; brokers allow a ping every 5 s.
  "grpc.keepalive_time_ms": 6000,
  "grpc.keepalive_timeout_ms": 3000,
  // A killed broker may be back within a second.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
};

/** The services of one cluster; the addresses are tried in their order. */
export function connect(addresses) {
  const target = `ipv4:${addresses.join(",")}`;
  const stub = (Service) => new Service(target, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
  return {
    tasks: stub(api.TaskService),
    workers: stub(api.WorkerService),
    cluster: stub(api.ClusterService),
    conversations: stub(api.ConversationService),
  };
}

/** Make a unary call; resolves to the response and the address of who led, where the broker knew (`tq-leader`). */
export function call(stub, method, request, { deadlineS = 10 } = {}) {
  return new Promise((resolve, reject) => {
    let response;
    const begun = stub[method](request, { deadline: Date.now() + deadlineS * 1000 }, (error, value) => {
      response = value;
      if (error) reject(Object.assign(error, { reason: reasonOf(error) }));
    });
    begun.on("status", (status) => {
      if (status.code === grpc.status.OK) resolve({ response, leader: status.metadata.get("tq-leader")[0] });
    });
  });
}

// What google/rpc/status.proto and error_details.proto say of the messages that matter here.
const details = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`).root;

/** ErrorInfo.reason of a failed call, which is part of tq's contract; empty where the connection failed. */
export function reasonOf(error) {
  return reasonIn(error.metadata?.get("grpc-status-details-bin") ?? []);
}

/** The same of a call that failed in a conversation: CallFailure.details. */
export function reasonIn(encodedDetails) {
  for (const encoded of encodedDetails) {
    for (const detail of details.lookupType("google.rpc.Status").decode(encoded).details) {
      if (detail.typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        return details.lookupType("google.rpc.ErrorInfo").decode(detail.value).reason;
      }
    }
  }
  return "";
}

/** A google.protobuf.Duration. */
export const seconds = (value) => ({ seconds: Math.trunc(value), nanos: Math.round((value % 1) * 1e9) });
