// A conversation is cut at each of its bytes, both ways: every push is handled exactly once.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { TestClient } from "./support/clients.js";
import { type Cut, type Direction, FaultProxy } from "./support/fault_proxy.js";
import { Gateway } from "./support/gateway.js";
import { MemoryStorage } from "./support/memory_storage.js";

/** Conversations at once. */
const AT_ONCE = 32;
/** Names have one length, so that each conversation has the same bytes at the same places. */
const nameOf = (prefix: string, number: number) => `${prefix}-${String(number).padStart(6, "0")}`;

describe("cut at each byte", () => {
  let gateway: Gateway;
  let conversations = 0;
  before(async () => {
    gateway = await Gateway.start({ QUEUE__SYNC: "100ms", SOCKET__MAX_CONNECTIONS: "5000" });
  });
  after(() => gateway.stop());

  /** Two pushes wait, two come once the client is there; gives how many bytes the first connection passed. */
  async function converse(cut?: Cut): Promise<FaultProxy> {
    const number = conversations++;
    const [card, room] = [nameOf("c", number), nameOf("r", number)];
    const proxy = await FaultProxy.start(gateway.port, cut);
    const store = (...pushes: object[]) => gateway.post("/push/batch", pushes.map((push) => ({ offline: true, ...push })));
    await store({ to: [card], content: "1" }, { to: [card], content: "2" });
    const client = new TestClient(proxy.url, { card, device: "phone", storage: new MemoryStorage(), backoffMax: 20, ackEvery: 5 });
    try {
      await client.client.room(room).ready;
      await store({ to: [card], content: "3" }, { room, content: "4" });
      await client.contents.until((items) => items.length >= 4);
      await gateway.acknowledged(card, "phone", 3);
      assert.deepEqual([...client.contents.items].sort(), ["1", "2", "3", "4"]);
      assert.deepEqual([client.resets, client.errors], [[], []]);
    } catch (error) {
      throw new Error(`cut ${JSON.stringify(cut)}: ${(error as Error).message}`);
    } finally {
      client.client.close();
      proxy.stop();
    }
    return proxy;
  }

  for (const direction of ["fromServer", "fromClient"] as Direction[]) {
    test(`${direction}`, { timeout: 300_000 }, async (context) => {
      const whole = (await converse()).passed[direction];
      const places = Array.from({ length: whole + 1 }, (_, after) => after);
      let made = 0;
      const work = async () => {
        for (let after; (after = places.shift()) !== undefined; ) if ((await converse({ direction, after })).isCut) made++;
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      context.diagnostic(`${made} cuts of a conversation of ${whole} bytes`);
      // the last bytes are acknowledgements, which may be fewer
      assert.ok(made > whole * 0.8, `${made} of ${whole} cuts were made`);
    });
  }
});
