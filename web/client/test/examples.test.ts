// The example of a Node worker, and the built module without the package ws, as programs.
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

test("the built module works with the global WebSocket, which Node 22 has by itself", async () => {
  const gateway = await Gateway.start();
  await gateway.store("alice", "for the global one");
  const program = `
    import { Oxipush } from ${JSON.stringify(`file://${resolve("dist/oxipush.mjs")}`)};
    const client = new Oxipush(${JSON.stringify(gateway.url)}, { card: "alice", device: "phone" });
    client.on("push", ({ content }) => { console.log(content); setTimeout(() => client.close()); });
  `;
  const node = spawn(process.execPath, ["--experimental-websocket", "--input-type=module", "-e", program], { stdio: ["ignore", "pipe", "inherit"] });
  const said = new Inbox<string>();
  node.stdout.on("data", (text) => said.put(String(text)));
  assert.equal(await new Promise((done) => node.on("exit", done)), 0);
  assert.equal(said.items.join(""), "for the global one\n");
  await gateway.acknowledged("alice", "phone", 1);
  await gateway.stop();
});
