// All checks of @stomp/stompjs in a page of a real browser; see README.md. Serves the page on loopback, opens it in the headless
// browser that RHIZOMQ_TEST_BROWSER names, and passes on what the page tells.

import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

const [mode, ...hosts] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const library = path.join(process.env.RHIZOMQ_TEST_STOMPJS, "node_modules/@stomp/stompjs/bundles/stomp.umd.js");
const input = readline.createInterface({ input: process.stdin });
const answers = input[Symbol.asyncIterator]();

const PAGE = `<!doctype html><meta charset="utf-8"><title>stompjs</title>
<script src="/stomp.js"></script>
<script type="module">
  import { idle, suite } from "/suite.js";
  // One after the other, so that lines keep their order.
  let told = Promise.resolve();
  const tell = (path, text) => (told = told.then(() => fetch(path, { method: "POST", body: text })));
  const fail = (error) => tell("/fail", error.stack ?? String(error));
  const env = {
    Client: StompJs.Client,
    transport: (host) => ({ brokerURL: host }),
    say: (line) => { tell("/say", line); },
    kill: (host) => tell("/say", "kill " + host).then(() => fetch("/answer")).then((answer) => answer.text()),
    fail,
  };
  const hosts = ${JSON.stringify(hosts)};
  (${JSON.stringify(mode)} === "idle" ? idle(env, hosts, ${Number(process.env.RHIZOMQ_TEST_IDLE_MS)}) : suite(env, hosts))
    .then(() => tell("/done", navigator.userAgent), fail);
</script>`;

const profile = fs.mkdtempSync(path.join(os.tmpdir(), "stompjs-"));
let browser;
function end(code) {
  // With its children: it is the first of its process group.
  if (browser?.exitCode === null) process.kill(-browser.pid, "SIGKILL");
  fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  process.exit(code);
}

async function read(request) {
  let text = "";
  for await (const part of request) text += part;
  return text;
}

const pages = { "/": ["text/html", PAGE], "/stomp.js": ["text/javascript", fs.readFileSync(library)] };
pages["/suite.js"] = ["text/javascript", fs.readFileSync(path.join(here, "stompjs_suite.mjs"))];
const server = http.createServer(async (request, response) => {
  const page = pages[request.url];
  if (page) response.setHeader("content-type", page[0]);
  switch (request.url) {
    case "/say": console.log(await read(request)); break;
    case "/answer": await answers.next(); break;
    case "/fail": console.error(`stompjs in a page: ${await read(request)}`); end(1); break;
    case "/done": console.error(await read(request)); end(0); break;
    default: if (!page) response.statusCode = 404;
  }
  response.end(page?.[1]);
});

server.listen(0, "127.0.0.1", () => {
  browser = spawn(process.env.RHIZOMQ_TEST_BROWSER, [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", `--user-data-dir=${profile}`,
    // Without a page to look at it ends at once; with this one it stays.
    "--remote-debugging-port=0", `http://127.0.0.1:${server.address().port}/`,
  ], { stdio: "ignore", detached: true });
  for (const event of ["error", "exit"]) {
    browser.on(event, (reason) => { console.error(`browser: ${event}: ${reason}`); end(1); });
  }
});
// Whoever started this has given up.
input.on("close", () => end(1));
