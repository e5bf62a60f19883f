// The client with a real gateway: what it joins, gets, sends and is told.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { OxipushError } from "../src/index.js";
import { pause, TestClient } from "./support/clients.js";
import { Gateway } from "./support/gateway.js";
import { MemoryStorage } from "./support/memory_storage.js";
import { SECRET, tokenOf } from "./support/token.js";

describe("an open gateway", { concurrency: 4 }, () => {
  let gateway: Gateway;
  before(async () => {
    gateway = await Gateway.start({ ROOMS__PRESENCE: "chat-*", ROOMS__CLIENT_PUSH: "chat-*", EVENTS__KINDS: "message", SOCKET__MAX_MESSAGE: "4KiB" });
  });
  after(() => gateway.stop());

  test("a client gets what is pushed to its card, texts and JSON", async () => {
    const alice = new TestClient(gateway.url, { card: "alice" });
    await alice.joined();
    await gateway.push("alice", "a text");
    await gateway.push("alice", { a: ["value"] });
    await alice.contents.until((items) => items.length === 2);
    assert.deepEqual(alice.contents.items, ["a text", { a: ["value"] }]);
    alice.client.close();
  });

  test("several cards are joined at once, more can be, and one that was left gets nothing", async () => {
    const client = new TestClient(gateway.url, { cards: ["anna", { card: "team", app: "desk" }], app: "web" });
    const joined: unknown[] = [];
    client.client.on("joined", ({ card, app }) => joined.push([card, app]));
    await client.joined();
    assert.deepEqual(joined, [["anna", "web"], ["team", "desk"]]);
    await client.client.join("friends");
    for (const card of ["anna", "team", "friends"]) await gateway.push(card, card);
    assert.deepEqual(await client.has(3), ["anna", "friends", "team"]);
    await client.client.leave("team");
    await gateway.push("team", "nobody is there");
    await gateway.push("anna", "still here");
    assert.deepEqual(await client.has(4), ["anna", "friends", "still here", "team"]);
    client.client.close();
  });

  test("a room tells who is there, who comes and who goes, and takes pushes of its clients", async () => {
    const carol = new TestClient(gateway.url, { card: "carol" });
    const room = carol.client.room("chat-1");
    const said: unknown[] = [];
    const moves: string[] = [];
    room.on("push", ({ from, content }) => said.push([from, content]));
    room.on("presence", ({ card_id, action }) => moves.push(`${card_id} ${action}`));
    assert.deepEqual((await room.ready)?.cards, ["carol"]);
    const dave = new TestClient(gateway.url, { card: "dave" });
    assert.deepEqual((await dave.client.room("chat-1").ready)?.cards.sort(), ["carol", "dave"]);
    await dave.client.room("chat-1").push({ say: "hi" });
    await carol.has(1);
    assert.deepEqual(said, [["dave", { say: "hi" }]]);
    assert.deepEqual(dave.contents.items, [], "who pushes does not get it");
    assert.deepEqual(room.presence?.cards.sort(), ["carol", "dave"]);
    await dave.client.room("chat-1").leave();
    while (!moves.includes("dave leave")) await carol.next("presence");
    assert.deepEqual([room.presence?.count, room.presence?.cards], [1, ["carol"]]);
    assert.deepEqual((await room.who())?.cards, ["carol"]);
    await room.leave();
    await assert.rejects(room.who(), { code: "not_subscribed" });
    carol.client.close();
    dave.client.close();
  });

  test("own pushes and messages are answered, or refused with a reason", async () => {
    const eve = new TestClient(gateway.url, { card: "eve", maxMessage: 4096 });
    await assert.rejects(eve.client.push({ to: ["bob"] }, "too early"), { code: "not_connected" });
    await eve.client.room("chat-2").ready;
    const ids = await Promise.all(Array.from({ length: 40 }, (_, n) => eve.client.push({ room: "chat-2" }, n, { echo: true })));
    assert.equal(new Set(ids).size, 40);
    assert.equal((await eve.has(40)).length, 40);
    assert.match(await eve.client.message({ typed: "in a form" }), /^[0-9A-Z]{26}$/);
    await assert.rejects(eve.client.push({ to: ["bob"] }, "no"), { code: "not_pushed" });
    await assert.rejects(eve.client.push({ room: "chat-2" }, "é".repeat(4000)), { code: "too_large" });
    eve.client.close();
    await assert.rejects(eve.client.message("late"), { code: "ended" });
  });

  test("what throws in a handler is told, and nothing stops for it", async () => {
    const frank = new TestClient(gateway.url, { card: "frank" });
    frank.client.on("push", () => {
      throw new Error("of the application");
    });
    await frank.joined();
    for (const content of [1, 2]) await gateway.push("frank", content);
    assert.deepEqual(await frank.has(2), [1, 2]);
    assert.deepEqual(frank.errors, ["handler", "handler"]);
    frank.client.close();
  });

  test("who is disconnected for good stays away; who is wanted back comes back", async () => {
    const grace = new TestClient(gateway.url, { card: "grace" });
    await grace.joined();
    const lost = grace.next("lost");
    await gateway.post("/disconnect", { card_id: "grace", reconnect: true });
    assert.equal((await lost).code, 3007);
    await grace.joined();
    const closed = grace.next("closed");
    await gateway.post("/disconnect", { card_id: "grace" });
    assert.equal((await closed).code, 3504);
    assert.equal(grace.client.state, "ended");
    // and by hand
    grace.client.connect();
    await grace.joined();
    grace.client.close();
  });

  test("a client that never says anything wrong is not closed for being quick", async () => {
    const heidi = new TestClient(gateway.url, { card: "heidi" });
    await heidi.client.room("chat-3").ready;
    for (let n = 0; n < 300; n++) await heidi.client.push({ room: "chat-3" }, n);
    assert.equal(heidi.client.state, "joined");
    heidi.client.close();
  });
});

describe("a gateway that asks for tokens", { concurrency: 4 }, () => {
  let gateway: Gateway;
  before(async () => {
    gateway = await Gateway.start({ TOKEN__SECRET: SECRET, TOKEN__LEEWAY: "0s" });
  });
  after(() => gateway.stop());

  test("the token is renewed before its end, and the connection stays", async () => {
    const reasons: string[] = [];
    const getToken = (reason: string) => {
      reasons.push(reason);
      return tokenOf({ sub: "ivan" }, 4);
    };
    const ivan = new TestClient(gateway.url, { getToken });
    let lost = 0;
    ivan.client.on("lost", () => lost++);
    await ivan.joined();
    while (reasons.length < 3) await pause(50);
    assert.equal(lost, 0);
    assert.deepEqual(reasons.slice(0, 3), ["connect", "expires", "expires"]);
    await gateway.push("ivan", "the card is that of the token");
    assert.deepEqual(await ivan.has(1), ["the card is that of the token"]);
    ivan.client.close();
  });

  test("an old token is replaced on the same connection; a later connection takes the new one", async () => {
    const asked: string[] = [];
    const getToken = async (reason: string) => {
      asked.push(reason);
      return tokenOf({ sub: "judy" }, 3600);
    };
    const judy = new TestClient(gateway.url, { card: "judy", token: tokenOf({ sub: "judy" }, -60), getToken });
    await judy.joined();
    assert.deepEqual(asked, ["refused"]);
    const lost = judy.next("lost");
    await gateway.post("/disconnect", { card_id: "judy", reconnect: true });
    await lost;
    await judy.joined();
    assert.deepEqual(asked, ["refused"]);
    judy.client.close();
  });

  test("the card that the token names goes on from the storage", async () => {
    for (const delay of [undefined, 20]) {
      const storage = new MemoryStorage(delay);
      const card = `rupert-${delay}`;
      const options = { token: tokenOf({ sub: card }, 3600), storage };
      const page = new TestClient(gateway.url, options);
      await page.joined();
      await gateway.store(card, "1");
      await page.has(1);
      page.client.close();
      await gateway.store(card, "2");
      const next = new TestClient(gateway.url, options);
      assert.deepEqual(await next.has(1), ["2"]);
      await gateway.store(card, "3");
      assert.deepEqual(await next.has(2), ["2", "3"]);
      assert.deepEqual([next.resets, next.errors], [[], []]);
      next.client.close();
    }
  });

  test("a token that ends with nobody to ask ends the client with 3004", async () => {
    const mallory = new TestClient(gateway.url, { card: "mallory", token: tokenOf({ sub: "mallory" }, 4) });
    assert.equal((await mallory.next("closed")).code, 3004);
  });

  test("a callback that fails is asked again, and told", async () => {
    let tries = 0;
    const getToken = () => {
      if (++tries < 4) throw new Error("the back end is away");
      return tokenOf({ sub: "niaj" }, 3600);
    };
    const niaj = new TestClient(gateway.url, { getToken });
    await niaj.joined();
    assert.deepEqual(niaj.errors, ["token", "token", "token"]);
    niaj.client.close();
  });

  test("a client that proves nothing has ended, and says why", async () => {
    const nobody = new TestClient(gateway.url, { card: "olivia" });
    const { error } = await nobody.next("closed");
    assert.ok(error instanceof OxipushError);
    assert.equal(error.code, "no_token");
    const other = new TestClient(gateway.url, { card: "olivia", token: tokenOf({ sub: "peggy" }, 60) });
    assert.equal((await other.next("closed")).error?.code, "wrong_card");
  });
});

test("a gateway that has no place says when to come back, and is asked then", async () => {
  const gateway = await Gateway.start({ SOCKET__HANDSHAKE_RATE: "1", SOCKET__HANDSHAKE_BURST: "1" });
  const lost: string[] = [];
  const clients = [1, 2].map((number) => new TestClient(gateway.url, { card: `wendy-${number}` }));
  for (const { client } of clients) client.on("lost", ({ reason, milliseconds }) => lost.push(`${reason}, ${milliseconds >= 1000}`));
  for (const client of clients) await client.joined();
  assert.deepEqual([...new Set(lost)], ["handshake: 429, true"]);
  for (const { client } of clients) client.close();
  await gateway.stop();
});
