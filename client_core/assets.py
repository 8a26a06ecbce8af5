"""An asset: exact decimal amounts outside, whole minor units inside. Never a float, no rounding."""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import Final

from client_core.records import AMOUNT_MAX

Amount = Decimal | int | str
"""What stands for an amount: a Decimal, a whole number, or text such as "12.50" or "-1e3"."""

_MAX_DIGITS: Final = 19
"""Of 2^63 - 1. What has more is out of range before any arithmetic is done with it."""

_MAX_LENGTH: Final = 64
"""Characters of a text, digits of a Decimal: arithmetic on long ones takes the square of it."""

_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""Decimal would also take spaces, "1_000" and the digits of other scripts."""

_SHOWN_CHARACTERS: Final = 40

_PLAIN_DIGITS: Final = 18
"""What has no more digits than this, with all decimals, is in range whatever they are."""

_EXACT: Final = Context(prec=40)
"""Of 64-bit amounts nothing is rounded in it, whatever the caller's own context is."""

_U64_END: Final = 2**64


@dataclass(frozen=True, slots=True)
class Asset:
    """One registered asset: amounts have `decimals` digits after the point."""

    number: int
    symbol: str
    decimals: int

    def to_minor(self, amount: Amount) -> int:
        """`amount` in minor units: "12.5" of an asset with two decimals is 1250.

        Raises TypeError for a float or anything else that is no exact amount, ValueError for one
        that is not a number, has more decimals than the asset, exceeds 2^63 - 1 minor units, or is
        longer than 64 characters or digits.
        """
        if type(amount) is str:
            # nearly every text is plain: digits, and no more of them than the asset has decimals
            whole, _, part = amount.partition(".")
            if (
                len(whole) + self.decimals <= _PLAIN_DIGITS
                and len(part) <= self.decimals
                and (whole + part).isdigit()
                and amount.isascii()
                and whole
            ):
                return int(whole + part.ljust(self.decimals, "0"))
        if isinstance(amount, bool) or not isinstance(amount, (Decimal, int, str)):
            raise TypeError(
                f"an amount of {self.symbol} is a Decimal, int or str, not "
                f"{type(amount).__name__}: floats are not exact, write Decimal('12.50')"
            )
        scale: int = 10**self.decimals
        if isinstance(amount, int):
            if abs(amount) > AMOUNT_MAX:
                raise self._out_of_range()
            minor = amount * scale
        else:
            minor = self._scaled(self._read(amount), scale)
        if abs(minor) > AMOUNT_MAX:
            raise self._out_of_range()
        return minor

    def to_decimal(self, minor: int) -> Decimal:
        """The exact amount of `minor` units: 1250 of an asset with two decimals is 12.50.

        Raises TypeError for anything but an integer.
        """
        if isinstance(minor, bool) or not isinstance(minor, int):
            raise TypeError(f"minor units are an int, not {type(minor).__name__}")
        if -_U64_END < minor < _U64_END:
            return Decimal(minor).scaleb(-self.decimals, _EXACT)
        # built from its digits: arithmetic would round to the context's precision
        digits = tuple(map(int, str(abs(minor))))
        return Decimal((int(minor < 0), digits, -self.decimals))

    def _read(self, amount: Decimal | str) -> Decimal:
        """The exact number that `amount` is, of 64 digits at most."""
        if isinstance(amount, str):
            if len(amount) > _MAX_LENGTH:
                raise self._too_long(f"{_shown(amount)} has {len(amount)} characters")
            if _NUMBER.fullmatch(amount) is None:
                raise self._no_number(amount)
        try:
            exact = Decimal(amount)
        except InvalidOperation:
            exact = Decimal("NaN")
        if not exact.is_finite():
            raise self._no_number(amount)
        digits = len(exact.as_tuple().digits)
        if digits > _MAX_LENGTH:
            raise self._too_long(f"a Decimal of {digits} digits")
        return exact

    def _scaled(self, exact: Decimal, scale: int) -> int:
        if not exact:
            return 0
        # both limits first: an exponent may be so large that its power of ten fills the memory
        if exact.adjusted() >= _MAX_DIGITS:
            raise self._out_of_range()
        if exact.adjusted() >= -self.decimals:
            numerator, denominator = exact.as_integer_ratio()
            minor, rest = divmod(numerator * scale, denominator)
            if not rest:
                return minor
        raise ValueError(
            f"{_shown(exact)} has more decimals than the {self.decimals} of {self.symbol}: "
            "round it as your rules say"
        )

    def _no_number(self, amount: Decimal | str) -> ValueError:
        return ValueError(
            f"{_shown(amount)} is no amount of {self.symbol}: give a number such as 12.50, without "
            "spaces or separators"
        )

    def _too_long(self, what: str) -> ValueError:
        return ValueError(
            f"{what}: an amount of {self.symbol} has at most {_MAX_LENGTH}, round it first"
        )

    def _out_of_range(self) -> ValueError:
        most = self.to_decimal(AMOUNT_MAX)
        return ValueError(f"an amount of {self.symbol} is {most} at most: split it")


def _shown(amount: Decimal | str) -> str:
    text = str(amount)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
