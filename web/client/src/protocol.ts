/** How much of a stream is here: docs/streams.md. `id` is that of the push at `seq`. */
export interface Place {
  epoch: string;
  seq: number;
  id?: string;
}

/** The epoch of a stream in which nothing was ever stored. */
export const NO_EPOCH = "00000000";

/** A push as the gateway sends it. */
export interface PushData {
  id: string;
  from: string;
  /** When it was accepted: milliseconds since 1970. */
  ts: number;
  content: unknown;
  /** `"base64"`: `content` is bytes, written so. */
  encoding?: "base64";
  room?: string;
  /** A stored push has its card (or room), its number there, and the number of the one before it. */
  card?: string;
  seq?: number;
  prev?: number;
}

/** Where the client stands in a stream; `waiting` more follow. */
export interface StreamPosition {
  card?: string;
  room?: string;
  epoch: string;
  seq: number;
  waiting: number;
}

export interface JoinedData {
  card_id: string;
  app_id: string;
  client: string;
  expires_in?: number;
}

/** Who is in a room: how many cards, and up to 100 of them; nodes that did not answer in `missing`. */
export interface Presence {
  node: string;
  count: number;
  cards: string[];
  missing?: string[];
}

export interface SubscribedData {
  room: string;
  epoch?: string;
  seq?: number;
  presence?: Presence;
}

/** The first client of a card came into a room of a node, or its last one left. */
export interface PresenceChange {
  room: string;
  card_id: string;
  action: "join" | "leave";
  node: string;
}

export interface ErrorData {
  code: string;
  message: string;
  ref?: string | number;
}

/** What the gateway says. Others are passed over: later versions add some. */
export type Heard =
  | { event: "joined"; data: JoinedData }
  | { event: "refreshed"; data: { expires_in?: number } }
  | { event: "left"; data?: { card_id: string } }
  | { event: "subscribed"; data: SubscribedData }
  | { event: "unsubscribed"; data: { room: string } }
  | { event: "push"; data: PushData }
  | { event: "pushes"; data: PushData[] }
  | { event: "pushed" | "received"; data: { id: string; ref?: string | number } }
  | { event: "stream" | "reset"; data: StreamPosition }
  | { event: "presence"; data: PresenceChange }
  | { event: "drain"; data: { reconnect_in_ms: number } }
  | { event: "error"; data: ErrorData }
  | { event: "pong"; data?: undefined };
