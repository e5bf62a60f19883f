// Does jobs out of the stream of a card, one after the other: node node_worker.mjs ws://127.0.0.1:8080/ws jobs
// A job is acknowledged once it is done. One that the process died in comes again, to the next process of this device.
import { Oxipush, type Push } from "oxipush";
import { WebSocket } from "ws"; // Node 22 has one of its own

const [url = "ws://127.0.0.1:8080/ws", card = "jobs"] = process.argv.slice(2);
const client = new Oxipush(url, { card, device: "worker-1", ack: "manual", WebSocket });

let last = Promise.resolve();
client.on("push", (push) => {
  last = last.then(() => work(push));
});
client.on("error", (error) => console.error(error.code, error.message));
client.on("closed", ({ code, reason }) => {
  if (code === 1000) return;
  console.error("ended:", code, reason);
  process.exitCode = 1;
});
process.once("SIGTERM", () => void last.then(() => client.close()));

async function work(push: Push): Promise<void> {
  console.log("done:", JSON.stringify(push.content));
  push.ack();
}
