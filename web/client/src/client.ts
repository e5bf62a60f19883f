import { Backoff } from "./backoff.js";
import { NORMAL } from "./close_codes.js";
import { Emitter } from "./emitter.js";
import { isPassing, OxipushError } from "./errors.js";
import type { ClientEvents, Push, RoomEvents } from "./events.js";
import { Link, type LinkEnd, type LinkState } from "./link.js";
import { type OxipushOptions, type Settings, settingsOf } from "./options.js";
import { Outbox } from "./outbox.js";
import type { Heard, Presence, PushData } from "./protocol.js";
import { RecentIds } from "./recent_ids.js";
import { Room } from "./room.js";
import { type Card, Session, type SessionOwner } from "./session.js";
import { Streams } from "./streams.js";
import { Tokens } from "./tokens.js";
import { Waiters } from "./waiters.js";
import { watchPage } from "./wake.js";

/** For whom a push of the client is: cards, or a room. */
export interface PushTarget {
  to?: string[];
  room?: string;
}

interface RoomEntry {
  room: Room;
  /** What was kept of its stream was read. */
  isLoaded: boolean;
  events: Emitter<RoomEvents>;
}

/**
 * A client of an oxipush gateway: it connects, joins its cards, subscribes to its rooms, and comes back by itself.
 *
 * ```js
 * const client = new Oxipush("wss://push.example.com/ws", { card: "alice", device: "phone-7f3a", storage: localStorage });
 * client.on("push", (push) => show(push.content));
 * ```
 */
export class Oxipush {
  readonly #settings: Settings;
  readonly #events: Emitter<ClientEvents>;
  readonly #link: Link;
  readonly #tokens: Tokens;
  readonly #streams: Streams;
  readonly #outbox: Outbox;
  readonly #ids: RecentIds;
  /** What is to be joined and subscribed to on each connection. */
  #cards: Card[];
  readonly #rooms = new Map<string, RoomEntry>();
  readonly #answers = new Waiters();
  #stopWatching: (() => void) | undefined;

  /** Connects, unless `autoConnect` is false. Throws an `OxipushError` (`no_socket`) where that can never succeed. */
  constructor(url: string | URL, options: OxipushOptions = {}) {
    const settings = (this.#settings = settingsOf(url, options));
    const fail = (error: OxipushError) => this.#fail(error);
    this.#events = new Emitter(fail);
    this.#cards = cardsOf(settings);
    this.#ids = new RecentIds(settings.maxIds);
    this.#outbox = new Outbox(settings);
    this.#streams = new Streams(settings, fail);
    const pauses = new Backoff(settings.backoffBase, settings.backoffMax);
    this.#tokens = new Tokens(settings, pauses, fail);
    this.#link = new Link(settings, pauses, {
      prepare: () => this.#prepare(),
      canRenewToken: () => this.#tokens.canRenew,
      spendToken: () => this.#tokens.spend("expires"),
      open: () => new Session(settings, this.#owner),
      changed: (state, previous) => this.#events.emit("state", { state, previous }),
      entered: (session) => {
        this.#outbox.use(session);
        this.#events.emit("connected", {});
      },
      awaits: (session) => this.#outbox.awaits(session),
      lost: (session, { code, reason }, milliseconds) => {
        this.#outbox.lost(session);
        // nothing is left to leave
        this.#answers.resolveAll("leave ");
        this.#answers.resolveAll("unsubscribe ");
        if (!this.#link.session) this.#outbox.use(undefined);
        if (milliseconds !== undefined) this.#events.emit("lost", { code, reason, milliseconds });
      },
      ended: (end) => this.#end(end),
    });
    // handlers are there by then
    if (settings.autoConnect) queueMicrotask(() => this.state === "idle" && this.connect());
  }

  /** How it is connected. */
  get state(): LinkState {
    return this.#link.state;
  }

  /** Connects a client that did not yet, or that has ended. */
  connect(): void {
    if (this.#cards.length === 0) this.#cards = cardsOf(this.#settings);
    this.#stopWatching ??= watchPage({ wake: () => this.#link.wake(), hide: () => this.#streams.acknowledge() });
    this.#link.open();
  }

  /** Acknowledges what is done, closes, and ends the client. */
  close(): void {
    this.#streams.acknowledge();
    this.#link.close({ code: NORMAL, reason: "closed" });
  }

  /** Adds a handler; gives what takes it away again. */
  on<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => void): () => void {
    return this.#events.on(name, handler);
  }

  off<Name extends keyof ClientEvents>(name: Name, handler: (event: ClientEvents[Name]) => void): void {
    this.#events.off(name, handler);
  }

  /** Joins one more card, now and on each connection to come. Resolves once it is joined. */
  async join(card: string, app = this.#settings.app): Promise<void> {
    const entry = { card, app };
    this.#cards = [...this.#cards.filter((other) => other.card !== card), entry];
    await this.#streams.load({ card });
    for (const session of this.#link.sessions) session.join(entry);
    await this.#answers.wait(`join ${card}`);
  }

  /** Leaves a card, and forgets the place in its stream. Resolves once it is left. */
  async leave(card: string): Promise<void> {
    this.#cards = this.#cards.filter((other) => other.card !== card);
    this.#streams.forget({ card });
    if (!this.#link.session) return;
    const left = this.#answers.wait(`leave ${card}`);
    for (const session of this.#link.sessions) session.leave(card);
    await left;
  }

  /** The room of this name: subscribes to it, unless that is done already. */
  room(name: string): Room {
    let entry = this.#rooms.get(name);
    if (!entry) {
      const events = new Emitter<RoomEvents>((error) => this.#fail(error));
      const owner = {
        push: (content: unknown, options: { echo?: boolean }) => this.push({ room: name }, content, options),
        leave: () => this.#leaveRoom(name),
        who: () => this.#askWhoIsIn(name),
      };
      const ready = this.#answers.wait<Presence | undefined>(`subscribe ${name}`);
      entry = { events, isLoaded: false, room: new Room(name, events, owner, ready) };
      this.#rooms.set(name, entry);
      void this.#enterRoom(name, entry);
    }
    return entry.room;
  }

  /**
   * Pushes to cards or to a room, where the gateway lets the client; gives the push's id once the gateway has it. With `echo` the client gets it,
   * too. Rejects with an `OxipushError`.
   */
  push({ to, room }: PushTarget, content: unknown, { echo }: { echo?: boolean } = {}): Promise<string> {
    return this.#outbox.send((ref) => ({ event: "push", data: { room, to, content, echo: echo || undefined, ref } }));
  }

  /** Sends a message to the back end; gives its id once the gateway holds it. Rejects with an `OxipushError`. */
  message(data: unknown): Promise<string> {
    return this.#outbox.send((ref) => ({ event: "message", data, ref }));
  }

  async #prepare(): Promise<void> {
    const cards = this.#cards.filter((card) => card.card !== undefined);
    await Promise.all([this.#tokens.prepare(), ...cards.map((card) => this.#streams.load(card))]);
  }

  async #enterRoom(room: string, entry: RoomEntry): Promise<void> {
    await this.#streams.load({ room });
    entry.isLoaded = true;
    if (this.#rooms.get(room) === entry) for (const session of this.#link.sessions) session.subscribe(room);
  }

  #askWhoIsIn(room: string): Promise<Presence | undefined> {
    const answer = this.#answers.wait<Presence | undefined>(`subscribe ${room}`);
    if (this.#rooms.has(room)) this.#link.session?.subscribe(room);
    else this.#answers.reject(`subscribe ${room}`, notIn(room));
    return answer;
  }

  async #leaveRoom(room: string): Promise<void> {
    this.#rooms.delete(room);
    this.#streams.forget({ room });
    this.#answers.reject(`subscribe ${room}`, notIn(room));
    if (!this.#link.session) return;
    const left = this.#answers.wait(`unsubscribe ${room}`);
    for (const session of this.#link.sessions) session.unsubscribe(room);
    await left;
  }

  /** What sessions ask and tell. */
  readonly #owner: SessionOwner = {
    cards: () => this.#cards,
    rooms: () => [...this.#rooms].filter(([, { isLoaded }]) => isLoaded).map(([room]) => room),
    device: () => (this.#streams.stores ? this.#settings.device : undefined),
    token: () => this.#tokens.current,
    canRenewToken: () => this.#tokens.canRenew,
    renewToken: () => {
      this.#tokens.spend("refused");
      return this.#tokens.prepare();
    },
    placeOf: (about) => this.#streams.placeOf(about),
    storesNothing: (error) => {
      if (this.#streams.stores && this.#settings.device !== undefined) this.#fail(error);
      this.#streams.stores = false;
    },
    joined: (session, { card_id: card, app_id: app, client, expires_in: expiresIn }, asked) => {
      if (asked?.card === undefined) {
        this.#cards = this.#cards.map((other) => (other.card === undefined ? { ...other, card } : other));
        void this.#streams.named(session, card);
      }
      this.#streams.begin(session, { card });
      this.#holds(expiresIn);
      this.#answers.resolve(`join ${card}`);
      this.#events.emit("joined", { card, app, client, expiresIn });
    },
    left: (session, card) => {
      if (!this.#link.isInUse(session) || card === undefined || this.#answers.resolve(`leave ${card}`)) return;
      this.#cards = this.#cards.filter((other) => other.card !== card);
      this.#events.emit("left", { card_id: card });
    },
    subscribed: (session, { room, epoch, seq, presence }, saidPlace) => {
      this.#streams.begin(session, { room });
      if (!saidPlace && epoch !== undefined && seq !== undefined) this.#streams.told(session, { room, epoch, seq }, false);
      this.#answers.resolve(`subscribe ${room}`, presence);
      this.#emit("subscribed", { room, presence });
    },
    unsubscribed: (session, room) => {
      if (!this.#link.isInUse(session) || this.#answers.resolve(`unsubscribe ${room}`)) return;
      this.#emit("unsubscribed", { room });
      this.#rooms.delete(room);
    },
    refreshed: (_, expiresIn) => this.#holds(expiresIn),
    refused: (command, error) => this.#refused(command, error),
    entered: (session) => this.#link.entered(session),
    heard: (session, frame) => this.#hear(session, frame),
    lost: (session, loss) => this.#link.lost(session, loss),
  };

  #holds(expiresIn: number | undefined): void {
    this.#tokens.holds(expiresIn, (token) => this.#link.session?.refresh(token));
  }

  #refused(command: string, error: OxipushError): void {
    const { card, room } = error;
    if (room !== undefined) {
      this.#answers.reject(`subscribe ${room}`, error);
      this.#rooms.get(room)?.events.emit("error", error);
      this.#rooms.delete(room);
    } else if (command === "join" && !isPassing(error)) {
      this.#answers.reject(`join ${card}`, error);
      this.#cards = this.#cards.filter((other) => other.card !== card);
    }
    this.#fail(error);
  }

  #hear(session: Session, frame: Heard): void {
    switch (frame.event) {
      case "push":
        return this.#take(session, frame.data);
      case "pushes":
        return frame.data.forEach((push) => this.#take(session, push));
      case "stream":
      case "reset": {
        const isReset = this.#streams.told(session, frame.data, frame.event === "reset");
        this.#events.emit(isReset ? "reset" : "stream", frame.data);
        return;
      }
      case "presence":
        if (this.#link.isInUse(session)) this.#emit("presence", frame.data);
        return;
      case "pushed":
      case "received":
        this.#outbox.answer(frame.data.ref, frame.data.id);
        return;
      case "error": {
        const error = new OxipushError(frame.data.code, frame.data.message);
        if (!this.#outbox.answer(frame.data.ref, error)) this.#fail(error);
        return;
      }
      case "drain":
        this.#events.emit("drain", { milliseconds: frame.data.reconnect_in_ms });
        return this.#link.drained(session, frame.data.reconnect_in_ms);
    }
  }

  #take(session: Session, data: PushData): void {
    const { id, card, room, seq, prev } = data;
    if (seq !== undefined && prev !== undefined) {
      const offer = this.#streams.offer(session, data);
      if (offer === "gap") this.#events.emit("gap", { card, room, seq, prev });
      if (offer !== "next") return;
    }
    const finish = seq === undefined ? () => undefined : this.#streams.finisher(data);
    const isManual = this.#settings.ack === "manual";
    if (this.#ids.add(id)) this.#emit("push", pushOf(data, isManual ? finish : () => undefined));
    if (!isManual) finish();
  }

  /** To the handlers of the client, and to those of the room. */
  #emit<Name extends Exclude<keyof RoomEvents, "error">>(name: Name, event: RoomEvents[Name] & ClientEvents[Name]): void {
    this.#events.emit(name, event);
    if (event.room !== undefined) this.#rooms.get(event.room)?.events.emit(name, event);
  }

  #fail(error: OxipushError): void {
    if (this.#events.emit("error", error) === 0) console.warn("oxipush:", error);
  }

  #end(end: LinkEnd): void {
    this.#stopWatching?.();
    this.#stopWatching = undefined;
    this.#tokens.stop();
    this.#streams.stop();
    const error = new OxipushError("ended", `ended: ${end.reason || end.code}`);
    this.#outbox.end(error);
    this.#answers.rejectAll(error);
    this.#events.emit("closed", end);
  }
}

function cardsOf({ card, cards, app }: Settings): Card[] {
  const named = cards ?? (card === undefined ? [] : [card]);
  if (named.length === 0) return [{ app }];
  return named.map((one) => (typeof one === "string" ? { card: one, app } : { app, ...one }));
}

function pushOf({ encoding, content, ...data }: PushData, ack: () => void): Push {
  const bytes = encoding === "base64" ? Uint8Array.from(atob(content as string), (char) => char.charCodeAt(0)) : undefined;
  return { ...data, content: bytes ?? content, ack };
}

function notIn(room: string): OxipushError {
  return new OxipushError("not_subscribed", "the room was left", { room });
}
