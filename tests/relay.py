"""An address that leads to a server, and later to another, as one of a cloud or of DNS does."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread


class Relay(ThreadingTCPServer):
    """Pass connections on to a port of this machine.

    When `leads_to` changes, new connections go to the new port; those that are open stay.
    """

    daemon_threads = True

    def __init__(self, leads_to: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.leads_to = leads_to
        self.port = self.server_address[1]


class Connection(BaseRequestHandler):
    """What passes both ways, until one of the two hangs up."""

    server: Relay
    request: socket.socket

    def handle(self) -> None:
        with (
            suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", self.server.leads_to)) as other,
        ):
            back = Thread(target=pass_on, args=[other, self.request], daemon=True)
            back.start()
            pass_on(self.request, other)
            back.join()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one of the two is gone
        while received := source.recv(65536):
            target.sendall(received)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay(leads_to: int) -> Iterator[Relay]:
    with Relay(leads_to) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield server
        finally:
            server.shutdown()
