/**
 * The client of oxipush for browsers, workers and Node: docs/client-protocol.md says what it does, README.md how it is used.
 *
 * @packageDocumentation
 */
export { Oxipush, type PushTarget } from "./client.js";
export { OxipushError, type ClientErrorCode, type ErrorCode, type GatewayErrorCode } from "./errors.js";
export type { ClientEvents, Joined, Push, RoomEvents, Subscribed } from "./events.js";
export type { LinkEnd, LinkState } from "./link.js";
export type { CardOption, OxipushOptions, PlaceStorage, TokenReason, WebSocketConstructor, WebSocketLike } from "./options.js";
export type { Place, Presence, PresenceChange, StreamPosition } from "./protocol.js";
export { Room } from "./room.js";
