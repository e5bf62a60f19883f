import type { OxipushError } from "./errors.js";
import type { LinkEnd, LinkState } from "./link.js";
import type { Presence, PresenceChange, StreamPosition } from "./protocol.js";

/** A push. A stored one has `card` or `room`, `seq` and `prev`. */
export interface Push {
  id: string;
  /** What the back end wrote there, or the card of the client that pushed. */
  from: string;
  /** When it was accepted: milliseconds since 1970. */
  ts: number;
  /** A text, another JSON value, or bytes (`Uint8Array`). */
  content: unknown;
  room?: string;
  card?: string;
  seq?: number;
  prev?: number;
  /** With `ack: "manual"`: this push, and all before it in its stream, are done with; they do not come again. Nothing for live pushes. */
  ack(): void;
}

export interface Joined {
  card: string;
  app: string;
  /** The connection's id, which a back end can exclude or disconnect. */
  client: string;
  /** Seconds until the proof ends. */
  expiresIn?: number;
}

export interface Subscribed {
  room: string;
  presence?: Presence;
}

/** Events of a client. */
export interface ClientEvents {
  /** How the client is connected changed. */
  state: { state: LinkState; previous: LinkState };
  /** A connection has joined and subscribed, and is in use from now on: the first one, or one in place of another. */
  connected: Record<never, never>;
  /** A card is joined: on each connection anew. */
  joined: Joined;
  /** The client is out of a card: by `leave`, or since its token has it no more. */
  left: { card_id: string };
  subscribed: Subscribed;
  /** The client is out of a room: by `leave`, or since its token has it no more. */
  unsubscribed: { room: string };
  /** A push came: each once, in the order of its card or room. */
  push: Push;
  presence: PresenceChange;
  /** Where the client stands in a stream, and how many pushes follow. */
  stream: StreamPosition;
  /** The place in a stream means nothing any more: something may be missing, or come twice. */
  reset: StreamPosition;
  /** A stored push before this one was missing; the client resumes by itself. */
  gap: { card?: string; room?: string; seq: number; prev: number };
  /** The node leaves; the client changes over by itself. */
  drain: { milliseconds: number };
  /** The connection was lost; the next try comes after so many milliseconds. */
  lost: { code: number; reason: string; milliseconds: number };
  /** The client has ended, by `close()`, a close code or an error, and does not come back by itself. */
  closed: LinkEnd;
  /** Something could not be done. */
  error: OxipushError;
}

/** Events of a room. */
export interface RoomEvents {
  subscribed: Subscribed;
  unsubscribed: { room: string };
  push: Push;
  presence: PresenceChange;
  error: OxipushError;
}
