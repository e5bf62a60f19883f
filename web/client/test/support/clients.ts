import { WebSocket } from "ws";
import { Oxipush, type ClientEvents, type OxipushOptions } from "../../src/index.js";
import { Inbox } from "./inbox.js";

export const pause = (milliseconds: number) => new Promise<void>((done) => setTimeout(done, milliseconds));

/** Pauses that suit a test. */
const QUICK: OxipushOptions = { WebSocket, backoffBase: 20, backoffMax: 200, ackEvery: 20 };

/** A client, with what it told so far. */
export class TestClient {
  readonly client: Oxipush;
  /** The contents of its pushes. */
  readonly contents = new Inbox<unknown>();
  readonly errors: string[] = [];
  readonly resets: unknown[] = [];

  constructor(url: string, options: OxipushOptions) {
    this.client = new Oxipush(url, { ...QUICK, ...options });
    this.client.on("push", ({ content }) => this.contents.put(content));
    this.client.on("error", ({ code }) => this.errors.push(code));
    this.client.on("reset", (reset) => this.resets.push(reset));
  }

  /** The next event of a kind. */
  next<Name extends keyof ClientEvents>(name: Name, within = 20_000): Promise<ClientEvents[Name]> {
    return new Promise((done, fail) => {
      const timer = setTimeout(() => fail(new Error(`no ${name} within ${within} ms`)), within);
      const off = this.client.on(name, (event) => {
        off();
        clearTimeout(timer);
        done(event);
      });
    });
  }

  async joined(): Promise<void> {
    while (this.client.state !== "joined") await this.next("state");
  }

  /** Waits until it has so many contents, a little longer for those that are too many, and gives them all, sorted. */
  async has(count: number): Promise<unknown[]> {
    await this.contents.until((items) => items.length >= count, 20_000, `${count} pushes`);
    await pause(50);
    return [...this.contents.items].sort();
  }
}
