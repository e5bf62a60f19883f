import type { Session } from "./session.js";
import { NO_EPOCH, type Place, type PushData, type StreamPosition } from "./protocol.js";

/** What a stored push is: the next one, a copy, or one behind a gap. `passed`: it will come again. */
export type Offer = "next" | "copy" | "gap" | "passed";

/** How much the client has of the stream of one card or room. It is read from one connection at a time, its reader. */
export class Stream {
  /** All up to here was handed over; up to `done` it was finished, too. One object where that is the same. */
  #place: Place | undefined;
  #done: Place | undefined;
  #reader: Session | undefined;
  /** What is being sent is passed over until the gateway tells where it goes on. */
  #waits = false;
  /** What was kept is still being read; whether a push was passed over meanwhile. */
  #held = false;
  #missed = false;
  #gaps = 0;
  /** What the reader was sent, and what was acknowledged to it. */
  #sent = 0;
  #acked = 0;

  get place(): Place | undefined {
    return this.#place;
  }

  /** What is to be kept over page loads. */
  get done(): Place | undefined {
    return this.#done;
  }

  /** Gaps since the last push that was taken. */
  get gaps(): number {
    return this.#gaps;
  }

  /** Goes on from what was kept. */
  restore(place: Place): void {
    this.#place = this.#done = place;
  }

  /** Passes pushes over until the gateway tells where it goes on. */
  wait(): void {
    this.#waits = true;
  }

  /** Passes pushes over until `release`: what was kept is still being read. */
  hold(): void {
    this.#held = true;
    this.#missed = false;
  }

  get isHeld(): boolean {
    return this.#held;
  }

  /** What was kept was read, and goes before what the gateway told; `true`: the gateway has to be told where to go on. */
  release(kept: Place | undefined): boolean {
    this.#held = false;
    if (kept) this.restore(kept);
    return kept !== undefined || this.#missed;
  }

  /** By which its stored pushes come. */
  get reader(): Session | undefined {
    return this.#reader;
  }

  /** `reader` is in the card or room: stored pushes count that it brings. */
  begin(reader: Session): void {
    if (this.#reader === reader) return;
    this.#reader = reader;
    this.#waits = false;
    // an acknowledgement may have been lost with the connection before
    this.#sent = this.#acked = 0;
  }

  /** Nothing is told of a stream in which nothing was stored: all of it is still to come. */
  beginEmpty(): void {
    if (!this.#place) this.restore({ epoch: NO_EPOCH, seq: 0 });
  }

  /** The gateway says where the reader stands; `true`: the client's own place held no more. */
  told({ epoch, seq }: Pick<StreamPosition, "epoch" | "seq">, reset: boolean): boolean {
    const had = this.#place;
    this.#waits = false;
    this.#sent = seq;
    const other = reset || had?.epoch !== epoch;
    if (!other && had.seq >= seq) return false;
    const finished = other || this.#done === had;
    // what was not for this client needs no acknowledgement
    if (finished && (other || this.#acked >= had.seq)) this.#acked = seq;
    this.#place = { epoch, seq };
    if (finished) this.#done = this.#place;
    return reset && had !== undefined && had.epoch !== NO_EPOCH;
  }

  /** A stored push came by `reader`. */
  offer(reader: Session, { id, seq = 0, prev = 0 }: PushData): Offer {
    this.#missed = true;
    if (this.#reader !== reader || this.#waits || this.#held) return "passed";
    this.beginEmpty();
    const had = this.#place as Place;
    this.#sent = Math.max(this.#sent, seq);
    if (seq <= had.seq) return "copy";
    if (prev > had.seq) {
      this.#waits = true;
      this.#gaps++;
      return "gap";
    }
    this.#place = { epoch: had.epoch, seq, id };
    this.#gaps = 0;
    return "next";
  }

  /** The client has done with all up to `place`, which it was given; `false`: that was known, or is of another numbering. */
  finish(place: Place): boolean {
    if (!this.#done || place.epoch !== this.#done.epoch || place.seq <= this.#done.seq) return false;
    this.#done = place;
    return true;
  }

  /** What is to be acknowledged now: the reader refuses what it was not sent. */
  get unacknowledged(): { seq: number; epoch: string } | undefined {
    const { epoch, seq: done } = this.#done ?? { epoch: NO_EPOCH, seq: 0 };
    const seq = Math.min(done, this.#sent);
    return seq > this.#acked ? { seq, epoch } : undefined;
  }

  acknowledged(seq: number): void {
    this.#acked = seq;
  }
}
