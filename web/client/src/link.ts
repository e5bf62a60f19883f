import type { Backoff } from "./backoff.js";
import { DRAIN, RECONNECT, TOKEN_EXPIRED, comesBack, firstPause } from "./close_codes.js";
import type { Loss } from "./connection.js";
import { isPassing, OxipushError } from "./errors.js";
import type { Settings } from "./options.js";
import type { Session } from "./session.js";

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

export interface LinkListener {
  /** Gets ready what a session needs. */
  prepare(): Promise<void>;
  /** Whether another token can be had. */
  canRenewToken(): boolean;
  spendToken(): void;
  open(): Session;
  changed(state: LinkState, previous: LinkState): void;
  /** The session is in use from now on. */
  entered(session: Session): void;
  /** It is in use no more; `waits` milliseconds until the next try, or `undefined`: there is another one already. */
  lost(session: Session, loss: Loss, waits: number | undefined): void;
  /** Answers are awaited from the session. */
  awaits(session: Session): boolean;
  ended(end: LinkEnd): void;
}

/** The longest that a Retry-After is followed, and the shortest time between two tries because the network is back. */
const MAX_RETRY_AFTER = 60_000;
const WAKE_EVERY = 5000;

/** The way to the gateway: connects, comes back, and changes over to a second connection where a node drains. */
export class Link {
  readonly #settings: Settings;
  readonly #pauses: Backoff;
  readonly #listener: LinkListener;
  #state: LinkState = "idle";
  /** The one in use, or that is to be; the one that is to take its place; the one whose place was taken. */
  #session: Session | undefined;
  #next: Session | undefined;
  #old: Session | undefined;
  /** What drains, and when it will be closed: milliseconds from `drain` on. */
  #drains = new WeakMap<Session, number>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #oldTimer: ReturnType<typeof setTimeout> | undefined;
  /** What began in another round is of no use any more. */
  #round = 0;
  #wokeAt = -Infinity;

  constructor(settings: Settings, pauses: Backoff, listener: LinkListener) {
    this.#settings = settings;
    this.#pauses = pauses;
    this.#listener = listener;
  }

  get state(): LinkState {
    return this.#state;
  }

  /** The session in use. */
  get session(): Session | undefined {
    return this.#state === "joined" ? this.#session : undefined;
  }

  /** Whether presence and the like count that it brings. */
  isInUse(session: Session): boolean {
    return session === this.#session;
  }

  /** All that are open. */
  get sessions(): Session[] {
    return [this.#session, this.#next].filter((session) => session !== undefined);
  }

  open(): void {
    if (this.#state !== "idle" && this.#state !== "ended") return;
    this.#pauses.reset();
    this.#connect();
  }

  close(end: LinkEnd): void {
    if (this.#state === "ended") return;
    this.#round++;
    clearTimeout(this.#timer);
    clearTimeout(this.#oldTimer);
    for (const session of [...this.sessions, this.#old]) session?.close();
    this.#session = this.#next = this.#old = undefined;
    this.#become("ended");
    this.#listener.ended(end);
  }

  /** The network may be back, or the page is seen again: tries now what waits, and asks the connection whether it lives. */
  wake(): void {
    if (Date.now() - this.#wokeAt < WAKE_EVERY) return;
    this.#wokeAt = Date.now();
    if (this.#state === "waiting") this.#connect();
    else this.session?.probe();
  }

  /** A session's node leaves, and closes it so many milliseconds later. */
  drained(session: Session, milliseconds: number): void {
    this.#drains.set(session, milliseconds);
    if (session === this.session && !this.#next) this.#replaceAfter((Math.random() * milliseconds) / 2);
  }

  /** A session has joined and subscribed. */
  entered(session: Session): void {
    if (session === this.#next) {
      this.#retire(this.#session);
      this.#session = session;
      this.#next = undefined;
    }
    clearTimeout(this.#timer);
    this.#become("joined");
    // a handler may have closed it
    if (!this.session) return;
    this.#listener.entered(session);
    const drain = this.#drains.get(session);
    if (drain !== undefined) return this.drained(session, drain);
    this.#timer = setTimeout(() => this.#pauses.reset(), this.#settings.stableAfter);
  }

  lost(session: Session, loss: Loss): void {
    if (session === this.#old) {
      this.#old = undefined;
      return this.#listener.lost(session, loss, undefined);
    }
    const end = this.#endOf(loss);
    if (end) {
      this.#listener.lost(session, loss, undefined);
      return this.close(end);
    }
    if (loss.code === TOKEN_EXPIRED) this.#listener.spendToken();
    if (session === this.#next) {
      this.#next = undefined;
      this.#listener.lost(session, loss, undefined);
      return this.#replaceAfter(this.#pauseAfter(session, loss));
    }
    if (session !== this.#session) return;
    this.#round++;
    clearTimeout(this.#timer);
    this.#session = this.#next;
    this.#next = undefined;
    if (this.#session) {
      this.#become("connecting");
      return this.#listener.lost(session, loss, undefined);
    }
    const pause = this.#pauseAfter(session, loss);
    this.#become("waiting");
    this.#listener.lost(session, loss, pause);
    this.#connectAfter(pause);
  }

  #connectAfter(pause: number): void {
    // a handler may have closed it
    if (this.#state === "waiting") this.#timer = setTimeout(() => this.#connect(), pause);
  }

  #connect(): void {
    clearTimeout(this.#timer);
    this.#become("connecting");
    void this.#start((session) => (this.#session = session));
  }

  #replaceAfter(pause: number): void {
    clearTimeout(this.#timer);
    if (this.#state !== "joined") return;
    this.#timer = setTimeout(() => void this.#start((session) => (this.#next = session)), pause);
  }

  async #start(put: (session: Session) => void): Promise<void> {
    const round = ++this.#round;
    try {
      await this.#listener.prepare();
    } catch {
      if (round !== this.#round) return;
      const pause = this.#pauses.next();
      if (this.#session) return this.#replaceAfter(pause);
      this.#become("waiting");
      return this.#connectAfter(pause);
    }
    if (round !== this.#round) return;
    try {
      put(this.#listener.open());
    } catch (cause) {
      const error = new OxipushError("no_socket", `no WebSocket: ${cause}`, { cause });
      this.close({ reason: error.message, error });
    }
  }

  /** Its place was taken: it is read on for a while, since a push may come by it later than by the other. */
  #retire(session: Session | undefined): void {
    this.#old?.close();
    clearTimeout(this.#oldTimer);
    this.#old = session;
    const close = () => {
      if (session && this.#listener.awaits(session)) return wait();
      session?.close();
      this.#old = undefined;
    };
    const wait = () => (this.#oldTimer = setTimeout(close, this.#settings.drainOverlap));
    wait();
  }

  /** `undefined`: it comes back. */
  #endOf({ code, reason, error }: Loss): LinkEnd | undefined {
    if (error) return isPassing(error) ? undefined : { reason, error };
    if (code === TOKEN_EXPIRED && this.#listener.canRenewToken()) return undefined;
    return code === TOKEN_EXPIRED || !comesBack(code) ? { code, reason } : undefined;
  }

  #pauseAfter(session: Session, { code, retryAfter = 0 }: Loss): number {
    if (code === DRAIN) return this.#drains.has(session) ? 0 : this.#pauses.within(1000);
    if (code === RECONNECT) return this.#pauses.within(5000);
    return Math.max(this.#pauses.next(firstPause(code)), Math.min(retryAfter, MAX_RETRY_AFTER));
  }

  #become(state: LinkState): void {
    const previous = this.#state;
    if (state === previous) return;
    this.#state = state;
    this.#listener.changed(state, previous);
  }
}
