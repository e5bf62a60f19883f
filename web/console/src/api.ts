/** Where the key is kept: for as long as the tab is open, and nowhere else. */
const KEY = "oxipush.console.key";

/** An answer that is a refusal, or none at all. */
export class ApiError extends Error {
  constructor(
    /** HTTP's; 0: there was no answer. */
    readonly status: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

export function hasKey(): boolean {
  return sessionStorage.getItem(KEY) !== null;
}

/** Sends this key from now on; none: it is forgotten. */
export function useKey(key: string | undefined): void {
  if (key === undefined) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** A path of these parts, each percent-encoded. */
export function path(...parts: string[]): string {
  return parts.map((part) => `/${encodeURIComponent(part)}`).join("");
}

/** Calls the gateway. Throws an `ApiError`. */
export async function call(url: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key !== null) headers.set("authorization", `Bearer ${key}`);
  let answer: Response;
  try {
    answer = await fetch(url, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "away", "the gateway does not answer");
  }
  if (answer.ok) return answer;
  const refusal: { reason?: string; message?: string } = await answer.json().catch(() => ({}));
  throw new ApiError(answer.status, refusal.reason ?? "", refusal.message ?? `status ${answer.status}`);
}

export async function getJson<T>(url: string): Promise<T> {
  return (await call(url)).json() as Promise<T>;
}

export async function postJson<T>(url: string, body: unknown): Promise<T> {
  const answer = await call(url, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });
  return answer.json() as Promise<T>;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
