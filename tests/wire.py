"""A wire to a server that can be cut, and mended: how a server goes away in the middle of something."""

import contextlib
import select
import socket
import threading
from urllib.parse import urlsplit


class Wire:
    """Leads from `url`, a port of 127.0.0.1, to a server's address."""

    def __init__(self, server: str) -> None:
        there = urlsplit(server)
        self._target = (there.hostname, there.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{there.scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self.whole = threading.Event()
        self.whole.set()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on connections break, and new ones lead nowhere."""
        self.whole.clear()
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.whole.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if not self.whole.is_set():
                return
            with socket.create_connection(self._target, timeout=10) as far:
                self._open |= {near, far}
                try:
                    self._copy(near, far)
                finally:
                    self._open -= {near, far}

    def _copy(self, near: socket.socket, far: socket.socket) -> None:
        while self.whole.is_set():
            for end in select.select([near, far], [], [], 0.5)[0]:
                data = end.recv(65536)
                if not data:
                    return
                (far if end is near else near).sendall(data)
