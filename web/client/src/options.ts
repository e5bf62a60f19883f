import { OxipushError } from "./errors.js";

/** Where places in streams are kept: `localStorage`, `sessionStorage`, or anything with these three, which may be async. */
export interface PlaceStorage {
  getItem(key: string): string | null | undefined | Promise<string | null | undefined>;
  setItem(key: string, value: string): unknown;
  removeItem(key: string): unknown;
}

/** Why a token is asked for: there is none yet, it is about to end or has ended, or the gateway refused it. */
export type TokenReason = "connect" | "expires" | "refused";

/** What is used of a WebSocket; the browser's, Node's and the package `ws` have it. */
export interface WebSocketLike {
  readyState: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** A card to join, as an app. */
export interface CardOption {
  card: string;
  app?: string;
}

/** Times are milliseconds. */
export interface OxipushOptions {
  /** The card to join; `cards` for several. With neither the token names it. */
  card?: string;
  cards?: (string | CardOption)[];
  /** The app to join as, where a card says no other. */
  app?: string;
  /** Proves who the client is (docs/security.md). */
  token?: string;
  /** Gives a token: where there is none, before it ends, and where the gateway refuses it. */
  getToken?: (reason: TokenReason) => string | Promise<string>;
  /** The name by which the client is known again; needed for acknowledgements. Choose one for each installation, and keep it. */
  device?: string;
  /** `auto` (default): a push is acknowledged once its handlers returned. `manual`: call `push.ack()`. */
  ack?: "auto" | "manual";
  /** Takes several pushes to rooms in one frame, where the gateway merges. */
  merge?: boolean;
  /** Keeps the places in streams over page loads. Without it they live as long as the client. Two clients must not write the same
   * keys at once: give each tab a `device` and a `storageKey` of its own, or `sessionStorage`. */
  storage?: PlaceStorage;
  /** What the keys in `storage` begin with (`oxipush`; `oxipush card alice` is one): another one for each user of a browser. */
  storageKey?: string;
  /** The WebSocket to use where there is no global one (Node 20: the package `ws`). */
  WebSocket?: WebSocketConstructor;
  /** `false`: connects only when `connect()` is called. */
  autoConnect?: boolean;

  /** Pauses before connecting again are random, up to `backoffBase` (1000), then twice that, … up to `backoffMax` (30000). */
  backoffBase?: number;
  backoffMax?: number;
  /** A connection that lived so long (10000) after its join starts the pauses from the first again. */
  stableAfter?: number;
  /** Time from connecting to being joined (10000). */
  joinTimeout?: number;
  /** Time for the answer to a push or message of the client, its wait in the queue too (10000). */
  answerTimeout?: number;
  /** Time for `getToken` (10000). */
  tokenTimeout?: number;
  /** After so long without a word the gateway is asked whether it is there (25000), and has so long to answer (10000). */
  pingAfter?: number;
  pongTimeout?: number;
  /** Acknowledgements are sent at most so often (200). */
  ackEvery?: number;
  /** Where a node drains: how long the old connection is read on once the new one has joined (1000). */
  drainOverlap?: number;
  /** Ids of pushes that are remembered, to know copies (1000). */
  maxIds?: number;
  /** The client's own pushes and messages: answers awaited at once (16), waiting to be sent (100), a second for long (40), at once
   * after a pause (1000), bytes of one (65536). */
  maxPending?: number;
  maxQueued?: number;
  maxPerSecond?: number;
  maxBurst?: number;
  maxMessage?: number;
  /** Gaps in one stream without a push between them until the connection is given up (3). */
  maxGaps?: number;
}

const DEFAULTS = {
  ack: "auto" as "auto" | "manual",
  storageKey: "oxipush",
  autoConnect: true,
  backoffBase: 1000,
  backoffMax: 30_000,
  stableAfter: 10_000,
  joinTimeout: 10_000,
  answerTimeout: 10_000,
  tokenTimeout: 10_000,
  pingAfter: 25_000,
  pongTimeout: 10_000,
  ackEvery: 200,
  drainOverlap: 1000,
  maxIds: 1000,
  maxPending: 16,
  maxQueued: 100,
  maxPerSecond: 40,
  maxBurst: 1000,
  maxMessage: 65_536,
  maxGaps: 3,
};

/** The options with their defaults. */
export type Settings = OxipushOptions & typeof DEFAULTS & { url: string; WebSocket: WebSocketConstructor };

export function settingsOf(url: string | URL, options: OxipushOptions): Settings {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const WebSocket = options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
  if (!WebSocket) throw new OxipushError("no_socket", "no global WebSocket: give one as the option `WebSocket`");
  return { ...DEFAULTS, ...given, WebSocket, url: socketUrl(url) };
}

/** `/ws` of a page's own host, and http, become what a WebSocket takes. */
function socketUrl(url: string | URL): string {
  try {
    const whole = new URL(url, globalThis.location?.href);
    whole.protocol = whole.protocol.replace("http", "ws");
    return whole.href;
  } catch (cause) {
    throw new OxipushError("no_socket", `not a URL: ${url}`, { cause });
  }
}
