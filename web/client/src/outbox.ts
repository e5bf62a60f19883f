import { OxipushError } from "./errors.js";
import type { Settings } from "./options.js";
import type { Session } from "./session.js";

/** A push or message of the client that waits for its answer. */
interface Letter {
  text: string;
  frame: object;
  done: (outcome: string | OxipushError) => void;
  session?: Session;
}

/** The client's own pushes and messages: so many wait for their answers at once, others for their turn. */
export class Outbox {
  readonly #settings: Settings;
  readonly #queue: number[] = [];
  readonly #letters = new Map<number, Letter>();
  #ref = 0;
  #session: Session | undefined;
  #end: OxipushError | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** How many may be sent, as of when. */
  #credit: number;
  #creditAt = Date.now();

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#credit = settings.maxBurst;
  }

  /** Where to send from now on; `undefined`: nowhere. */
  use(session: Session | undefined): void {
    this.#session = session;
    this.#end = undefined;
    this.#credit = this.#settings.maxBurst;
    if (!session) for (const ref of [...this.#queue]) this.answer(ref, new OxipushError("not_connected", "nothing is joined"));
  }

  /** Sends it with a `ref`, once it may; gives the id that the gateway gave it. */
  send(frameOf: (ref: number) => object): Promise<string> {
    const { maxQueued, maxMessage, answerTimeout } = this.#settings;
    return new Promise((resolve, reject) => {
      const refuse = (code: string, message: string) => reject(new OxipushError(code, message));
      if (this.#end) return reject(this.#end);
      if (!this.#session) return refuse("not_connected", "nothing is joined");
      if (this.#queue.length >= maxQueued) return refuse("queue_full", "too many wait (maxQueued)");
      const ref = ++this.#ref;
      const frame = frameOf(ref);
      const text = JSON.stringify(frame);
      // a character is up to three bytes
      if (text.length * 3 > maxMessage && new TextEncoder().encode(text).length > maxMessage) {
        return refuse("too_large", "too many bytes (maxMessage)");
      }
      const timer = setTimeout(() => refuse("timeout", "no answer in time; it may have arrived"), answerTimeout);
      const done = (outcome: string | OxipushError) => {
        clearTimeout(timer);
        if (typeof outcome === "string") resolve(outcome);
        else reject(outcome);
      };
      this.#letters.set(ref, { text, frame, done });
      this.#queue.push(ref);
      this.#flush();
    });
  }

  /** The answer to one came; `false`: it is not known. */
  answer(ref: unknown, outcome: string | OxipushError): boolean {
    const letter = this.#letters.get(ref as number);
    if (!letter) return false;
    this.#letters.delete(ref as number);
    const waits = this.#queue.indexOf(ref as number);
    if (waits >= 0) this.#queue.splice(waits, 1);
    letter.done(outcome);
    this.#flush();
    return true;
  }

  /** Whether an answer is awaited from it. */
  awaits(session: Session): boolean {
    return [...this.#letters.values()].some((letter) => letter.session === session);
  }

  /** What it was asked has an unknown fate. */
  lost(session: Session): void {
    for (const [ref, letter] of [...this.#letters]) {
      if (letter.session !== session) continue;
      this.answer(ref, new OxipushError("connection_lost", "lost before the answer came; it may have arrived"));
    }
  }

  /** All that is awaited fails. */
  end(error: OxipushError): void {
    clearTimeout(this.#timer);
    this.#session = undefined;
    this.#end = error;
    for (const ref of [...this.#letters.keys()]) this.answer(ref, error);
  }

  #flush(): void {
    const { maxPending, maxPerSecond, maxBurst } = this.#settings;
    const now = Date.now();
    this.#credit = Math.min(maxBurst, this.#credit + (Math.max(0, now - this.#creditAt) / 1000) * maxPerSecond);
    this.#creditAt = now;
    clearTimeout(this.#timer);
    while (this.#session && this.#queue.length > 0 && this.#letters.size - this.#queue.length < maxPending) {
      if (this.#credit < 1) {
        this.#timer = setTimeout(() => this.#flush(), 1000 / maxPerSecond);
        return;
      }
      this.#credit--;
      const letter = this.#letters.get(this.#queue.shift() as number) as Letter;
      letter.session = this.#session;
      this.#session.send(letter.frame);
    }
  }
}
