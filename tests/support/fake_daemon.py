"""Commands called in this process, and a fake daemon."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Reply = dict[str, Any]
Call = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, without its prefix."""
        assert self.code != 0, self.out
        assert self.out == ""
        assert self.err.startswith("modelfs: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("modelfs: ").rstrip("\n")

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class FakeDaemon:
    """Answers each request on a control socket with prepared lines."""

    def __init__(self, folder: Path, replies: dict[str, list[Reply | bytes]]) -> None:
        self.requests: list[Reply] = []
        self.stores: list[str] = []  # of the requests
        self.released = threading.Event()
        self.lasting = {"hold"}
        self._replies = replies
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "control.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                with client:
                    self._answer(client)
                self.released.set()

    def _answer(self, client: socket.socket) -> None:
        line = client.makefile("rb").readline()
        if not line:
            return
        request = json.loads(line)
        self.stores.append(request.pop("store"))
        self.requests.append(request)
        for reply in self._replies[request["command"]]:
            client.sendall(
                reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n"
            )
        if request["command"] in self.lasting:
            client.recv(1)  # until the client disconnects

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


Fake = Callable[..., FakeDaemon]
