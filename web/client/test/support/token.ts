import { createHmac } from "node:crypto";

export const SECRET = "a secret for tests, of 32 bytes or more";

/** A JWT of HS256 that ends so many seconds from now. */
export function tokenOf(claims: object, seconds: number): string {
  const now = Math.floor(Date.now() / 1000);
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iat: now, exp: now + seconds, ...claims })}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
}
