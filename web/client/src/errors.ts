/** Why the gateway refused something: `code` of its `error` event (docs/errors.md). */
export type GatewayErrorCode =
  | "bad_json" | "unknown_event" | "bad_name" | "bad_content" | "not_joined" | "not_subscribed" | "bad_ack"
  | "card_full" | "too_many_cards" | "too_many_rooms" | "too_many_devices" | "wrong_room" | "not_pushed" | "busy"
  | "unsupported" | "no_token" | "bad_token" | "token_expired" | "token_not_yet" | "token_revoked" | "refused"
  | "tokens_differ" | "wrong_card" | "wrong_app";

/**
 * What this client itself has to say.
 *
 * - `timeout`: no answer within `answerTimeout`; what was sent may have arrived.
 * - `connection_lost`: the connection was lost before the answer came; what was sent may have arrived.
 * - `not_connected`: nothing is joined at the moment; nothing was sent.
 * - `ended`: the client has ended: it was closed, or the gateway sent it away for good.
 * - `queue_full`: `maxQueued` pushes and messages wait already.
 * - `too_large`: more than `maxMessage` bytes; the gateway would end the connection for it.
 * - `no_socket`: there is no WebSocket here, or it takes no such URL.
 * - `token`: `getToken` failed, or did not answer within `tokenTimeout`; it is asked again.
 * - `storage`: the storage failed; what is kept there may be old.
 * - `handler`: a handler of yours threw; `cause` is what it threw.
 */
export type ClientErrorCode =
  | "timeout" | "connection_lost" | "not_connected" | "ended" | "queue_full" | "too_large" | "no_socket" | "token" | "storage"
  | "handler";

/** Codes that a later gateway may add are texts too. */
export type ErrorCode = GatewayErrorCode | ClientErrorCode | (string & {});

/** What an error is about, where that is known. */
export interface ErrorSubject {
  card?: string;
  room?: string;
  cause?: unknown;
}

/** Something that could not be done. `code` is for programs and never changes; `message` is for people. */
export class OxipushError extends Error {
  readonly code: ErrorCode;
  /** The card or room that it is about, where it is about one. */
  readonly card: string | undefined;
  readonly room: string | undefined;

  constructor(code: ErrorCode, message: string, { card, room, cause }: ErrorSubject = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "OxipushError";
    this.code = code;
    this.card = card;
    this.room = room;
  }
}

const OF_TOKENS = ["no_token", "bad_token", "token_expired", "token_revoked"];

/** Whether another token may mend it. */
export function asksForToken(error: OxipushError): boolean {
  return OF_TOKENS.includes(error.code);
}

/** Whether time alone may mend it. */
export function isPassing(error: OxipushError): boolean {
  return error.code === "card_full" || error.code === "busy";
}
