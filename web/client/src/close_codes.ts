/** Faults of the client: the same would be closed again (docs/close-codes.md). */
const FAULTS = [1002, 1003, 1007, 1010];
/** The gateway, or something before it, is in need. */
const NEEDS = [1011, 1012, 1013, 1014, 3003, 3006];

export const NORMAL = 1000;
/** What a browser says of a connection that was cut. */
export const CUT = 1006;
/** The node drains. */
export const DRAIN = 3000;
export const TOKEN_EXPIRED = 3004;
/** The client was disconnected, and is wanted back. */
export const RECONNECT = 3007;

/** Whether to connect again after a close with this code. */
export function comesBack(code: number): boolean {
  return !(code >= 3500 && code < 4000) && !FAULTS.includes(code);
}

/** The bound of the first pause in milliseconds, where the code asks for another than usual. */
export function firstPause(code: number): number | undefined {
  return NEEDS.includes(code) ? 5000 : undefined;
}
