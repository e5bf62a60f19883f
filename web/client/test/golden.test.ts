// The golden conversations of tests/golden, which the libraries of all languages play; tests/golden/README.md has their format.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { WebSocket } from "ws";
import { Oxipush, OxipushError, type OxipushOptions, type Push } from "../src/index.js";
import { GoldenServer, type GoldenConnection } from "./support/golden_server.js";
import { Inbox } from "./support/inbox.js";
import { MemoryStorage } from "./support/memory_storage.js";

const FOLDER = "../../tests/golden";
/** Kinds of events each of which must have its step. */
const STRICT = ["push", "presence", "reset", "left", "unsubscribed", "closed"] as const;
/** Longer than the files ask for: a machine that is busy with something else must not fail a test. */
const WITHIN = 30_000;

type Fields = Record<string, unknown>;
type Step = Fields & { on?: string; within_ms?: number; after_ms?: number };

interface Golden {
  about: string;
  client?: Fields;
  steps: Step[];
}

describe("golden", { concurrency: 8 }, () => {
  for (const name of readdirSync(FOLDER).filter((name) => name.endsWith(".json")).sort()) {
    const golden = JSON.parse(readFileSync(`${FOLDER}/${name}`, "utf8")) as Golden;
    test(`${name.replace(".json", "")}: ${golden.about}`, async () => {
      const play = new Play(golden, await GoldenServer.start());
      try {
        await play.run();
      } finally {
        play.stop();
      }
    });
  }
});

/** One conversation. */
class Play {
  readonly #golden: Golden;
  readonly #server: GoldenServer;
  readonly #storage = new MemoryStorage();
  readonly #connections = new Map<string, GoldenConnection>();
  readonly #calls = new Map<string, Promise<Fields>>();
  /** What texts like `$name` stand for. */
  readonly #names = new Map<string, unknown>();
  #last!: GoldenConnection;
  #client!: Oxipush;
  #events!: Record<string, Inbox<unknown>>;
  #push: Push | undefined;

  constructor(golden: Golden, server: GoldenServer) {
    this.#golden = golden;
    this.#server = server;
    const kept = (golden.client?.storage ?? {}) as Fields;
    for (const [key, value] of Object.entries(kept)) this.#storage.setItem(key, JSON.stringify(value));
    this.#start();
  }

  async run(): Promise<void> {
    for (const [number, step] of this.#golden.steps.entries()) {
      try {
        await this.#step(step);
      } catch (error) {
        throw new Error(`step ${number + 1}: ${JSON.stringify(step)}: ${(error as Error).message}`);
      }
    }
    await new Promise((done) => setTimeout(done, 50));
    this.#nothingLeft();
    for (const kind of STRICT) assert.deepEqual(this.#events[kind]?.items, [], `${kind} left over`);
  }

  stop(): void {
    this.#client.close();
    this.#server.stop();
  }

  #start(): void {
    const golden = this.#golden.client ?? {};
    const client = (this.#client = new Oxipush(this.#server.url, optionsOf(golden, this.#storage)));
    this.#events = Object.fromEntries([...STRICT, "error", "connected"].map((kind) => [kind, new Inbox<unknown>()]));
    for (const kind of ["push", "presence", "reset", "left", "unsubscribed", "error", "connected"] as const) {
      client.on(kind, (event) => this.#events[kind]?.put(event));
    }
    client.on("closed", ({ code, error }) => this.#events["closed"]?.put(error ? { error: error.code } : { code }));
    for (const room of (golden.rooms ?? []) as string[]) client.room(room);
  }

  async #step(step: Step): Promise<void> {
    const within = step.within_ms ?? WITHIN;
    const began = Date.now();
    const at = step.on === undefined ? this.#last : (this.#connections.get(step.on) as GoldenConnection);
    if (step.connect !== undefined) {
      this.#last = await this.#server.accept(within);
      this.#connections.set(step.connect as string, this.#last);
    } else if (step.refuse !== undefined) {
      await this.#server.refuse(step.refuse as number, (step.headers ?? {}) as Record<string, string>, within);
    } else if (step.expect !== undefined) {
      this.#match(await at.messages.take(within, "a message"), step.expect, "message");
    } else if (step.acks !== undefined) {
      await this.#acks(at, step.acks as Fields, step.at_most as number, within);
    } else if (step.send !== undefined) {
      at.send(this.#filled(step.send));
    } else if (step.close !== undefined) {
      at.close(step.close as number, step.reason as string | undefined);
    } else if (step.cut) {
      at.cut();
    } else if (step.closed !== undefined) {
      const code = await soon(at.closed, within, "the close");
      if (step.closed !== null) assert.equal(code, step.closed);
    } else if (step.quiet_ms !== undefined) {
      await this.#quiet(step.quiet_ms as number);
    } else if (step.call !== undefined) {
      const answer = this.#call(step.call as string, (step.with ?? {}) as Fields);
      answer.catch(() => undefined);
      if (step.as !== undefined) this.#calls.set(step.as as string, answer);
    } else if (step.answer !== undefined) {
      await this.#answer(step, within);
    } else if (step.event !== undefined) {
      await this.#event(step.event as string, (step.is ?? {}) as Fields, within);
    } else if (step.stored !== undefined) {
      await this.#stored(step.stored as Fields, within);
    } else if (step.restart) {
      await this.#restart();
    } else {
      assert.ok(step.backend, "an unknown step");
    }
    const after = step.after_ms ?? 0;
    assert.ok(Date.now() - began >= after - 5, `sooner than ${after} ms`);
  }

  async #acks(at: GoldenConnection, acks: Fields, atMost: number | undefined, within: number): Promise<void> {
    let before = 0;
    for (let count = 1; ; count++) {
      const message = (await at.acks.take(within, "an ack")) as { data: { seq: number } };
      const { seq, ...rest } = message.data;
      assert.deepEqual(rest, { card: acks.card, epoch: acks.epoch });
      assert.ok(seq > before && seq <= (acks.seq as number), `ack of ${seq} after ${before}`);
      assert.ok(count <= (atMost ?? Infinity), `more than ${atMost} acks`);
      if (seq === acks.seq) return;
      before = seq;
    }
  }

  async #quiet(time: number): Promise<void> {
    await new Promise((done) => setTimeout(done, time));
    assert.equal(this.#server.knocks.items.length, 0, "a connection");
    this.#nothingLeft();
  }

  #nothingLeft(): void {
    for (const [name, { messages, acks }] of this.#connections) {
      assert.deepEqual([...messages.items, ...acks.items], [], `not expected on ${name}`);
    }
  }

  async #call(name: string, given: Fields): Promise<Fields> {
    const client = this.#client;
    const { room, card, content, to, echo, data } = given as { room: string; card: string; content: unknown; to?: string[]; echo?: boolean; data: unknown };
    switch (name) {
      case "subscribe": {
        const presence = await client.room(room).ready;
        return { present: presence?.cards };
      }
      case "unsubscribe":
        await client.room(room).leave();
        return {};
      case "leave":
        await client.leave(card);
        return {};
      case "push":
        return { id: await client.push({ to, room }, content, { echo }) };
      case "message":
        return { id: await client.message(data) };
      case "ack":
        this.#push?.ack();
        return {};
      case "close":
        client.close();
        return {};
      default:
        throw new Error(`an unknown call: ${name}`);
    }
  }

  async #answer({ answer, is, error }: Step, within: number): Promise<void> {
    const call = this.#calls.get(answer as string) as Promise<Fields>;
    if (error === undefined) return this.#match(await soon(call, within, "the answer"), is, "answer", true);
    const failed = await soon(call.then(() => undefined, (failure: unknown) => failure), within, "the answer");
    assert.equal((failed as OxipushError | undefined)?.code, error);
  }

  async #event(kind: string, is: Fields, within: number): Promise<void> {
    const event = (await this.#events[kind]?.take(within, kind)) as Fields;
    if (kind === "push") this.#push = event as unknown as Push;
    const { content } = event;
    const plain = content instanceof Uint8Array ? { ...event, content: { base64: Buffer.from(content).toString("base64") } } : event;
    this.#match(plain, is, kind, true);
  }

  async #stored(stored: Fields, within: number): Promise<void> {
    const end = Date.now() + within;
    const differs = () => Object.entries(stored).find(([key, value]) => JSON.stringify(this.#storage.value(key) ?? null) !== JSON.stringify(value));
    while (differs() && Date.now() < end) await new Promise((done) => setTimeout(done, 5));
    for (const [key, value] of Object.entries(stored)) assert.deepEqual(this.#storage.value(key) ?? null, value, key);
  }

  /** The process dies: what it would still do goes nowhere. */
  async #restart(): Promise<void> {
    const kept = [...this.#storage.items];
    for (const connection of this.#connections.values()) connection.cut();
    this.#client.close();
    this.#connections.clear();
    this.#storage.items.clear();
    for (const [key, value] of kept) this.#storage.items.set(key, value);
    this.#start();
  }

  /** Equal; with `part` only the fields of `expected` count. */
  #match(actual: unknown, expected: unknown, where: string, part = false): void {
    if (typeof expected === "string" && expected.startsWith("$")) {
      assert.notEqual(actual, undefined, where);
      if (expected === "$any") return;
      if (!this.#names.has(expected)) this.#names.set(expected, actual);
      return assert.deepEqual(actual, this.#names.get(expected), where);
    }
    if (typeof expected !== "object" || expected === null) return assert.deepEqual(actual, expected, where);
    assert.ok(typeof actual === "object" && actual !== null, `${where} is ${JSON.stringify(actual)}`);
    for (const [key, value] of Object.entries(expected)) this.#match((actual as Fields)[key], value, `${where}.${key}`);
    const more = Object.keys(actual).filter((key) => !(key in expected));
    if (!part) assert.deepEqual(more, [], `${where} has more: ${JSON.stringify(actual)}`);
  }

  #filled(value: unknown): unknown {
    if (typeof value === "string") return this.#names.get(value) ?? value;
    if (Array.isArray(value)) return value.map((item) => this.#filled(item));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.#filled(item)]));
  }
}

function optionsOf(golden: Fields, storage: MemoryStorage): OxipushOptions {
  const [backoffBase, backoffMax] = (golden.backoff_ms ?? [20, 100]) as [number, number];
  const cards = (golden.cards ?? ["alice"]) as OxipushOptions["cards"];
  const tokens = golden.tokens as (string | null)[] | undefined;
  const given = [...(tokens ?? [])];
  const getToken = () => {
    const token = given.shift();
    if (token == null) throw new Error("no token");
    return token;
  };
  return {
    WebSocket,
    cards,
    storage,
    device: golden.device as string,
    token: golden.token as string,
    ack: golden.ack as "auto",
    merge: golden.merge as boolean,
    backoffBase,
    backoffMax,
    maxIds: golden.copies as number,
    pingAfter: (golden.ping_ms ?? 60_000) as number,
    pongTimeout: (golden.pong_ms ?? 10_000) as number,
    ackEvery: (golden.ack_ms ?? 50) as number,
    joinTimeout: (golden.connect_ms ?? 10_000) as number,
    drainOverlap: 100,
    ...(tokens && { getToken }),
  };
}

function soon<Value>(promise: Promise<Value>, within: number, what: string): Promise<Value> {
  let timer: NodeJS.Timeout;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come within ${within} ms`)), within);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
