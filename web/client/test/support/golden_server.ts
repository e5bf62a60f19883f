import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { WebSocket, WebSocketServer } from "ws";
import { Inbox } from "./inbox.js";

/** What waits for an answer to its handshake. */
interface Knock {
  request: IncomingMessage;
  socket: Socket;
  head: Buffer;
}

/** The server's side of one connection. */
export class GoldenConnection {
  readonly messages = new Inbox<unknown>();
  /** Acknowledgements come whenever it is time for them. */
  readonly acks = new Inbox<unknown>();
  readonly closed: Promise<number | undefined>;
  readonly #socket: WebSocket;
  readonly #tcp: Socket;

  constructor(socket: WebSocket, tcp: Socket) {
    this.#socket = socket;
    this.#tcp = tcp;
    socket.on("message", (text) => {
      const message = JSON.parse(String(text)) as { event: string };
      (message.event === "ack" ? this.acks : this.messages).put(message);
    });
    socket.on("error", () => undefined);
    // ws says 1005 and 1006 where no code came
    this.closed = new Promise((done) => socket.on("close", (code) => done(code >= 1005 && code <= 1006 ? undefined : code)));
  }

  send(frame: unknown): void {
    this.#socket.send(JSON.stringify(frame));
  }

  close(code: number, reason?: string): void {
    this.#socket.close(code, reason);
  }

  cut(): void {
    this.#tcp.destroy();
  }
}

/** A WebSocket server that lets a test answer each handshake. */
export class GoldenServer {
  readonly #http: Server;
  readonly #sockets = new WebSocketServer({ noServer: true, handleProtocols: () => "oxipush.v1" });
  readonly knocks = new Inbox<Knock>();

  private constructor(http: Server) {
    this.#http = http;
    http.on("upgrade", (request: IncomingMessage, socket: Socket, head: Buffer) => {
      socket.on("error", () => undefined);
      this.knocks.put({ request, socket, head });
    });
  }

  static async start(): Promise<GoldenServer> {
    const http = createServer();
    await new Promise<void>((done) => http.listen(0, "127.0.0.1", done));
    return new GoldenServer(http);
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#http.address() as AddressInfo).port}/ws`;
  }

  async accept(within: number): Promise<GoldenConnection> {
    const { request, socket, head } = await this.knocks.take(within, "a connection");
    assert.equal(request.url, "/ws");
    assert.equal(request.headers["sec-websocket-protocol"], "oxipush.v1");
    return new Promise((done) => {
      this.#sockets.handleUpgrade(request, socket, head, (websocket) => done(new GoldenConnection(websocket, socket)));
    });
  }

  async refuse(status: number, headers: Record<string, string>, within: number): Promise<void> {
    const { socket } = await this.knocks.take(within, "a connection");
    const lines = Object.entries({ ...headers, connection: "close", "content-length": "0" }).map(([name, value]) => `${name}: ${value}`);
    socket.end([`HTTP/1.1 ${status} Refused`, ...lines, "", ""].join("\r\n"));
  }

  stop(): void {
    this.#http.close();
    this.#http.closeAllConnections();
    for (const client of this.#sockets.clients) client.terminate();
  }
}
