import type { Emitter } from "./emitter.js";
import type { RoomEvents } from "./events.js";
import type { Presence, PresenceChange } from "./protocol.js";

/** What a room needs of its client. */
export interface RoomOwner {
  push(content: unknown, options: { echo?: boolean }): Promise<string>;
  leave(): Promise<void>;
  /** Subscribes once more, and gives who is there. */
  who(): Promise<Presence | undefined>;
}

/** A room that the client is subscribed to, on each connection anew. Made by `client.room(name)`. */
export class Room {
  readonly name: string;
  /** Resolves with who is there once it is subscribed to; rejects where the gateway refuses that, or the client ends. */
  readonly ready: Promise<Presence | undefined>;
  readonly #events: Emitter<RoomEvents>;
  readonly #owner: RoomOwner;
  #presence: Presence | undefined;

  /** @internal */
  constructor(name: string, events: Emitter<RoomEvents>, owner: RoomOwner, ready: Promise<Presence | undefined>) {
    this.name = name;
    this.#events = events;
    this.#owner = owner;
    this.ready = ready;
    events.on("subscribed", ({ presence }) => (this.#presence = presence));
    events.on("presence", (change) => this.#changed(change));
  }

  /**
   * Who is there, where the gateway tells it of this room: as of the subscription, and kept by what came since. A card that is on
   * two nodes leaves with the first of them; of more than 100 cards not all are named. `who()` asks anew.
   */
  get presence(): Presence | undefined {
    return this.#presence;
  }

  /** Adds a handler; gives what takes it away again. */
  on<Name extends keyof RoomEvents>(name: Name, handler: (event: RoomEvents[Name]) => void): () => void {
    return this.#events.on(name, handler);
  }

  off<Name extends keyof RoomEvents>(name: Name, handler: (event: RoomEvents[Name]) => void): void {
    this.#events.off(name, handler);
  }

  /** Pushes to the room, where the gateway lets the client; gives the push's id. With `echo` the client gets it, too. */
  push(content: unknown, options: { echo?: boolean } = {}): Promise<string> {
    return this.#owner.push(content, options);
  }

  /** Asks the gateway who is there. */
  who(): Promise<Presence | undefined> {
    return this.#owner.who();
  }

  /** Unsubscribes, and forgets the place in the room's stream. */
  leave(): Promise<void> {
    return this.#owner.leave();
  }

  #changed({ card_id, action }: PresenceChange): void {
    if (!this.#presence) return;
    const { count, cards } = this.#presence;
    const others = cards.filter((card) => card !== card_id);
    const isNamed = others.length < cards.length;
    if (action === "join" && !isNamed) {
      this.#presence = { ...this.#presence, count: count + 1, cards: [...cards, card_id].slice(0, 100) };
    } else if (action === "leave") {
      this.#presence = { ...this.#presence, count: Math.max(0, count - 1), cards: others };
    }
  }
}

