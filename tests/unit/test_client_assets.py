"""client_core's assets: exact amounts, or a clear error."""

from decimal import Decimal, getcontext, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_core.assets import Asset

EUR = Asset(2, "EUR", 2)
YEN = Asset(3, "JPY", 0)
ETHER = Asset(4, "ETH", 18)
MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("asset", "amount", "minor"),
    [
        (EUR, "12.50", 1250),
        (EUR, "12.5", 1250),
        (EUR, "12.5000", 1250),
        (EUR, Decimal("12.50"), 1250),
        (EUR, 12, 1200),
        (EUR, "-0.01", -1),
        (EUR, "0", 0),
        (EUR, Decimal("0E-999999"), 0),
        (EUR, "1E+3", 100_000),
        (EUR, "92233720368547758.07", MAX),
        (EUR, "-92233720368547758.07", -MAX),
        (YEN, "7", 7),
        (YEN, "7.00", 7),
        (ETHER, "9.223372036854775807", MAX),
        (ETHER, "0.000000000000000001", 1),
    ],
)
def test_an_amount_becomes_minor_units(asset: Asset, amount: Any, minor: int) -> None:
    assert asset.to_minor(amount) == minor


@pytest.mark.parametrize("amount", [12.5, float("nan"), True, None, b"12", complex(1)])
def test_what_is_not_exact_is_refused_by_its_type(amount: Any) -> None:
    with pytest.raises(TypeError, match="EUR is a Decimal, int or str"):
        EUR.to_minor(amount)


@pytest.mark.parametrize(
    ("asset", "amount", "told"),
    [
        (EUR, "12.505", "2 of EUR"),
        (EUR, "1E-400000000", "2 of EUR"),
        (YEN, "0.5", "0 of JPY"),
        (EUR, "NaN", "no amount of EUR"),
        (EUR, Decimal("Infinity"), "no amount of EUR"),
        (EUR, "sNaN", "no amount of EUR"),
        (EUR, "twelve", "'twelve' is no amount of EUR"),
        (EUR, "", "no amount of EUR"),
        (EUR, "12,50", "no amount of EUR"),
        (EUR, "92233720368547758.08", "92233720368547758.07 at most"),
        (EUR, -(2**63), "at most"),
        (EUR, "1E+999999999", "at most"),
        (ETHER, "9.223372036854775808", "9.223372036854775807 at most"),
        (ETHER, 10**4_000, "at most"),
        (EUR, "0." + "1" * 62, "decimals"),
        (EUR, "0." + "1" * 5_000, "has 5002 characters"),
        (EUR, "1E+" + "9" * 60, "no amount of EUR"),
    ],
)
def test_what_the_asset_cannot_hold_is_refused_and_says_what_to_do(
    asset: Asset, amount: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told) as error:
        asset.to_minor(amount)
    assert len(str(error.value)) < 200


def test_minor_units_become_an_exact_decimal_whatever_the_context_says() -> None:
    with localcontext() as context:
        context.prec = 3
        amount = EUR.to_decimal(-MAX)
        assert EUR.to_minor("92233720368547758.07") == MAX
    assert str(amount) == "-92233720368547758.07"
    assert str(EUR.to_decimal(1250)) == "12.50"
    assert str(ETHER.to_decimal(1)) == "1E-18"
    assert str(YEN.to_decimal(0)) == "0"
    assert getcontext().prec != 3


@pytest.mark.parametrize("minor", [1.0, True, "5", Decimal(5)])
def test_minor_units_that_are_no_integer_are_refused(minor: Any) -> None:
    with pytest.raises(TypeError, match="int"):
        EUR.to_decimal(minor)


@given(st.integers(-MAX, MAX), st.integers(0, 18))
def test_every_amount_survives_the_way_out_and_back(minor: int, decimals: int) -> None:
    asset = Asset(9, "ANY", decimals)
    amount = asset.to_decimal(minor)
    assert asset.to_minor(amount) == minor
    assert asset.to_minor(str(amount)) == minor
    assert Fraction(amount) == Fraction(minor, 10**decimals)


@pytest.mark.parametrize(
    "text",
    ["1_000", " 1", "1 ", "1\n", "\u0661\u0662", "\uff11", "+-1", ".", "1e", "1.2.3", "0x1f"],
)
def test_text_is_an_amount_only_in_plain_ascii(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of EUR"):
        EUR.to_minor(text)


@pytest.mark.parametrize("text", ["+1.5", "01.50", "1.5e0", "15E-1", ".15e+1"])
def test_the_usual_ways_to_write_a_number_are_taken(text: str) -> None:
    assert EUR.to_minor(text) == 150


@pytest.mark.parametrize("plain", ["1." + "0" * 10**6, "1" * 65])
def test_an_amount_too_long_to_reckon_with_is_refused(plain: str) -> None:
    with localcontext() as context:
        context.prec = 10**7
        for amount in (plain, Decimal(plain)):
            with pytest.raises(ValueError, match="at most 64, round it first") as error:
                EUR.to_minor(amount)
            assert len(str(error.value)) < 200
    assert EUR.to_minor("1." + "0" * 62) == 100
