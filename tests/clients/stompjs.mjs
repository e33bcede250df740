// A client of Node's @stomp/stompjs, driven by tests/processes/clients.rs.
//
// publish HOST PORT QUEUE COUNT PREFIX   sends COUNT messages, waits for every RECEIPT, prints `confirmed COUNT COPIES`
// consume HOST PORT QUEUE COUNT          acknowledges until COUNT different bodies came, prints each body on a line
//
// stompjs speaks WebSocket by nature: with RHIZOMQ_TEST_WS in the environment, to that URL (Node 20 needs
// --experimental-websocket for it). Else it is given a plain TCP socket in the form of one.

import net from "node:net";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.RHIZOMQ_TEST_STOMPJS, "index.js"));
const { Client } = require("@stomp/stompjs");

const PATIENCE_MS = 120_000;
const [command, host, port, queue, countText, prefix] = process.argv.slice(2);
const count = Number(countText);

function fail(reason) {
  console.error(`stompjs client: ${reason}`);
  process.exit(1);
}

/** What stompjs needs of a WebSocket. */
class TcpSocket {
  constructor() {
    this.binaryType = "arraybuffer";
    this.readyState = 0;
    this.url = `tcp://${host}:${port}`;
    this.socket = net.connect({ host, port: Number(port), noDelay: true });
    this.socket.on("connect", () => { this.readyState = 1; this.onopen?.({}); });
    this.socket.on("data", (data) => this.onmessage?.({ data: new Uint8Array(data).buffer }));
    this.socket.on("error", (error) => this.onerror?.(error));
    this.socket.on("close", () => { this.readyState = 3; this.onclose?.({ code: 1000, reason: "", wasClean: true }); });
  }
  send(data) { this.socket.write(data); }
  close() { this.readyState = 2; this.socket.end(); }
}

const timer = setTimeout(() => fail("too slow"), PATIENCE_MS);
async function finish(text) {
  clearTimeout(timer);
  client.onWebSocketClose = () => {};
  await client.deactivate();
  console.log(text);
}

const url = process.env.RHIZOMQ_TEST_WS;
const client = new Client({
  ...(url ? { brokerURL: url } : { webSocketFactory: () => new TcpSocket() }),
  reconnectDelay: 0,
  heartbeatIncoming: 0,
  heartbeatOutgoing: 0,
  onStompError: (frame) => fail(frame.headers.message),
  onWebSocketClose: () => fail("disconnected"),
  onConnect: () => (command === "publish" ? publish() : consume()),
});

function publish() {
  let confirmed = 0;
  const copies = new Set();
  for (let number = 0; number < count; number += 1) {
    const receipt = `r${number}`;
    client.watchForReceipt(receipt, (frame) => {
      copies.add(frame.headers.copies ?? "none");
      confirmed += 1;
      if (confirmed === count) finish(`confirmed ${confirmed} ${[...copies].sort().join(",")}`);
    });
    const body = `${prefix}-${String(number).padStart(6, "0")}`;
    client.publish({ destination: queue, body, headers: { receipt } });
  }
}

function consume() {
  const bodies = new Set();
  client.subscribe(queue, (message) => {
    bodies.add(message.body);
    message.ack();
    if (bodies.size === count) finish([...bodies].join("\n"));
  }, { ack: "client-individual" });
}

client.activate();
