// All checks of @stomp/stompjs, for Node and for a browser's page alike. See README.md for what each check is.

const PATIENCE_MS = 30_000;

/** Fails with a reason when a promise takes too long. */
function within(promise, what, ms = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`too slow: ${what}`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function expect(what, got, wanted) {
  const [g, w] = [got, wanted].map((value) => JSON.stringify(value));
  if (g !== w) throw new Error(`${what}: ${g} in place of ${w}`);
}

/** Messages of a subscription, in the order in which they came. */
class Inbox {
  constructor() { this.messages = []; this.waiting = []; }
  put(message) { this.waiting.length ? this.waiting.shift()(message) : this.messages.push(message); }
  next() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), "a MESSAGE");
  }
  async bodies(count, each = (message) => message.ack()) {
    const bodies = [];
    for (let n = 0; n < count; n += 1) {
      const message = await this.next();
      each(message);
      bodies.push(message.body);
    }
    return bodies.sort();
  }
}

/** A client of stompjs whose answers are promises. `transport` turns a host of the list into its configuration. */
class Session {
  constructor(env, hosts, { headers = {}, ...options } = {}) {
    this.tries = 0;
    this.left = false;
    this.unhandled = new Inbox();
    this.connects = new Inbox();
    this.receipts = 0;
    this.client = new env.Client({
      reconnectDelay: 100,
      connectHeaders: headers,
      // The library's way to another address: it asks before each try where to connect to.
      beforeConnect: (client) => {
        this.host = hosts[this.tries % hosts.length];
        this.tries += 1;
        Object.assign(client, env.transport(this.host));
      },
      onConnect: (frame) => this.connects.put(frame),
      onDisconnect: () => { this.left = true; },
      onStompError: (frame) => env.fail(new Error(`ERROR ${frame.headers.message}`)),
      onUnhandledMessage: (message) => this.unhandled.put(message),
      ...options,
    });
    this.client.activate();
  }

  static async open(env, hosts, options) {
    const session = new Session(env, hosts, options);
    session.connected = await session.connects.next();
    return session;
  }

  /** What a frame needs to ask for a receipt, and the promise of it. */
  receipt() {
    const receipt = `r${(this.receipts += 1)}`;
    const came = new Promise((resolve) => this.client.watchForReceipt(receipt, resolve));
    return [receipt, within(came, `RECEIPT ${receipt}`)];
  }

  send(destination, body, headers = {}) {
    const [receipt, came] = this.receipt();
    const content = typeof body === "string" ? { body } : { binaryBody: body };
    this.client.publish({ destination, ...content, headers: { receipt, ...headers } });
    return came;
  }

  async subscribe(destination, ack, headers = {}) {
    const [receipt, came] = this.receipt();
    const inbox = new Inbox();
    const subscription = this.client.subscribe(destination, (message) => inbox.put(message), { ack, receipt, ...headers });
    inbox.unsubscribe = (more) => subscription.unsubscribe(more);
    await came;
    return inbox;
  }

  /** DISCONNECT, its receipt, and only then the end. */
  async close() {
    await within(this.client.deactivate(), "the RECEIPT of DISCONNECT");
    expect("a graceful end", this.left, true);
  }
}

/** Runs every check; `env` has Client, transport(host), say(line), kill(host) and fail(error). */
export async function suite(env, hosts) {
  const [first, second, third] = hosts.map((_, n) => [...hosts.slice(n), ...hosts.slice(0, n)]);
  const check = async (name, act) => {
    try { await act(); } catch (error) { throw new Error(`${name}: ${error.message}`, { cause: error }); }
    env.say(`ok ${name}`);
  };

  let producer;
  await check("connect", async () => {
    producer = await Session.open(env, first);
    expect("version", producer.connected.headers.version, "1.2");
  });
  const withConsumer = async (from, destination, ack, act, headers, options) => {
    const session = await Session.open(env, from, options);
    await act(await session.subscribe(destination, ack, headers), session);
    await session.close();
  };

  await check("individual", async () => {
    for (const body of ["1", "2", "3"]) await producer.send("/queue/individual", body);
    await withConsumer(second, "/queue/individual", "client-individual", async (inbox) => {
      const got = [await inbox.next(), await inbox.next(), await inbox.next()];
      expect("in order", got.map((message) => message.body), ["1", "2", "3"]);
      got[1].ack();
    });
    await withConsumer(third, "/queue/individual", "client-individual", async (inbox) =>
      expect("what was not acknowledged", await inbox.bodies(2), ["1", "3"]));
  });

  await check("cumulative", async () => {
    for (const body of ["1", "2", "3"]) await producer.send("/queue/cumulative", body);
    await withConsumer(second, "/queue/cumulative", "client", async (inbox) => {
      const got = [await inbox.next(), await inbox.next(), await inbox.next()];
      got[1].ack();
    });
    await withConsumer(third, "/queue/cumulative", "client", async (inbox) =>
      expect("what was not acknowledged", await inbox.bodies(1), ["3"]));
  });

  await check("nack", async () => {
    await producer.send("/queue/nack", "again");
    await withConsumer(second, "/queue/nack", "client-individual", async (inbox) => {
      const before = await inbox.next();
      before.nack();
      const after = await inbox.next();
      expect("the same", after.headers["message-id"], before.headers["message-id"]);
      expect("marked", after.headers.redelivered, "true");
      after.ack();
    });
  });

  await check("wildcard", () => withConsumer(second, "/topic/wild.*.eur", "auto", async (inbox) => {
    for (const name of ["a.eur", "a.usd", "b.eur"]) await producer.send(`/topic/wild.${name}`, name);
    expect("what matches", await inbox.bodies(2, () => {}), ["a.eur", "b.eur"]);
  }));

  await check("durable", async () => {
    const durable = { id: "stompjs", durable: "true", "auto-delete": "false" };
    await withConsumer(second, "/topic/durable", "client-individual", async () => {}, durable);
    await producer.send("/topic/durable", "meanwhile");
    await withConsumer(third, "/topic/durable", "client-individual", async (inbox, session) => {
      expect("what came meanwhile", await inbox.bodies(1), ["meanwhile"]);
      const [receipt, came] = session.receipt();
      inbox.unsubscribe({ ...durable, receipt });
      await came;
    }, durable);
  });

  await check("transaction", async () => {
    for (const [body, end] of [["dropped", "abort"], ["kept", "commit"]]) {
      const transaction = producer.client.begin();
      for (const half of ["1", "2"]) {
        await producer.send("/queue/transaction", `${body} ${half}`, { transaction: transaction.id });
      }
      transaction[end]();
    }
    await producer.send("/queue/transaction", "last");
    await withConsumer(second, "/queue/transaction", "client-individual", async (inbox, session) => {
      const got = [await inbox.next(), await inbox.next(), await inbox.next()];
      expect("only what was committed", got.map((message) => message.body), ["kept 1", "kept 2", "last"]);
      const transaction = session.client.begin();
      for (const message of got) message.ack({ transaction: transaction.id });
      transaction.commit();
    });
  });

  await check("reply", () => withConsumer(second, "/queue/requests", "auto", async (requests, server) => {
    await producer.send("/queue/requests", "question", { "reply-to": "/temp-queue/answers" });
    const request = await requests.next();
    await server.send(request.headers["reply-to"], `answer to ${request.body}`);
    const answer = await producer.unhandled.next();
    expect("the answer", answer.body, "answer to question");
    expect("its subscription", answer.headers.subscription, "/temp-queue/answers");
  }));

  await check("escaping", () => withConsumer(second, "/queue/escaping", "auto", async (inbox) => {
    // It escapes values of headers, not names, and takes a backslash before the letter n for a line feed in what it reads.
    const value = "colon: backslash\\ line\nreturn\r snowman \u2603";
    await producer.send("/queue/escaping", "body", { weird: value });
    expect("header", (await inbox.next()).headers.weird, value);
  }));

  const bytes = async (name, sent) => withConsumer(second, `/queue/${name}`, "client-individual", async (inbox) => {
    await producer.send(`/queue/${name}`, sent);
    const message = await inbox.next();
    const got = message.binaryBody;
    expect("length", got.length, sent.length);
    expect("first difference", got.findIndex((byte, n) => byte !== sent[n]), -1);
    message.ack();
  });
  await check("binary", () => bytes("binary", Uint8Array.from({ length: 512 }, (_, n) => n % 256)));
  await check("large", () => bytes("large", Uint8Array.from({ length: 1 << 20 }, (_, n) => (n * n + (n >> 8)) % 256)));

  await check("failover", async () => {
    const before = producer.host;
    let lost;
    for (let n = 0; n < 100; n += 1) {
      const body = `m-${n}`;
      if (n === 50) {
        lost = producer.connects.next();
        await env.kill(before);
        // The library tells that it is connected again.
        await lost;
      }
      await producer.send("/queue/failover", body);
      env.say(`confirmed ${body}`);
    }
    if (producer.host === before) throw new Error("still at the same address");
    await withConsumer(third, "/queue/failover", "client-individual", async (inbox) => {
      const bodies = new Set();
      while (bodies.size < 100) {
        const message = await inbox.next();
        bodies.add(message.body);
        env.say(`got ${message.body}`);
        message.ack();
      }
    });
  });

  await check("disconnect", async () => {
    for (let n = 0; n < 20; n += 1) {
      producer.client.publish({ destination: "/queue/disconnect", body: `${n}` });
    }
    await producer.close();
    await withConsumer(second, "/queue/disconnect", "client-individual", async (inbox) =>
      expect("all that went before", (await inbox.bodies(20)).length, 20));
  });
}

/** Nothing but heart-beats for `idleMs`. */
export async function idle(env, hosts, idleMs) {
  const session = await Session.open(env, hosts, { heartbeatIncoming: 1000, heartbeatOutgoing: 1000 });
  await new Promise((resolve) => setTimeout(resolve, idleMs));
  await session.send("/topic/idle", "still here");
  expect("connected once", session.tries, 1);
  await session.close();
  env.say("ok heart-beats");
}
