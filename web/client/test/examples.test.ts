// The example of a Node worker, run as a program.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { test } from "node:test";
import { build } from "esbuild";
import { Gateway } from "./support/gateway.js";
import { Inbox } from "./support/inbox.js";

test("the worker does each job once, over two lives", async () => {
  const gateway = await Gateway.start();
  const out = ".test/example";
  mkdirSync(out, { recursive: true });
  await build({
    entryPoints: ["../examples/node_worker.mts"],
    outfile: `${out}/node_worker.mjs`,
    bundle: true,
    platform: "node",
    format: "esm",
    alias: { oxipush: resolve("dist/oxipush.mjs") },
    external: ["ws"],
  });
  for (const life of [1, 2]) {
    await gateway.store("jobs", `job ${life}`);
    const worker = spawn(process.execPath, [`${out}/node_worker.mjs`, gateway.url, "jobs"], { stdio: ["ignore", "pipe", "inherit"] });
    const said = new Inbox<string>();
    worker.stdout.on("data", (text) => said.put(String(text)));
    await said.until((items) => items.join("") === `done: "job ${life}"\n`);
    await gateway.acknowledged("jobs", "worker-1", life);
    const ended = new Promise((done) => worker.on("exit", done));
    worker.kill("SIGTERM");
    assert.equal(await ended, 0);
  }
  rmSync(out, { recursive: true });
  await gateway.stop();
});
