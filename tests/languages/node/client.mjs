// A client and a worker in one program: submits tasks through one broker, works on them through another, and
// ends when it has had the result of each.
//
//   node client.mjs SUBMIT_ADDRESS[,...] WORK_ADDRESS[,...] TASKS
//
// Of several addresses the first that can be connected to is used.
// No call is repeated here: what happens to the brokers meanwhile is left to the published retry policy.
// Prints one JSON object a line.

import { randomUUID } from "node:crypto";

import { call, connect, seconds } from "./tq.mjs";

const [submitAddresses, workAddresses, tasks] = process.argv.slice(2);
const QUEUE = "node";
const WORKER = `node-${process.pid}`;
const LEASE_S = 10;
const HEARTBEAT_S = 1;
// Claims at a time: more than there are tasks to do, so that at any moment one of them is held by the broker.
const SLOTS = 4;

const say = (event, facts = {}) => console.log(JSON.stringify({ event, ...facts }));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Worker {
  constructor(addresses) {
    this.stub = connect(addresses).workers;
    this.held = new Map(); // task id -> fencing token
    this.reporting = new Set();
    this.leaving = false;
    this.leader = "";
    this.counts = { claimed: 0, reported: 0, repeated: 0, heartbeats: 0, lost: 0 };
  }

  async call(method, request, options) {
    const { response, leader } = await call(this.stub, method, { workerId: WORKER, ...request }, options);
    if (leader && leader !== this.leader) {
      say("leader", { leader, was: this.leader });
      this.leader = leader;
    }
    return response;
  }

  run() {
    return Promise.all([this.heartbeat(), ...Array.from({ length: SLOTS }, () => this.claim())]);
  }

  async claim() {
    while (!this.leaving) {
      // Under one request id: a repeated claim gets the same tasks instead of stranding them.
      const claim = { queues: [QUEUE], maxTasks: 1, lease: seconds(LEASE_S), wait: seconds(2), requestId: randomUUID() };
      const claimed = await this.call("Claim", claim);
      for (const task of claimed.tasks) this.held.set(task.spec.taskId, task.token);
      this.counts.claimed += claimed.tasks.length;
      if (claimed.tasks.length > 0) {
        say("claimed", { tasks: claimed.tasks.map((task) => task.spec.taskId), inAll: this.counts.claimed });
      }
      await Promise.all(claimed.tasks.map((task) => this.work(task)));
    }
  }

  async work({ spec, token }) {
    await pause(20);
    const result = Buffer.from(spec.payload.toString("utf8").toUpperCase());
    this.reporting.add(spec.taskId);
    const reports = [{ taskId: spec.taskId, token, complete: { result, contentType: "text/plain" } }];
    const { results } = await this.call("Report", { reports });
    this.held.delete(spec.taskId);
    this.reporting.delete(spec.taskId);
    const [{ status, state }] = results;
    this.counts.reported += 1;
    // The report was repeated after its first answer was lost: it had been recorded.
    if (status === "STATUS_ALREADY_RECORDED") this.counts.repeated += 1;
    else if (status !== "STATUS_RECORDED") throw new Error(`${spec.taskId}: ${status}, ${state}`);
  }

  async heartbeat() {
    while (!this.leaving) {
      await pause(HEARTBEAT_S * 1000);
      const leases = [...this.held].map(([taskId, token]) => ({ taskId, token }));
      if (leases.length === 0) continue;
      const { results } = await this.call("Heartbeat", { leases });
      this.counts.heartbeats += 1;
      // The lease of a task ends when its report is recorded, which may be before the report's answer is here.
      const kept = (taskId) => this.held.has(taskId) && !this.reporting.has(taskId);
      this.counts.lost += results.filter(({ status, taskId }) => status === "STATUS_LEASE_LOST" && kept(taskId)).length;
    }
  }
}

const client = connect(submitAddresses.split(","));
const worker = new Worker(workAddresses.split(","));

async function submit(payloads) {
  const specs = payloads.map((payload) => ({ queue: QUEUE, type: "shout", payload: Buffer.from(payload) }));
  const { response, leader } = await call(client.tasks, "Submit", { requestId: randomUUID(), tasks: specs });
  return { ids: response.results.map(({ task }) => task.taskId), leader };
}

async function resultOf(taskId) {
  for (;;) {
    const { response } = await call(client.tasks, "WaitTask", { taskId, wait: seconds(5) });
    if (response.finished) return response.task;
  }
}

try {
  const first = await submit(["the first"]);
  say("submitted", { through: submitAddresses.split(",")[0], leader: first.leader, ids: first.ids });
  const working = worker.run();
  // Rejects with whatever goes wrong in the worker meanwhile.
  const beside = (promise) => Promise.race([promise, working.then(() => promise)]);
  const task = await beside(resultOf(first.ids[0]));
  say("result", { id: first.ids[0], state: task.state, result: task.result.toString() });

  const payloads = Array.from({ length: Number(tasks) }, (_, number) => `task ${number}`);
  const submitAll = async () => {
    const ids = [];
    for (const payload of payloads) {
      ids.push(...(await submit([payload])).ids);
      await pause(10);
    }
    say("submitted", { inAll: ids.length });
    return Promise.all(ids.map(resultOf));
  };
  const finished = await beside(submitAll());

  const wrong = finished.filter(
    (each, at) => each.state !== "TASK_STATE_COMPLETED" || each.result.toString() !== payloads[at].toUpperCase(),
  );
  worker.leaving = true;
  await working;
  say("done", { tasks: finished.length, wrong: wrong.length, ...worker.counts });
  process.exit(0);
} catch (error) {
  say("failed", { code: error.code, reason: error.reason, message: error.message });
  process.exit(1);
}
