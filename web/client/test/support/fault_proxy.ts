import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

/** A direction of the bytes. */
export type Direction = "fromServer" | "fromClient";

/** Where a connection is cut: behind so many bytes of a direction. */
export interface Cut {
  direction: Direction;
  after: number;
}

/** Passes TCP connections on to a port, and cuts the first of them where it is told to. */
export class FaultProxy {
  /** Bytes that the first connection passed on. */
  readonly passed = { fromServer: 0, fromClient: 0 };
  connections = 0;
  /** Whether the cut was made. */
  isCut = false;
  /** Where new connections go. */
  target: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isFrozen = false;

  private constructor(server: Server, target: number, cut: Cut | undefined) {
    this.#server = server;
    this.target = target;
    server.on("connection", (client: Socket) => this.#pass(client, this.connections++ === 0 ? cut : undefined));
  }

  static async start(target: number, cut?: Cut): Promise<FaultProxy> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    return new FaultProxy(server, target, cut);
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as AddressInfo).port}/ws`;
  }

  /** Cuts all connections. */
  cutAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Passes nothing on until `thaw`, on no connection; ends are not passed on, either. */
  freeze(): void {
    this.#isFrozen = true;
  }

  thaw(): void {
    this.#isFrozen = false;
    this.cutAll();
  }

  stop(): void {
    this.#server.close();
    this.cutAll();
  }

  #pass(client: Socket, cut: Cut | undefined): void {
    const isFirst = this.connections === 1;
    const server = connect(this.target, "127.0.0.1");
    const end = () => {
      client.destroy();
      server.destroy();
      this.#sockets.delete(client);
      this.#sockets.delete(server);
    };
    for (const socket of [client, server]) {
      socket.setNoDelay();
      this.#sockets.add(socket);
      socket.on("error", end);
      socket.on("close", end);
    }
    const pass = (direction: Direction, to: Socket) => (bytes: Buffer) => {
      if (this.#isFrozen) return;
      const left = cut?.direction === direction ? cut.after - this.passed[direction] : Infinity;
      if (isFirst) this.passed[direction] += Math.min(bytes.length, left);
      if (bytes.length < left) return void to.write(bytes);
      this.isCut = true;
      // what went before the cut still arrives
      to.end(bytes.subarray(0, left), () => setTimeout(end, 5));
    };
    client.on("data", pass("fromClient", server));
    server.on("data", pass("fromServer", client));
  }
}
