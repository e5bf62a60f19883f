import type { Backoff } from "./backoff.js";
import { OxipushError } from "./errors.js";
import type { Settings, TokenReason } from "./options.js";

/** The longest that a timer takes, in milliseconds. */
const LONGEST = 2 ** 31 - 1;

/** The token of the client, and where another one comes from. */
export class Tokens {
  readonly #settings: Settings;
  readonly #pauses: Backoff;
  readonly #failed: (error: OxipushError) => void;
  #token: string | undefined;
  #reason: TokenReason | undefined;
  /** When the proof ends, and when it was renewed last: milliseconds since 1970. */
  #endsAt = Infinity;
  #renewedAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(settings: Settings, pauses: Backoff, failed: (error: OxipushError) => void) {
    this.#settings = settings;
    this.#pauses = pauses;
    this.#failed = failed;
    this.#token = settings.token;
    if (this.#token === undefined) this.#reason = "connect";
  }

  get current(): string | undefined {
    return this.#token;
  }

  /** Whether there is somebody to ask for another one. */
  get canRenew(): boolean {
    return this.#settings.getToken !== undefined;
  }

  /** The current one is of no use any more. */
  spend(reason: TokenReason): void {
    this.#reason = reason;
  }

  /** Gets one, where there is none that may be of use. Throws where that fails, after telling so. */
  async prepare(): Promise<void> {
    if (Date.now() >= this.#endsAt) this.#reason ??= "expires";
    if (this.#reason && this.canRenew) await this.#renew(this.#reason);
  }

  /** The proof holds for so many seconds: `refresh` is called with another token before. */
  holds(seconds: number | undefined, refresh: (token: string) => void): void {
    this.stop();
    this.#endsAt = seconds === undefined ? Infinity : Date.now() + seconds * 1000;
    if (seconds === undefined || !this.canRenew) return;
    const part = 0.75 + 0.15 * Math.random();
    this.#schedule(Math.max(seconds * 1000 * part, this.#renewedAt + 1000 - Date.now()), refresh);
  }

  /** Nothing is renewed until `holds` says so. */
  stop(): void {
    clearTimeout(this.#timer);
  }

  #schedule(after: number, refresh: (token: string) => void): void {
    const timer = (this.#timer = setTimeout(async () => {
      try {
        const token = await this.#renew("expires");
        if (this.#timer === timer) refresh(token);
      } catch {
        if (this.#timer === timer) this.#schedule(this.#pauses.next(), refresh);
      }
    }, Math.min(after, LONGEST)));
  }

  async #renew(reason: TokenReason): Promise<string> {
    let timer;
    try {
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("no answer in time")), this.#settings.tokenTimeout);
      });
      this.#token = await Promise.race([this.#settings.getToken?.(reason) ?? "", late]);
    } catch (cause) {
      const error = new OxipushError("token", `getToken failed: ${cause}`, { cause });
      this.#failed(error);
      throw error;
    } finally {
      clearTimeout(timer);
    }
    this.#reason = undefined;
    this.#endsAt = Infinity;
    this.#renewedAt = Date.now();
    return this.#token;
  }
}
