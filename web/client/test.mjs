// Bundles the tests, each for itself, and runs them: `npm test [-- NAME…]`. They start the gateway that OXIPUSH_BIN names.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { build } from "esbuild";

const out = ".test";
const wanted = process.argv.slice(2);
const names = readdirSync("test")
  .filter((name) => name.endsWith(".test.ts"))
  .filter((name) => wanted.length === 0 || wanted.some((word) => name.includes(word)));
rmSync(out, { recursive: true, force: true });
await build({
  entryPoints: names.map((name) => `test/${name}`),
  outdir: out,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  external: ["ws", "esbuild"],
  sourcemap: "inline",
  logLevel: "warning",
});
const files = names.map((name) => `${out}/${name.replace(/\.ts$/, ".mjs")}`);
const run = ["--enable-source-maps", "--test", "--test-force-exit", "--test-timeout=300000", "--test-concurrency=2", ...files];
process.exit(spawnSync(process.execPath, run, { stdio: "inherit" }).status ?? 1);
