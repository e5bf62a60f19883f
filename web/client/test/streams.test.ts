// Stored pushes with a real gateway: each is handled once, over breaks, kills, drains and page loads.
import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { TestClient, pause } from "./support/clients.js";
import { FaultProxy } from "./support/fault_proxy.js";
import { Gateway } from "./support/gateway.js";
import { MemoryStorage } from "./support/memory_storage.js";

const DEVICE = "phone";

for (const [kind, delay] of [["a sync storage", undefined], ["an async storage", 5]] as const) {
  test(`a new client goes on where the one before was, in cards and rooms: ${kind}`, async () => {
    const gateway = await Gateway.start();
    const storage = new MemoryStorage(delay);
    const options = { card: "alice", device: DEVICE, storage };
    let page = new TestClient(gateway.url, options);
    await page.client.room("news").ready;
    await gateway.store("alice", "1");
    await gateway.storeIn("news", "n1");
    assert.deepEqual(await page.has(2), ["1", "n1"]);
    await gateway.acknowledged("alice", DEVICE, 1);
    page.client.close();
    await gateway.store("alice", "2");
    await gateway.storeIn("news", "n2");
    page = new TestClient(gateway.url, options);
    await page.client.room("news").ready;
    assert.deepEqual(await page.has(2), ["2", "n2"]);
    assert.deepEqual([page.resets, page.errors], [[], []]);
    page.client.close();
    await gateway.stop();
  });
}

test("without a device a page goes on from the storage, too", async () => {
  const gateway = await Gateway.start();
  const storage = new MemoryStorage();
  for (const round of [1, 2, 3]) {
    const page = new TestClient(gateway.url, { card: "alice", storage });
    await page.joined();
    if (round > 1) assert.deepEqual(await page.has(1), [`while away ${round}`]);
    page.client.close();
    await gateway.store("alice", `while away ${round + 1}`);
  }
  await gateway.stop();
});

test("a killed gateway, and one that drains and starts again: each stored push comes once", async () => {
  const gateway = await Gateway.start({ DRAIN__RECONNECT_JITTER: "500ms" });
  const client = new TestClient(gateway.url, { card: "alice", device: DEVICE });
  await client.client.room("news").ready;
  const sent: string[] = [];
  for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL"] as const) {
    for (let n = 0; n < 5; n++) {
      sent.push(`${sent.length}`, `n${sent.length}`);
      await gateway.store("alice", sent.at(-2));
      await gateway.storeIn("news", sent.at(-1));
    }
    await gateway.end(signal);
    await gateway.spawn();
  }
  assert.deepEqual(await client.has(sent.length), sent.sort());
  await client.joined();
  assert.deepEqual(client.resets, []);
  await gateway.acknowledged("alice", DEVICE, 15);
  client.client.close();
  await gateway.stop();
});

test("a node that drains is left for another one before it closes", async () => {
  const [first, second] = await Promise.all([Gateway.start({ DRAIN__RECONNECT_JITTER: "3s", NODE__ID: "old" }), Gateway.start()]);
  const balancer = await FaultProxy.start(first.port);
  const client = new TestClient(balancer.url, { card: "alice", drainOverlap: 200 });
  const lost: number[] = [];
  client.client.on("lost", ({ code }) => lost.push(code));
  const ids: string[] = [];
  client.client.on("joined", (joined) => ids.push(joined.client));
  await client.joined();
  balancer.target = second.port;
  const drain = client.next("drain");
  // an orderly stop with a single client gives it a millisecond; this one half of DRAIN__RECONNECT_JITTER at least
  await first.post("/rebalance", { node: "old", keep: 0 });
  await drain;
  while (ids.length < 2) await client.next("joined");
  assert.equal(client.client.state, "joined");
  await second.push("alice", "by the second");
  assert.deepEqual(await client.has(1), ["by the second"]);
  await pause(3300);
  assert.equal(client.client.state, "joined");
  assert.deepEqual(lost, [], "no moment without a connection");
  client.client.close();
  balancer.stop();
  await Promise.all([first.stop(), second.stop()]);
});

test("acknowledged by itself: the gateway knows what the handlers had", async () => {
  const gateway = await Gateway.start();
  for (let n = 1; n <= 50; n++) await gateway.store("alice", n);
  const client = new TestClient(gateway.url, { card: "alice", device: DEVICE });
  assert.equal((await client.has(50)).length, 50);
  await gateway.acknowledged("alice", DEVICE, 50);
  // the newest is for another app: nothing comes, and nothing is wrong
  await gateway.post("/push", { to: ["alice"], appID: "other", content: "not for it", offline: true });
  await gateway.store("alice", 52);
  await gateway.acknowledged("alice", DEVICE, 52);
  client.client.close();
  // the same client begins again
  await gateway.store("alice", 53);
  client.client.connect();
  await gateway.acknowledged("alice", DEVICE, 53);
  client.client.close();
  assert.equal(client.contents.items.at(-1), 53);
  assert.deepEqual(client.errors, []);
  // no storage: what was acknowledged does not come again
  await gateway.store("alice", "the next");
  const next = new TestClient(gateway.url, { card: "alice", device: DEVICE });
  assert.deepEqual(await next.has(1), ["the next"]);
  next.client.close();
  await gateway.stop();
});

test("acknowledged by hand: what was not comes again to the next client, once to this one", async () => {
  const gateway = await Gateway.start();
  const storage = new MemoryStorage();
  const options = { card: "alice", device: DEVICE, ack: "manual", storage } as const;
  for (const content of [1, 2, 3]) await gateway.store("alice", content);
  const client = new TestClient(gateway.url, options);
  client.client.on("push", (push) => {
    if (push.content === 2) push.ack();
  });
  assert.deepEqual(await client.has(3), [1, 2, 3]);
  await gateway.acknowledged("alice", DEVICE, 2);
  const lost = client.next("lost");
  await gateway.post("/disconnect", { card_id: "alice", reconnect: true });
  await lost;
  await client.joined();
  await gateway.store("alice", 4);
  assert.deepEqual(await client.has(4), [1, 2, 3, 4]);
  client.client.close();
  const next = new TestClient(gateway.url, options);
  assert.deepEqual(await next.has(2), [3, 4]);
  next.client.close();
  await gateway.stop();
});

test("a gap is told and closed on the same connection", async () => {
  const gateway = await Gateway.start();
  // the network loses no frame; this does
  let lossy = true;
  class Lossy extends WebSocket {
    override emit(name: string, ...values: unknown[]): boolean {
      if (name === "message" && lossy && String(values[0]).includes('"seq":2,')) return (lossy = false);
      return super.emit(name, ...values);
    }
  }
  const client = new TestClient(gateway.url, { card: "alice", device: DEVICE, WebSocket: Lossy });
  const gaps: unknown[] = [];
  client.client.on("gap", ({ card, seq, prev }) => gaps.push({ card, seq, prev }));
  const lost: number[] = [];
  client.client.on("lost", ({ code }) => lost.push(code));
  await client.joined();
  for (const content of [1, 2, 3, 4]) await gateway.store("alice", content);
  await client.has(4);
  assert.deepEqual(client.contents.items, [1, 2, 3, 4]);
  assert.deepEqual(gaps, [{ card: "alice", seq: 3, prev: 2 }]);
  assert.deepEqual(lost, []);
  client.client.close();
  await gateway.stop();
});

test("a stream that was deleted is begun anew, and the application is told", async () => {
  const gateway = await Gateway.start();
  const storage = new MemoryStorage();
  const options = { card: "alice", device: DEVICE, storage };
  const client = new TestClient(gateway.url, options);
  await client.joined();
  await gateway.store("alice", "before");
  await client.has(1);
  client.client.close();
  assert.equal((await fetch(gateway.http("/cards/alice/stream"), { method: "DELETE" })).status, 200);
  await gateway.store("alice", "after");
  const next = new TestClient(gateway.url, options);
  assert.deepEqual(await next.has(1), ["after"]);
  assert.equal(next.resets.length, 1);
  next.client.close();
  await gateway.stop();
});

test("a gateway without a store is used without one", async () => {
  const gateway = await Gateway.start({ STORE__BACKEND: "none" });
  const client = new TestClient(gateway.url, { card: "alice", device: DEVICE, storage: new MemoryStorage() });
  await client.client.room("news").ready;
  await gateway.push("alice", "live");
  assert.deepEqual(await client.has(1), ["live"]);
  assert.deepEqual(client.errors, ["unsupported"]);
  client.client.close();
  await gateway.stop();
});

test("a connection that says nothing is left: by a ping without an answer", async () => {
  const gateway = await Gateway.start();
  const proxy = await FaultProxy.start(gateway.port);
  const client = new TestClient(proxy.url, { card: "alice", pingAfter: 100, pongTimeout: 300 });
  await client.joined();
  await pause(600);
  assert.equal(proxy.connections, 1, "pings are answered");
  proxy.freeze();
  assert.equal((await client.next("lost")).reason, "no answer to a ping");
  proxy.thaw();
  await client.joined();
  await gateway.push("alice", "back");
  assert.deepEqual(await client.has(1), ["back"]);
  client.client.close();
  proxy.stop();
  await gateway.stop();
});
