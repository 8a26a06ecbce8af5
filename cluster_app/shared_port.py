"""One port for several processes: kept by one of them, bound by all, and by no stranger.

SO_REUSEPORT lets any process of the same user join, so it alone would let a second follower share
the port by mistake and answer half of the calls. A name in the abstract Unix namespace, which the
system takes back when its process ends, tells that the port has an owner.
"""

import socket
from typing import Final, Self

from cluster_app.errors import Fault
from cluster_app.settings import split_address

_OWNER: Final = "\0ringledger-port-{host}:{port}"


class SharedPort:
    """A bound port that nobody listens on here. Close it when those who share it have ended."""

    def __init__(self, listen: str) -> None:
        """Raises Fault when the port is in use."""
        host, port = split_address(listen, "listen")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._owner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if port:
                _check_unused(family, host, port)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host.strip("[]"), port))
            port = self._socket.getsockname()[1]
            self._owner.bind(_OWNER.format(host=host, port=port))
        except OSError as error:
            self.close()
            raise Fault(
                f"cannot listen on {listen}: {error.strerror}: is the port in use?"
            ) from None
        self.address: Final = f"{host}:{port}"

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self._socket.close()
        self._owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_unused(family: int, host: str, port: int) -> None:
    """Without SO_REUSEPORT a bind fails where anybody has the port, in whatever way."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host.strip("[]"), port))
