// All checks of @stomp/stompjs in Node; see README.md. An address that begins with `ws` is spoken to over WebSocket, any other
// over TCP, in the form of a WebSocket. RHIZOMQ_TEST_STOMPJS names the directory with the library.

import net from "node:net";
import path from "node:path";
import readline from "node:readline";
import { createRequire } from "node:module";
import { idle, suite } from "./stompjs_suite.mjs";

const require = createRequire(path.join(process.env.RHIZOMQ_TEST_STOMPJS, "index.js"));
const { Client } = require("@stomp/stompjs");

/** What stompjs needs of a WebSocket, over TCP. */
class TcpSocket {
  constructor(address) {
    const [host, port] = address.split(":");
    this.binaryType = "arraybuffer";
    this.readyState = 0;
    this.url = `tcp://${address}`;
    this.socket = net.connect({ host, port: Number(port), noDelay: true });
    this.socket.on("connect", () => { this.readyState = 1; this.onopen?.({}); });
    this.socket.on("data", (data) => this.onmessage?.({ data: new Uint8Array(data).buffer }));
    this.socket.on("error", (error) => this.onerror?.(error));
    this.socket.on("close", () => { this.readyState = 3; this.onclose?.({ code: 1000, reason: "", wasClean: true }); });
  }
  send(data) { this.socket.write(typeof data === "string" ? data : Buffer.from(data)); }
  close() { this.readyState = 2; this.socket.end(); }
}

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const fail = (error) => { console.error(`stompjs: ${error.stack ?? error}`); process.exit(1); };
const env = {
  Client,
  transport: (host) => host.startsWith("ws")
    ? { brokerURL: host, webSocketFactory: undefined }
    : { webSocketFactory: () => new TcpSocket(host) },
  say: (line) => console.log(line),
  kill: async (host) => { console.log(`kill ${host}`); await answers.next(); },
  fail,
};

const [mode, ...hosts] = process.argv.slice(2);
(mode === "idle" ? idle(env, hosts, Number(process.env.RHIZOMQ_TEST_IDLE_MS)) : suite(env, hosts))
  .then(() => process.exit(0), fail);
