/** Why the gateway refused something: `code` of its `error` event (docs/errors.md). */
export type GatewayErrorCode = "bad_json" | "unknown_event" | "bad_name" | "bad_content" | "not_joined" | "not_subscribed" | "bad_ack" | "card_full" | "too_many_cards" | "too_many_rooms" | "too_many_devices" | "wrong_room" | "not_pushed" | "busy" | "unsupported" | "no_token" | "bad_token" | "token_expired" | "token_not_yet" | "token_revoked" | "refused" | "tokens_differ" | "wrong_card" | "wrong_app";
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
export type ClientErrorCode = "timeout" | "connection_lost" | "not_connected" | "ended" | "queue_full" | "too_large" | "no_socket" | "token" | "storage" | "handler";
/** Codes that a later gateway may add are texts too. */
export type ErrorCode = GatewayErrorCode | ClientErrorCode | (string & {});
/** What an error is about, where that is known. */
export interface ErrorSubject {
	card?: string;
	room?: string;
	cause?: unknown;
}
/** Something that could not be done. `code` is for programs and never changes; `message` is for people. */
export declare class OxipushError extends Error {
	readonly code: ErrorCode;
	/** The card or room that it is about, where it is about one. */
	readonly card: string | undefined;
	readonly room: string | undefined;
	constructor(code: ErrorCode, message: string, { card, room, cause }?: ErrorSubject);
}
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
/** How much of a stream is here: docs/streams.md. `id` is that of the push at `seq`. */
export interface Place {
	epoch: string;
	seq: number;
	id?: string;
}
/** Where the client stands in a stream; `waiting` more follow. */
export interface StreamPosition {
	card?: string;
	room?: string;
	epoch: string;
	seq: number;
	waiting: number;
}
/** Who is in a room: how many cards, and up to 100 of them; nodes that did not answer in `missing`. */
export interface Presence {
	node: string;
	count: number;
	cards: string[];
	missing?: string[];
}
/** The first client of a card came into a room of a node, or its last one left. */
export interface PresenceChange {
	room: string;
	card_id: string;
	action: "join" | "leave";
	node: string;
}
/**
 * - `idle`: `connect` was not called yet.
 * - `connecting`: a connection is made, and joins.
 * - `joined`: it is in use.
 * - `waiting`: it was lost, and another try is to come.
 * - `ended`: it was closed, or may not come back.
 */
export type LinkState = "idle" | "connecting" | "joined" | "waiting" | "ended";
/** Why it ended: by a close code, or by an error. */
export interface LinkEnd {
	code?: number;
	reason: string;
	error?: OxipushError;
}
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
	state: {
		state: LinkState;
		previous: LinkState;
	};
	/** A connection has joined and subscribed, and is in use from now on: the first one, or one in place of another. */
	connected: Record<never, never>;
	/** A card is joined: on each connection anew. */
	joined: Joined;
	/** The client is out of a card: by `leave`, or since its token has it no more. */
	left: {
		card_id: string;
	};
	subscribed: Subscribed;
	/** The client is out of a room: by `leave`, or since its token has it no more. */
	unsubscribed: {
		room: string;
	};
	/** A push came: each once, in the order of its card or room. */
	push: Push;
	presence: PresenceChange;
	/** Where the client stands in a stream, and how many pushes follow. */
	stream: StreamPosition;
	/** The place in a stream means nothing any more: something may be missing, or come twice. */
	reset: StreamPosition;
	/** A stored push before this one was missing; the client resumes by itself. */
	gap: {
		card?: string;
		room?: string;
		seq: number;
		prev: number;
	};
	/** The node leaves; the client changes over by itself. */
	drain: {
		milliseconds: number;
	};
	/** The connection was lost; the next try comes after so many milliseconds. */
	lost: {
		code: number;
		reason: string;
		milliseconds: number;
	};
	/** The client has ended, by `close()`, a close code or an error, and does not come back by itself. */
	closed: LinkEnd;
	/** Something could not be done. */
	error: OxipushError;
}
/** Events of a room. */
export interface RoomEvents {
	subscribed: Subscribed;
	unsubscribed: {
		room: string;
	};
	push: Push;
	presence: PresenceChange;
	error: OxipushError;
}
/** A room that the client is subscribed to, on each connection anew. Made by `client.room(name)`. */
export declare class Room {
	#private;
	readonly name: string;
	/** Resolves with who is there once it is subscribed to; rejects where the gateway refuses that, or the client ends. */
	readonly ready: Promise<Presence | undefined>;
	/**
	 * Who is there, where the gateway tells it of this room: as of the subscription, and kept by what came since. A card that is on
	 * two nodes leaves with the first of them; of more than 100 cards not all are named. `who()` asks anew.
	 */
	get presence(): Presence | undefined;
	/** Adds a handler; gives what takes it away again. */
	on<Name extends keyof RoomEvents>(name: Name, handler: (event: RoomEvents[Name]) => void): () => void;
	off<Name extends keyof RoomEvents>(name: Name, handler: (event: RoomEvents[Name]) => void): void;
	/** Pushes to the room, where the gateway lets the client; gives the push's id. With `echo` the client gets it, too. */
	push(content: unknown, options?: {
		echo?: boolean;
	}): Promise<string>;
	/** Asks the gateway who is there. */
	who(): Promise<Presence | undefined>;
	/** Unsubscribes, and forgets the place in the room's stream. */
	leave(): Promise<void>;
}
/** For whom a push of the client is: cards, or a room. */
export interface PushTarget {
	to?: string[];
	room?: string;
}
/**
 * A client of an oxipush gateway: it connects, joins its cards, subscribes to its rooms, and comes back by itself.
 *
 * ```js
 * const client = new Oxipush("wss://push.example.com/ws", { card: "alice", device: "phone-7f3a", storage: localStorage });
 * client.on("push", (push) => show(push.content));
 * ```
 */
export declare class Oxipush {
	#private;
	/** Connects, unless `autoConnect` is false. Throws an `OxipushError` (`no_socket`) where that can never succeed. */
	constructor(url: string | URL, options?: OxipushOptions);
	/** How it is connected. */
	get state(): LinkState;
	/** Connects a client that did not yet, or that has ended. */
	connect(): void;
	/** Acknowledges what is done, closes, and ends the client. */
	close(): void;
	/** Adds a handler; gives what takes it away again. */
	on<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => void): () => void;
	off<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => void): void;
	/** Joins one more card, now and on each connection to come. Resolves once it is joined. */
	join(card: string, app?: string | undefined): Promise<void>;
	/** Leaves a card, and forgets the place in its stream. Resolves once it is left. */
	leave(card: string): Promise<void>;
	/** The room of this name: subscribes to it, unless that is done already. */
	room(name: string): Room;
	/**
	 * Pushes to cards or to a room, where the gateway lets the client; gives the push's id once the gateway has it. With `echo` the client gets it,
	 * too. Rejects with an `OxipushError`.
	 */
	push({ to, room }: PushTarget, content: unknown, { echo }?: {
		echo?: boolean;
	}): Promise<string>;
	/** Sends a message to the back end; gives its id once the gateway holds it. Rejects with an `OxipushError`. */
	message(data: unknown): Promise<string>;
}

export {};
