"""All checks of Python's stomp.py; see README.md. `stomp.Connection` speaks STOMP 1.1."""

import os
import queue
import sys
import threading
import time

import stomp

PATIENCE_S = 30


def say(line):
    print(line, flush=True)


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r} in place of {wanted!r}")


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


class Session(stomp.ConnectionListener):
    """A connection of stomp.py whose answers are waited for."""

    def __init__(self, hosts, headers=None, **options):
        self.headers = headers or {}
        self.messages, self.receipts, self.errors = queue.Queue(), {}, []
        self.news, self.leaving, self.losses = threading.Condition(), False, 0
        self.connection = stomp.Connection([address(host) for host in hosts], **options)
        self.connection.set_listener("", self)
        self.connection.connect(wait=True, headers=self.headers)

    def on_receipt(self, frame):
        with self.news:
            self.receipts[frame.headers["receipt-id"]] = frame
            self.news.notify_all()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_error(self, frame):
        self.errors.append(frame.headers.get("message", "ERROR"))

    def on_disconnected(self):
        with self.news:
            self.losses += 1
            self.news.notify_all()

    def asked(self, act, receipt):
        """Does what asks for this receipt, and waits for it."""
        with self.news:
            losses = self.losses
        act()
        with self.news:
            self.news.wait_for(lambda: receipt in self.receipts or self.losses > losses or self.errors, PATIENCE_S)
            if receipt not in self.receipts:
                raise ConnectionError(f"no RECEIPT {receipt} {self.errors}")

    def send(self, destination, body, **headers):
        receipt = stomp.utils.get_uuid()
        self.asked(lambda: self.connection.send(destination, body, headers={"receipt": receipt, **headers}), receipt)

    def subscribe(self, destination, ack, identity="0", **headers):
        receipt = stomp.utils.get_uuid()
        headers["receipt"] = receipt
        self.asked(lambda: self.connection.subscribe(destination, identity, ack, headers=headers), receipt)

    def next(self):
        return self.messages.get(timeout=PATIENCE_S)

    def ack(self, frame, **more):
        self.connection.ack(frame.headers["message-id"], frame.headers["subscription"], **more)

    def bodies(self, count, acknowledge=True):
        got = []
        for _ in range(count):
            frame = self.next()
            got.append(frame.body)
            if acknowledge:
                self.ack(frame)
        return sorted(got)

    def close(self):
        """DISCONNECT, and its receipt."""
        receipt = stomp.utils.get_uuid()
        self.asked(lambda: self.connection.disconnect(receipt), receipt)
        expect("errors", self.errors, [])


class Suite:
    def __init__(self, hosts):
        self.first, self.second, self.third = (hosts[n:] + hosts[:n] for n in range(3))

    def connect(self):
        self.producer = Session(self.first)

    def individual(self):
        for body in "123":
            self.producer.send("/queue/individual", body)
        consumer = Session(self.second)
        consumer.subscribe("/queue/individual", "client-individual")
        got = [consumer.next() for _ in range(3)]
        expect("in order", [frame.body for frame in got], ["1", "2", "3"])
        consumer.ack(got[1])
        consumer.close()
        consumer = Session(self.third)
        consumer.subscribe("/queue/individual", "client-individual")
        expect("what was not acknowledged", consumer.bodies(2), ["1", "3"])
        consumer.close()

    def cumulative(self):
        for body in "123":
            self.producer.send("/queue/cumulative", body)
        consumer = Session(self.second)
        consumer.subscribe("/queue/cumulative", "client")
        got = [consumer.next() for _ in range(3)]
        consumer.ack(got[1])
        consumer.close()
        consumer = Session(self.third)
        consumer.subscribe("/queue/cumulative", "client")
        expect("what was not acknowledged", consumer.bodies(1), ["3"])
        consumer.close()

    def nack(self):
        self.producer.send("/queue/nack", "again")
        consumer = Session(self.second)
        consumer.subscribe("/queue/nack", "client-individual")
        before = consumer.next()
        consumer.connection.nack(before.headers["message-id"], before.headers["subscription"])
        after = consumer.next()
        expect("the same", after.headers["message-id"], before.headers["message-id"])
        expect("marked", after.headers.get("redelivered"), "true")
        consumer.ack(after)
        consumer.close()

    def wildcard(self):
        consumer = Session(self.second)
        consumer.subscribe("/topic/wild.*.eur", "auto")
        for name in ("a.eur", "a.usd", "b.eur"):
            self.producer.send(f"/topic/wild.{name}", name)
        expect("what matches", consumer.bodies(2, acknowledge=False), ["a.eur", "b.eur"])
        consumer.close()

    def durable(self):
        """As users of ActiveMQ Classic have it."""
        client, durable = {"client-id": "stomp.py"}, {"activemq.subscriptionName": "durable"}
        consumer = Session(self.second, client)
        consumer.subscribe("/topic/durable", "client-individual", **durable)
        consumer.close()
        self.producer.send("/topic/durable", "meanwhile")
        consumer = Session(self.third, client)
        consumer.subscribe("/topic/durable", "client-individual", **durable)
        expect("what came meanwhile", consumer.bodies(1), ["meanwhile"])
        consumer.asked(lambda: consumer.connection.unsubscribe("0", receipt="deleted", **durable), "deleted")
        consumer.close()

    def transaction(self):
        connection = self.producer.connection
        for body, end in (("dropped", connection.abort), ("kept", connection.commit)):
            transaction = connection.begin()
            for half in "12":
                self.producer.send("/queue/transaction", f"{body} {half}", transaction=transaction)
            self.producer.asked(lambda: end(transaction, receipt=f"end {body}"), f"end {body}")
        consumer = Session(self.second)
        consumer.subscribe("/queue/transaction", "client-individual")
        got = [consumer.next(), consumer.next()]
        expect("only what was committed", [frame.body for frame in got], ["kept 1", "kept 2"])
        transaction = consumer.connection.begin()
        for frame in got:
            consumer.ack(frame, transaction=transaction)
        consumer.connection.commit(transaction)
        consumer.close()

    def reply(self):
        """As users of RabbitMQ have it: nobody subscribes to the temporary queue."""
        server = Session(self.second)
        server.subscribe("/queue/requests", "auto")
        self.producer.send("/queue/requests", "question", **{"reply-to": "/temp-queue/answers"})
        request = server.next()
        server.send(request.headers["reply-to"], f"answer to {request.body}")
        answer = self.producer.next()
        expect("the answer", answer.body, "answer to question")
        expect("its subscription", answer.headers["subscription"], "/temp-queue/answers")
        server.close()

    def escaping(self):
        value = "colon: backslash\\ line\nsnowman \u2603 \\n"
        consumer = Session(self.second)
        consumer.subscribe("/queue/escaping", "auto")
        self.producer.send("/queue/escaping", "body", weird=value)
        expect("header", consumer.next().headers["weird"], value)
        consumer.close()

    def bytes(self, destination, sent):
        consumer = Session(self.second, auto_decode=False)
        consumer.subscribe(destination, "client-individual")
        self.producer.send(destination, sent)
        frame = consumer.next()
        if frame.body != sent:
            raise AssertionError(f"{len(frame.body)} other bytes in place of {len(sent)}")
        consumer.ack(frame)
        consumer.close()

    def binary(self):
        self.bytes("/queue/binary", bytes(range(256)) * 2)

    def large(self):
        self.bytes("/queue/large", bytes((n * n + (n >> 8)) % 256 for n in range(1 << 20)))

    def failover(self):
        """The library has a list of hosts, and goes through it when it is told to connect again."""
        for n in range(100):
            if n == 50:
                say(f"kill {self.first[0]}")
                sys.stdin.readline()
            while True:
                try:
                    self.producer.send("/queue/failover", f"m-{n}")
                    break
                except (stomp.exception.NotConnectedException, ConnectionError):
                    if not self.producer.connection.is_connected():
                        self.producer.connection.connect(wait=True)
            say(f"confirmed m-{n}")
        expect("losses of the connection", self.producer.losses, 1)
        consumer = Session(self.third)
        consumer.subscribe("/queue/failover", "client-individual")
        bodies = set()
        while len(bodies) < 100:
            frame = consumer.next()
            bodies.add(frame.body)
            consumer.ack(frame)
            say(f"got {frame.body}")
        consumer.close()

    def disconnect(self):
        for n in range(20):
            self.producer.connection.send("/queue/disconnect", str(n))
        self.producer.close()
        consumer = Session(self.second)
        consumer.subscribe("/queue/disconnect", "client-individual")
        expect("all that went before", len(consumer.bodies(20)), 20)
        consumer.close()


CHECKS = (
    "connect individual cumulative nack wildcard durable transaction reply escaping binary large failover disconnect"
).split()


def main():
    mode, *hosts = sys.argv[1:]
    if mode == "idle":
        session = Session(hosts, heartbeats=(1000, 1000))
        time.sleep(int(os.environ["RHIZOMQ_TEST_IDLE_MS"]) / 1000)
        session.send("/topic/idle", "still here")
        expect("losses", session.losses, 0)
        session.close()
        say("ok heart-beats")
        return
    suite = Suite(hosts)
    for name in CHECKS:
        try:
            getattr(suite, name)()
        except Exception as error:
            raise SystemExit(f"stomp.py: {name}: {error!r}") from error
        say(f"ok {name}")


main()
