import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pause } from "./clients.js";

const PROGRAM = process.env.OXIPUSH_BIN ?? "../../target/debug/oxipush";

const running = new Set<ChildProcess>();
process.on("exit", () => running.forEach((gateway) => gateway.kill("SIGKILL")));

/** A machine that is busy with something else must not fail a test. */
const PATIENT = { HTTP__REQUEST_TIMEOUT: "60s", SOCKET__HANDSHAKE_TIMEOUT: "30s", SOCKET__JOIN_TIMEOUT: "60s" };

/** A gateway as a process of its own, on free ports and a folder that `stop` removes. */
export class Gateway {
  readonly #folder = mkdtempSync(join(tmpdir(), "oxipush-js-"));
  readonly #settings: Record<string, string>;
  #ports: number[] = [];
  #process: ChildProcess | undefined;

  private constructor(settings: Record<string, string>) {
    this.#settings = settings;
  }

  /** Starts one with these settings (`SECTION__KEY`), and waits until it is ready. */
  static async start(settings: Record<string, string> = {}): Promise<Gateway> {
    if (!existsSync(PROGRAM)) throw new Error(`there is no ${PROGRAM}: build the gateway, or name it in OXIPUSH_BIN`);
    const gateway = new Gateway(settings);
    gateway.#ports = await Promise.all([freePort(), freePort(), freePort()]);
    await gateway.spawn();
    return gateway;
  }

  get port(): number {
    return this.#ports[0] as number;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  http(path: string): string {
    return `http://127.0.0.1:${this.#ports[1]}${path}`;
  }

  /** Starts it again where it was, with what it had written. */
  async spawn(): Promise<void> {
    const [socket, http, grpc] = this.#ports.map((port) => `127.0.0.1:${port}`);
    const given = { SOCKET__LISTEN: socket, HTTP__LISTEN: http, GRPC__LISTEN: grpc, DATA__DIR: this.#folder, ...PATIENT, ...this.#settings };
    const settings = Object.fromEntries(Object.entries(given).map(([key, value]) => [`OXIPUSH__${key}`, value]));
    const started = spawn(PROGRAM, { env: { ...process.env, ...settings, RUST_LOG: "error" }, stdio: ["ignore", "ignore", "inherit"] });
    this.#process = started;
    running.add(started);
    started.on("exit", () => running.delete(started));
    for (let tries = 0; tries < 1200; tries++) {
      if (started.exitCode !== null) throw new Error(`the gateway ended with ${started.exitCode}`);
      const answer = await fetch(this.http("/readyz")).catch(() => undefined);
      if (answer?.status === 200) return;
      await pause(25);
    }
    throw new Error("the gateway was not ready within 30 s");
  }

  /** SIGKILL, SIGTERM; waits for the end. */
  async end(signal: NodeJS.Signals): Promise<void> {
    const running = this.#process as ChildProcess;
    if (running.exitCode !== null || running.signalCode !== null) return;
    const ended = once(running, "exit");
    running.kill(signal);
    await ended;
  }

  async stop(): Promise<void> {
    await this.end("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** POST that must be answered with 200; gives the answer. */
  async post(path: string, body: object): Promise<Record<string, unknown>> {
    const answer = await fetch(this.http(path), { method: "POST", body: JSON.stringify(body) });
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`${path} ${JSON.stringify(body)}: ${answer.status} ${text}`);
    return JSON.parse(text) as Record<string, unknown>;
  }

  push(to: string, content: unknown): Promise<unknown> {
    return this.post("/push", { to: [to], content });
  }

  store(to: string, content: unknown): Promise<unknown> {
    return this.post("/push", { to: [to], content, offline: true });
  }

  storeIn(room: string, content: unknown): Promise<unknown> {
    return this.post("/push", { room, content, offline: true });
  }

  /** Up to where a device has acknowledged the stream of a card. */
  async cursor(card: string, device: string): Promise<number | undefined> {
    const answer = await fetch(this.http(`/cards/${card}/stream`));
    const { devices = [] } = (await answer.json()) as { devices?: { name: string; seq: number }[] };
    return devices.find(({ name }) => name === device)?.seq;
  }

  /** Waits until a device has acknowledged so much. */
  async acknowledged(card: string, device: string, seq: number): Promise<void> {
    let last;
    for (let tries = 0; tries < 800; tries++) {
      last = await this.cursor(card, device);
      if (last === seq) return;
      await pause(25);
    }
    throw new Error(`${card} ${device} acknowledged ${last}, not ${seq}`);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
