import { Connection, type Loss } from "./connection.js";
import { asksForToken, type ErrorSubject, OxipushError } from "./errors.js";
import type { Settings } from "./options.js";
import type { ErrorData, Heard, JoinedData, Place, SubscribedData } from "./protocol.js";

/** A card to join; without a name it is the one that the token names. */
export interface Card {
  card?: string;
  app?: string;
}

/** What a session asks of the client, and tells it. */
export interface SessionOwner {
  cards(): Card[];
  rooms(): string[];
  token(): string | undefined;
  /** Whether there is somebody to ask for another token. */
  canRenewToken(): boolean;
  renewToken(): Promise<void>;
  /** Where to go on in a stream; `undefined`: wherever the gateway says. */
  placeOf(about: ErrorSubject): Place | undefined;
  /** The client's name for acknowledgements, where the gateway stores pushes. */
  device(): string | undefined;
  /** The gateway stores no pushes: it wants neither place nor device. */
  storesNothing(error: OxipushError): void;

  joined(session: Session, data: JoinedData, asked: Card | undefined): void;
  left(session: Session, card: string | undefined): void;
  /** With `saidPlace` the gateway tells by another event whether that place holds. */
  subscribed(session: Session, data: SubscribedData, saidPlace: boolean): void;
  unsubscribed(session: Session, room: string): void;
  refreshed(session: Session, expiresIn: number | undefined): void;
  refused(command: "join" | "subscribe" | "refresh", error: OxipushError): void;
  /** All cards and rooms were answered, and a card is joined. */
  entered(session: Session): void;
  /** Whatever else came. */
  heard(session: Session, frame: Heard): void;
  lost(session: Session, loss: Loss): void;
}

/** A message that the gateway answers, in the order in which they come. */
interface Command {
  event: "join" | "refresh" | "leave" | "subscribe" | "unsubscribe";
  data: Record<string, unknown>;
  about: Card & { room?: string };
}

const COMMANDS: Record<string, Command["event"]> = {
  joined: "join",
  refreshed: "refresh",
  left: "leave",
  subscribed: "subscribe",
  unsubscribed: "unsubscribe",
};

/** One connection, joined to cards and subscribed to rooms. */
export class Session {
  readonly #connection: Connection;
  readonly #settings: Settings;
  readonly #owner: SessionOwner;
  readonly #commands: Command[] = [];
  readonly #cards = new Map<string, Card>();
  #state: "opening" | "joining" | "subscribing" | "entered" = "opening";
  /** The next join brings what only the first one may. */
  #isFirstJoin = true;
  /** Cards that another token may let in, and whether one was asked for. */
  #unproved: Card[] = [];
  #askedForToken = false;
  #refusal: OxipushError | undefined;

  /** Connects. Throws what the WebSocket throws. */
  constructor(settings: Settings, owner: SessionOwner) {
    this.#settings = settings;
    this.#owner = owner;
    this.#connection = new Connection(settings, {
      opened: () => this.#join(),
      heard: (frame) => this.#hear(frame),
      lost: (loss) => owner.lost(this, loss),
    });
  }

  get hasEntered(): boolean {
    return this.#state === "entered";
  }

  /** Joins a card, with where to go on in its stream. One that has not opened yet joins what the owner names by then. */
  join(card: Card): void {
    if (this.#state === "opening") return;
    const { merge } = this.#settings;
    const first = this.#isFirstJoin ? { token: this.#owner.token(), merge: merge || undefined } : {};
    this.#isFirstJoin = false;
    const resume = card.card === undefined ? undefined : this.#owner.placeOf(card);
    this.#command("join", { card_id: card.card, app_id: card.app, ...first, device: this.#owner.device(), resume }, card);
  }

  /** Joins a card that it is in once more, to go on from where it is. */
  rejoin(name: string): void {
    const card = this.#cards.get(name);
    if (card) this.join(card);
  }

  leave(card: string): void {
    if (this.#cards.has(card)) this.#command("leave", { card_id: card }, { card });
  }

  /** Subscribes to a room, with where to go on in its stream. One that has joined nothing yet subscribes to what the owner names by then. */
  subscribe(room: string): void {
    if (!this.#mayHaveRooms) return;
    this.#command("subscribe", { room, resume: this.#owner.placeOf({ room }) }, { room });
  }

  unsubscribe(room: string): void {
    if (this.#mayHaveRooms) this.#command("unsubscribe", { room }, { room });
  }

  refresh(token: string): void {
    this.#command("refresh", { token }, {});
  }

  /** `false`: it is not open. */
  send(frame: object): boolean {
    return this.#connection.send(frame);
  }

  /** Asks whether it lives. */
  probe(): void {
    if (this.hasEntered) this.#connection.probe();
  }

  close(): void {
    this.#connection.close();
  }

  giveUp(reason: string): void {
    this.#connection.giveUp(reason);
  }

  get #mayHaveRooms(): boolean {
    return this.#state === "subscribing" || this.#state === "entered";
  }

  #join(): void {
    this.#state = "joining";
    for (const card of this.#owner.cards()) this.join(card);
    this.#progress();
  }

  #command(event: Command["event"], data: Record<string, unknown>, about: Command["about"]): void {
    this.#commands.push({ event, data, about });
    this.#connection.send({ event, data });
  }

  #hear(frame: Heard): void {
    const command = this.#commandOf(frame);
    switch (frame.event) {
      case "joined":
        this.#cards.set(frame.data.card_id, { ...command?.about, card: frame.data.card_id });
        this.#owner.joined(this, frame.data, command?.about);
        break;
      case "left":
        if (frame.data) this.#cards.delete(frame.data.card_id);
        else this.#cards.clear();
        this.#owner.left(this, frame.data?.card_id);
        break;
      case "subscribed":
        this.#owner.subscribed(this, frame.data, command?.data.resume !== undefined);
        break;
      case "unsubscribed":
        this.#owner.unsubscribed(this, frame.data.room);
        break;
      case "refreshed":
        this.#owner.refreshed(this, frame.data.expires_in);
        break;
      case "error":
        if (command) this.#failed(command, frame.data);
        else this.#owner.heard(this, frame);
        break;
      default:
        this.#owner.heard(this, frame);
    }
    if (command) this.#progress();
  }

  /** The command that a frame answers. */
  #commandOf(frame: Heard): Command | undefined {
    const [oldest] = this.#commands;
    return oldest && answers(frame, oldest) ? this.#commands.shift() : undefined;
  }

  #failed({ event, data, about }: Command, { code, message }: ErrorData): void {
    const error = new OxipushError(code, message, about);
    if (code === "unsupported" && (data.device !== undefined || data.resume !== undefined)) {
      this.#owner.storesNothing(error);
      if (event === "subscribe") return this.subscribe(about.room as string);
      this.#isFirstJoin = data.token !== undefined || data.merge !== undefined;
      return this.join(about);
    }
    if (event === "join") {
      if (asksForToken(error) && this.#owner.canRenewToken() && !this.#askedForToken) {
        this.#unproved.push(about);
        return;
      }
      this.#refusal = error;
    }
    // it is not in what it was to leave
    if (event === "leave") this.#owner.left(this, about.card);
    else if (event === "unsubscribe") this.#owner.unsubscribed(this, about.room as string);
    else this.#owner.refused(event, error);
  }

  /** Goes on with entering once all that was said so far is answered. */
  #progress(): void {
    if (this.#commands.length > 0 || this.hasEntered) return;
    if (this.#state === "joining") {
      if (this.#unproved.length > 0) return void this.#joinWithAnotherToken();
      if (this.#cards.size === 0) return this.#connection.giveUp("no card", this.#refusal);
      this.#state = "subscribing";
      for (const room of this.#owner.rooms()) this.subscribe(room);
      if (this.#commands.length > 0) return;
    }
    this.#state = "entered";
    this.#connection.settle();
    this.#owner.entered(this);
  }

  async #joinWithAnotherToken(): Promise<void> {
    this.#askedForToken = true;
    const cards = this.#unproved.splice(0);
    try {
      await this.#owner.renewToken();
    } catch {
      return this.#connection.giveUp("no token");
    }
    this.#isFirstJoin = true;
    for (const card of cards) this.join(card);
  }
}

/** Whether a frame answers the oldest command that waits. */
function answers(frame: Heard, { event, about: { card, room } }: Command): boolean {
  // others are about pushes and messages, or acknowledgements, which have no answer
  if (frame.event === "error") return frame.data.ref === undefined && frame.data.code !== "bad_ack";
  if (COMMANDS[frame.event] !== event) return false;
  // a token that gives something up takes the client out of it unasked
  if (frame.event === "left") return frame.data?.card_id === card;
  return frame.event !== "unsubscribed" || frame.data.room === room;
}
