"""The address of a PostgreSQL database: as libpq takes it, and as logs may show it."""

from typing import Final

import psycopg
import sqlalchemy
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.engine import make_url

from cluster_app.errors import StoreRefuses, UsageError
from cluster_core.errors import StoreUnavailable

_CONNECTION: Final = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "application_name": "ringledger",
}
"""libpq parameters unless the address has its own: a server that vanished is noticed."""

_REFUSALS: Final = frozenset({"0A", "28", "3D", "3F", "42"})
"""Classes of SQLSTATE that waiting doesn't mend: a feature that isn't there, the login, an unknown
database or schema, what isn't there or isn't allowed (PostgreSQL 18, Appendix A)."""


class PostgresAddress:
    """`postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE`, of what `kind` names."""

    def __init__(self, url: str, kind: str) -> None:
        """Raises UsageError for an address that can't be read."""
        try:
            self._url = make_url(url).set(drivername="postgresql+psycopg")
            plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
            own = conninfo_to_dict(plain)
            self.conninfo: Final = make_conninfo(
                plain, **{name: value for name, value in _CONNECTION.items() if name not in own}
            )
        except (sqlalchemy.exc.ArgumentError, psycopg.ProgrammingError, ValueError):
            raise UsageError(
                f"{kind}: use postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE"
            ) from None
        self.name: Final = self._url.render_as_string(hide_password=True)

    def in_schema(self, schema: str) -> str:
        """The same database, with this schema first on the search path."""
        options = str(self._url.query.get("options", ""))
        url = self._url.update_query_dict({"options": f"{options} -csearch_path={schema}".strip()})
        return url.render_as_string(hide_password=False)

    def unavailable(self, error: BaseException, doing: str = "") -> StoreUnavailable:
        """What an error of psycopg's means: StoreRefuses where the server answers and refuses.

        libpq gives no SQLSTATE for a connection that was refused, but tells whether the server
        takes any: that is asked then, with a connection of its own.
        """
        kind = StoreRefuses if self._is_refusal(error) else StoreUnavailable
        return kind(f"{self.name}: {doing}{one_line(error)}")

    def _is_refusal(self, error: BaseException) -> bool:
        if not isinstance(error, psycopg.Error):
            return False
        if error.sqlstate is not None:
            return error.sqlstate[:2] in _REFUSALS
        if isinstance(error, psycopg.errors.ConnectionTimeout) or error.pgconn is None:
            return False
        return pq.PGconn.ping(self.conninfo.encode()) == pq.Ping.OK


def one_line(error: object) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())
