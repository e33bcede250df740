"""A client of Python's stomp.py, driven by tests/processes/clients.rs.

publish HOST PORT QUEUE COUNT PREFIX   sends COUNT messages, waits for every RECEIPT, prints `confirmed COUNT COPIES`
consume HOST PORT QUEUE COUNT          acknowledges until COUNT different bodies came, prints each body on a line

With RHIZOMQ_TEST_CA in the environment over TLS: the node must have a certificate of the authority in that file. With
RHIZOMQ_TEST_CERT and RHIZOMQ_TEST_KEY too, the client presents that certificate. With RHIZOMQ_TEST_WS over WebSocket, on the
path that it names.
"""

import os
import sys
import threading

import stomp

PATIENCE_S = 120


class Waiter(stomp.ConnectionListener):
    """Counts receipts and messages; `done` is set when there are enough, or when something went wrong."""

    def __init__(self, connection, receipts=0, bodies=0):
        self.connection, self.receipts, self.bodies = connection, receipts, bodies
        self.confirmed, self.copies, self.got = set(), set(), {}
        self.done, self.trouble = threading.Event(), None

    def on_receipt(self, frame):
        self.confirmed.add(frame.headers["receipt-id"])
        self.copies.add(frame.headers.get("copies", "none"))
        if self.receipts and len(self.confirmed) >= self.receipts:
            self.done.set()

    def on_message(self, frame):
        self.got[frame.body] = frame.headers["message-id"]
        self.connection.ack(frame.headers["ack"])
        if self.bodies and len(self.got) >= self.bodies:
            self.done.set()

    def on_error(self, frame):
        self.trouble = frame.headers.get("message", "ERROR")
        self.done.set()

    def on_disconnected(self):
        if not self.done.is_set():
            self.trouble = "disconnected"
            self.done.set()

    def wait(self):
        if not self.done.wait(PATIENCE_S):
            self.trouble = f"too slow: {len(self.confirmed)} receipts, {len(self.got)} bodies"
        if self.trouble:
            sys.exit(f"stomp.py client: {self.trouble}")


def main():
    command, host, port, queue, count = sys.argv[1:6]
    count = int(count)
    if "RHIZOMQ_TEST_WS" in os.environ:
        path = os.environ["RHIZOMQ_TEST_WS"]
        connection = stomp.WSStompConnection([(host, int(port))], heartbeats=(0, 0), ws_path=path)
    else:
        connection = stomp.Connection12([(host, int(port))], heartbeats=(0, 0))
    if "RHIZOMQ_TEST_CA" in os.environ:
        connection.set_ssl(
            for_hosts=[(host, int(port))],
            ca_certs=os.environ["RHIZOMQ_TEST_CA"],
            cert_file=os.environ.get("RHIZOMQ_TEST_CERT"),
            key_file=os.environ.get("RHIZOMQ_TEST_KEY"),
        )
    publish = command == "publish"
    waiter = Waiter(connection, receipts=count if publish else 0, bodies=0 if publish else count)
    connection.set_listener("", waiter)
    connection.connect(wait=True)
    if publish:
        prefix = sys.argv[6]
        for number in range(count):
            connection.send(queue, f"{prefix}-{number:06}", headers={"receipt": f"r{number}"})
        waiter.wait()
        print("confirmed", len(waiter.confirmed), ",".join(sorted(waiter.copies)))
    else:
        connection.subscribe(queue, id="0", ack="client-individual")
        waiter.wait()
        print("\n".join(waiter.got))
    connection.disconnect()


main()
