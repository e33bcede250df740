// All checks of Node's stompit; see README.md. RHIZOMQ_TEST_STOMPIT names the directory with the library. It offers all three
// versions and so speaks STOMP 1.2.

import path from "node:path";
import readline from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(path.join(process.env.RHIZOMQ_TEST_STOMPIT, "index.js"));
const stompit = require("stompit");

const PATIENCE_MS = 30_000;
const [mode, ...hosts] = process.argv.slice(2);
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (line) => console.log(line);

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`too slow: ${what}`)), PATIENCE_MS); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function expect(what, got, wanted) {
  const [g, w] = [got, wanted].map((value) => JSON.stringify(value));
  if (g !== w) throw new Error(`${what}: ${g} in place of ${w}`);
}

/** A server as the library's list of hosts has them. */
function server(text, more = {}) {
  const [host, port] = text.split(":");
  return { host, port: Number(port), connectHeaders: { host: "/" }, ...more };
}

function bodyOf(message) {
  return new Promise((resolve, reject) => {
    const parts = [];
    message.on("error", reject);
    message.on("data", (part) => parts.push(part));
    message.on("end", () => resolve(Buffer.concat(parts)));
  });
}

/** Messages of a subscription, with their bodies, in the order in which they came. */
class Inbox {
  constructor() { this.messages = []; this.waiting = []; this.last = Promise.resolve(); }
  put(message) { this.waiting.length ? this.waiting.shift()(message) : this.messages.push(message); }
  /** The listener of a subscription. The library's messages are streams, and the next one comes when one has been read. */
  listener() {
    return (error, message) => {
      if (error) return;
      bodyOf(message).then((bytes) => this.put({ message, bytes, body: bytes.toString(), headers: message.headers }));
    };
  }
  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), "a MESSAGE");
  }
  async take(count) {
    const got = [];
    for (let n = 0; n < count; n += 1) got.push(await this.next());
    return got;
  }
}

/** A client of stompit whose answers are promises. */
class Session {
  static async open(host, more) {
    const session = new Session();
    session.client = await within(new Promise((resolve, reject) => {
      stompit.connect(server(host, more), (error, client) => (error ? reject(error) : resolve(client)));
    }), "CONNECTED");
    session.client.on("error", (error) => { session.error = error; });
    return session;
  }
  /** A frame, and its receipt. */
  frame(command, headers, body) {
    const came = new Promise((resolve, reject) => {
      const frame = this.client.sendFrame(command, { ...headers }, { onReceipt: resolve, onError: reject });
      frame.end(body);
    });
    return within(came, `the RECEIPT of ${command}`);
  }
  send(destination, body, headers = {}) {
    return this.frame("SEND", { destination, ...headers }, body);
  }
  async subscribe(destination, ack, headers = {}) {
    const inbox = new Inbox();
    inbox.subscription = this.client.subscribe({ destination, ack, ...headers }, inbox.listener());
    // The library asks for no receipt here; this one comes after the subscription is made.
    await this.send("/topic/after-subscribe", "");
    return inbox;
  }
  ack(got, headers) { this.client.ack(got.message, headers); }
  /** DISCONNECT, and its receipt. */
  async close() {
    await within(new Promise((resolve, reject) => this.client.disconnect((error) => (error ? reject(error) : resolve()))),
      "the RECEIPT of DISCONNECT");
    if (this.error) throw this.error;
  }
}

let producer;
const withConsumer = async (host, destination, ack, act, headers, more) => {
  const session = await Session.open(host, more);
  await act(await session.subscribe(destination, ack, headers), session);
  await session.close();
};
const bodies = (got) => got.map(({ body }) => body);
const sorted = (got) => bodies(got).sort();

async function bytes(name, sent) {
  await withConsumer(hosts[1], `/queue/${name}`, "client-individual", async (inbox, session) => {
    await producer.send(`/queue/${name}`, sent, { "content-length": sent.length });
    const got = await inbox.next();
    expect("length", got.bytes.length, sent.length);
    expect("difference", Buffer.compare(got.bytes, sent), 0);
    session.ack(got);
  });
}

const checks = {
  async connect() {
    producer = await Session.open(hosts[0]);
    expect("version", producer.client.headers.version, "1.2");
  },

  async individual() {
    for (const body of ["1", "2", "3"]) await producer.send("/queue/individual", body);
    await withConsumer(hosts[1], "/queue/individual", "client-individual", async (inbox, session) => {
      const got = await inbox.take(3);
      expect("in order", bodies(got), ["1", "2", "3"]);
      session.ack(got[1]);
    });
    await withConsumer(hosts[2], "/queue/individual", "client-individual", async (inbox, session) => {
      const got = await inbox.take(2);
      expect("what was not acknowledged", sorted(got), ["1", "3"]);
      got.forEach((each) => session.ack(each));
    });
  },

  async cumulative() {
    for (const body of ["1", "2", "3"]) await producer.send("/queue/cumulative", body);
    await withConsumer(hosts[1], "/queue/cumulative", "client", async (inbox, session) =>
      session.ack((await inbox.take(3))[1]));
    await withConsumer(hosts[2], "/queue/cumulative", "client", async (inbox, session) => {
      const got = await inbox.next();
      expect("what was not acknowledged", got.body, "3");
      session.ack(got);
    });
  },

  async nack() {
    await producer.send("/queue/nack", "again");
    await withConsumer(hosts[1], "/queue/nack", "client-individual", async (inbox, session) => {
      const before = await inbox.next();
      session.client.nack(before.message);
      const after = await inbox.next();
      expect("the same", after.headers["message-id"], before.headers["message-id"]);
      expect("marked", after.headers.redelivered, "true");
      session.ack(after);
    });
  },

  wildcard: () => withConsumer(hosts[1], "/topic/wild.*.eur", "auto", async (inbox) => {
    for (const name of ["a.eur", "a.usd", "b.eur"]) await producer.send(`/topic/wild.${name}`, name);
    expect("what matches", sorted(await inbox.take(2)), ["a.eur", "b.eur"]);
  }),

  /** As users of Artemis have it. */
  async durable() {
    const durable = { id: "d", "durable-subscription-name": "durable" };
    const client = { connectHeaders: { host: "/", "client-id": "stompit" } };
    await withConsumer(hosts[1], "/topic/durable", "client-individual", async () => {}, durable, client);
    await producer.send("/topic/durable", "meanwhile");
    await withConsumer(hosts[2], "/topic/durable", "client-individual", async (inbox, session) => {
      const got = await inbox.next();
      expect("what came meanwhile", got.body, "meanwhile");
      session.ack(got);
      inbox.subscription.unsubscribe(durable);
    }, durable, client);
  },

  async transaction() {
    for (const [body, end] of [["dropped", "abort"], ["kept", "commit"]]) {
      const transaction = producer.client.begin();
      for (const half of ["1", "2"]) {
        await within(new Promise((resolve) => {
          transaction.send({ destination: "/queue/transaction" }, { onReceipt: resolve }).end(`${body} ${half}`);
        }), "the RECEIPT of SEND");
      }
      await within(new Promise((resolve) => transaction[end]({ onReceipt: resolve })), `the RECEIPT of ${end}`);
    }
    await withConsumer(hosts[1], "/queue/transaction", "client-individual", async (inbox, session) => {
      const got = await inbox.take(2);
      expect("only what was committed", bodies(got), ["kept 1", "kept 2"]);
      const transaction = session.client.begin();
      got.forEach((each) => session.ack(each, { transaction: transaction.id }));
      transaction.commit();
    });
  },

  /** As users of RabbitMQ have it; the library knows subscriptions that nobody made. */
  reply: () => withConsumer(hosts[1], "/queue/requests", "auto", async (requests, session) => {
    const inbox = new Inbox();
    producer.client.setImplicitSubscription("/temp-queue/answers", "auto", inbox.listener());
    await producer.send("/queue/requests", "question", { "reply-to": "/temp-queue/answers" });
    const request = await requests.next();
    await session.send(request.headers["reply-to"], `answer to ${request.body}`);
    expect("the answer", (await inbox.next()).body, "answer to question");
  }),

  escaping: () => withConsumer(hosts[1], "/queue/escaping", "auto", async (inbox) => {
    const value = "colon: backslash\\ line\nreturn\r snowman \u2603 \\n";
    await producer.send("/queue/escaping", "body", { "na:me": value });
    expect("header", (await inbox.next()).headers["na:me"], value);
  }),

  binary: () => bytes("binary", Buffer.from(Array.from({ length: 512 }, (_, n) => n % 256))),
  large: () => bytes("large", Buffer.from(Uint8Array.from({ length: 1 << 20 }, (_, n) => (n * n + (n >> 8)) % 256))),

  /** The library's channel goes through its list of servers, and sends again what had no receipt. */
  async failover() {
    const failover = new stompit.ConnectFailover(hosts.map((host) => server(host)), { randomize: false });
    const channel = new stompit.Channel(failover, { alwaysConnected: true });
    const connects = [];
    failover.on("connect", ({ connectOptions, serverProperties }) => {
      connects.push((connectOptions ?? serverProperties.connectOptions).port);
    });
    for (let n = 0; n < 100; n += 1) {
      const sent = new Promise((resolve, reject) => {
        channel.send({ destination: "/queue/failover" }, `m-${n}`, (error) => (error ? reject(error) : resolve()));
      });
      if (n === 50) {
        say(`kill ${hosts[0]}`);
        await answers.next();
      }
      await within(sent, "the RECEIPT of SEND");
      say(`confirmed m-${n}`);
    }
    expect("addresses in turn", connects, hosts.slice(0, 2).map((host) => server(host).port));
    channel.close();
    await withConsumer(hosts[2], "/queue/failover", "client-individual", async (inbox, session) => {
      const different = new Set();
      while (different.size < 100) {
        const got = await inbox.next();
        different.add(got.body);
        say(`got ${got.body}`);
        session.ack(got);
      }
    });
  },

  async disconnect() {
    const session = await Session.open(hosts[1]);
    for (let n = 0; n < 20; n += 1) session.client.send({ destination: "/queue/disconnect" }).end(`${n}`);
    await session.close();
    await withConsumer(hosts[2], "/queue/disconnect", "client-individual", async (inbox, session) =>
      (await inbox.take(20)).forEach((each) => session.ack(each)));
  },
};

async function idle() {
  const session = await Session.open(hosts[0], { connectHeaders: { host: "/", "heart-beat": "1000,1000" } });
  await new Promise((resolve) => setTimeout(resolve, Number(process.env.RHIZOMQ_TEST_IDLE_MS)));
  await session.send("/topic/idle", "still here");
  await session.close();
  say("ok heart-beats");
}

async function suite() {
  for (const [name, act] of Object.entries(checks)) {
    try { await act(); } catch (error) { throw new Error(`${name}: ${error.message}`, { cause: error }); }
    say(`ok ${name}`);
  }
}

(mode === "idle" ? idle() : suite()).then(() => process.exit(0), (error) => {
  console.error(`stompit: ${error.stack}`);
  process.exit(1);
});
