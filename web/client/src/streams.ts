import type { OxipushError, ErrorSubject } from "./errors.js";
import type { Settings } from "./options.js";
import { Places } from "./places.js";
import type { Place, PushData, StreamPosition } from "./protocol.js";
import type { Session } from "./session.js";
import { type Offer, Stream } from "./stream.js";

/** The streams of the client's cards and rooms: what is kept of them, and what is acknowledged. */
export class Streams {
  readonly #settings: Settings;
  readonly #places: Places;
  readonly #streams = new Map<string, Stream>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** `false`: the gateway stores no pushes. */
  stores = true;

  constructor(settings: Settings, failed: (error: OxipushError) => void) {
    this.#settings = settings;
    this.#places = new Places(settings.storage, `${settings.storageKey} `, failed);
  }

  /** Reads what was kept of a stream, unless it is known. */
  async load(about: ErrorSubject): Promise<void> {
    const key = keyOf(about);
    if (this.#streams.has(key)) return;
    const kept = await this.#places.load(key);
    if (kept && !this.#streams.has(key)) this.#of(about).restore(kept);
  }

  /** A card that the gateway named is joined: reads what was kept of it, and goes on from there. */
  async named(session: Session, card: string): Promise<void> {
    if (!this.#settings.storage || this.placeOf({ card })) return;
    const stream = this.#of({ card });
    stream.hold();
    const goesOn = stream.release(await this.#places.load(keyOf({ card })));
    if (stream.reader !== session) return;
    this.begin(session, { card });
    if (goesOn) session.rejoin(card);
  }

  placeOf(about: ErrorSubject): Place | undefined {
    return this.stores ? this.#streams.get(keyOf(about))?.place : undefined;
  }

  /** The session is in a card or room: its stored pushes count. */
  begin(session: Session, about: ErrorSubject): void {
    const stream = this.#of(about);
    stream.begin(session);
    if (this.stores && !stream.place && !stream.isHeld) {
      stream.beginEmpty();
      this.#save(about, stream);
    }
    this.#schedule();
  }

  /** The client left it. */
  forget(about: ErrorSubject): void {
    this.#streams.delete(keyOf(about));
    this.#places.save(keyOf(about), undefined);
  }

  /** The gateway says where the session stands; `true`: something may be missing, or come twice. */
  told(session: Session, position: Pick<StreamPosition, "card" | "room" | "epoch" | "seq">, reset: boolean): boolean {
    const stream = this.#of(position);
    if (stream.reader !== session) return false;
    const had = stream.done;
    const isReset = stream.told(position, reset);
    if (stream.done !== had && !stream.isHeld) this.#save(position, stream);
    this.#schedule();
    return isReset;
  }

  /** A stored push came. Of a gap the session is asked to close it. */
  offer(session: Session, push: PushData): Offer {
    const stream = this.#of(push);
    const offer = stream.offer(session, push);
    if (offer === "copy") this.#schedule();
    if (offer === "gap") {
      if (stream.gaps >= this.#settings.maxGaps) session.giveUp("gaps");
      else if (push.room === undefined) session.rejoin(push.card as string);
      else session.subscribe(push.room);
    }
    return offer;
  }

  /** What says later that all up to the push that was just taken is done. */
  finisher(push: PushData): () => void {
    const stream = this.#of(push);
    const place = stream.place as Place;
    return () => {
      // a stream that was left, and begun anew, has other places
      if (this.#streams.get(keyOf(push)) !== stream || !stream.finish(place)) return;
      this.#save(push, stream);
      this.#schedule();
    };
  }

  /** Acknowledges at once what is done. */
  acknowledge(): void {
    this.stop();
    if (!this.stores) return;
    for (const [key, stream] of this.#streams) {
      const ack = key.startsWith("card ") ? stream.unacknowledged : undefined;
      if (ack && stream.reader?.send({ event: "ack", data: { card: key.slice(5), ...ack } })) stream.acknowledged(ack.seq);
    }
  }

  /** Nothing is acknowledged until something else is done. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #schedule(): void {
    if (this.#settings.device !== undefined) this.#timer ??= setTimeout(() => this.acknowledge(), this.#settings.ackEvery);
  }

  #save(about: ErrorSubject, stream: Stream): void {
    this.#places.save(keyOf(about), stream.done);
  }

  #of(about: ErrorSubject): Stream {
    const key = keyOf(about);
    let stream = this.#streams.get(key);
    if (!stream) this.#streams.set(key, (stream = new Stream()));
    return stream;
  }
}

function keyOf({ card, room }: ErrorSubject): string {
  return room === undefined ? `card ${card}` : `room ${room}`;
}
