import { CUT, NORMAL } from "./close_codes.js";
import type { OxipushError } from "./errors.js";
import type { Settings, WebSocketLike } from "./options.js";
import type { Heard } from "./protocol.js";

/** How a connection ended. */
export interface Loss {
  code: number;
  reason: string;
  /** Milliseconds that the gateway asked for in its answer to the handshake; browsers do not tell. */
  retryAfter?: number;
  /** The gateway refused the client, which closed for that. */
  error?: OxipushError;
}

export interface ConnectionListener {
  opened(): void;
  heard(frame: Heard): void;
  /** Once; nothing comes after it. */
  lost(loss: Loss): void;
}

/** What the package `ws` has beside a browser's WebSocket. */
interface NodeSocket {
  on?(name: "unexpected-response", handler: (request: unknown, response: HandshakeAnswer) => void): void;
  terminate?(): void;
}

interface HandshakeAnswer {
  statusCode?: number;
  headers: Record<string, string | string[] | undefined>;
}

const OPEN = 1;

/** One WebSocket: frames both ways, and the watch over whether it still lives. */
export class Connection {
  readonly #socket: WebSocketLike & NodeSocket;
  readonly #settings: Settings;
  readonly #listener: ConnectionListener;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #heardAt = 0;
  #isOver = false;

  /** Connects; it has `joinTimeout` until `settle` is called. Throws what the WebSocket throws. */
  constructor(settings: Settings, listener: ConnectionListener) {
    this.#settings = settings;
    this.#listener = listener;
    const socket = (this.#socket = new settings.WebSocket(settings.url, ["oxipush.v1"]));
    socket.onopen = () => this.#isOver || listener.opened();
    socket.onmessage = ({ data }) => this.#hear(data);
    socket.onclose = ({ code, reason }) => this.#lose({ code, reason });
    // it is closed then
    socket.onerror = () => undefined;
    this.#socket.on?.("unexpected-response", (_, answer) => this.#refused(answer));
    this.#timer = setTimeout(() => this.fail("not joined in time"), settings.joinTimeout);
  }

  /** `false`: it is not open, and nothing was sent. */
  send(frame: object): boolean {
    const isOpen = this.#socket.readyState === OPEN && !this.#isOver;
    if (isOpen) this.#socket.send(JSON.stringify(frame));
    return isOpen;
  }

  /** It is in use: from now on it is asked whether it lives when nothing comes. */
  settle(): void {
    this.#watch(this.#settings.pingAfter);
  }

  /** Asks whether it lives; without an answer it is lost. */
  probe(): void {
    if (this.#isOver) return;
    const heardAt = this.#heardAt;
    this.send({ event: "ping" });
    this.#set(this.#settings.pongTimeout, () => {
      if (this.#heardAt === heardAt) return this.fail("no answer to a ping");
      this.#watch(this.#settings.pingAfter);
    });
  }

  /** Ends it in order; the listener hears nothing more. */
  close(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#socket.close(NORMAL);
  }

  /** Ends it in order, and is lost for this reason. */
  giveUp(reason: string, error?: OxipushError): void {
    if (this.#isOver) return;
    this.#socket.close(NORMAL);
    this.#lose({ code: NORMAL, reason, error });
  }

  /** It is dead, or of no use: it is left at once, whatever the network does. */
  fail(reason: string, retryAfter?: number): void {
    if (this.#isOver) return;
    if (this.#socket.terminate) this.#socket.terminate();
    else this.#socket.close();
    this.#lose({ code: CUT, reason, retryAfter });
  }

  #hear(text: unknown): void {
    if (this.#isOver) return;
    // never the same twice
    this.#heardAt = Math.max(Date.now(), this.#heardAt + 1);
    let frame;
    try {
      frame = JSON.parse(String(text));
    } catch {
      return this.fail("what came is not JSON");
    }
    if (frame && typeof frame === "object") this.#listener.heard(frame);
  }

  #lose(loss: Loss): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#listener.lost(loss);
  }

  #refused({ statusCode, headers }: HandshakeAnswer): void {
    const seconds = Number(headers["retry-after"]);
    this.fail(`handshake: ${statusCode}`, seconds > 0 ? seconds * 1000 : undefined);
  }

  #watch(after: number): void {
    this.#set(after, () => {
      const left = this.#heardAt + this.#settings.pingAfter - Date.now();
      if (left > 0) this.#watch(left);
      else this.probe();
    });
  }

  #set(after: number, then: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, after);
  }
}
