"""What strangers send: never a crash, an endless allocation or a change by what was refused."""

from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from client_core.wire import read_response
from cluster_app.bank import BankCodec
from cluster_app.envelope import read_request
from cluster_app.rpc import Refusal
from cluster_app.typed import pack_commands
from cluster_core.batch import EpochStart, LedgerParameters, open_batch
from cluster_core.errors import InvalidCommands, JournalFault
from cluster_core.structure import read_message
from proto import ledger_pb2
from tests.fuzz.hostile_commands import fuzz_decoder
from tests.fuzz.hostile_records import fuzz_records

DECODER_S_MAX = 10.0
READER_S_MAX = 5.0


def check_told(text: str) -> None:
    """One line of a length that a log can take, whatever was sent."""
    assert 0 < len(text) < 1_000


def test_the_decoder_takes_exactly_what_the_contract_allows() -> None:
    tally = fuzz_decoder(1, 60_000, seconds_max=DECODER_S_MAX)
    assert tally.messages >= 1_000
    assert tally.taken > tally.refused // 4
    assert tally.refused > tally.taken // 4
    assert len(tally.statuses) > 15


def test_a_changed_record_counts_is_skipped_or_stops_the_reader_with_one_line() -> None:
    tally = fuzz_records(1, 10_000, seconds_max=READER_S_MAX)
    assert tally.records >= 100
    assert min(tally.counted, tally.skipped, tally.refused) > 0


@given(st.binary(max_size=300))
def test_any_bytes_are_a_batch_or_a_fault(value: bytes) -> None:
    for data in (value, b"RNGLEDGR" + value, b"RNGLEDGR\x01\x00" + value):
        try:
            open_batch(data)
        except JournalFault:
            continue
        raise AssertionError(data.hex())


@given(st.binary(max_size=600))
def test_any_bytes_are_a_first_epoch_or_a_fault(body: bytes) -> None:
    try:
        assert isinstance(EpochStart.unpack(body).parameters, LedgerParameters)
    except JournalFault as fault:
        check_told(str(fault))


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


envelopes = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(0, 2**35), st.binary(max_size=150)).map(
        lambda drawn: b"\x0a" + varint(drawn[0]) + drawn[1]
    ),
    st.tuples(st.binary(max_size=150), st.binary(max_size=20)).map(
        lambda drawn: b"\x0a" + varint(len(drawn[0])) + drawn[0] + drawn[1]
    ),
)


@given(envelopes)
def test_a_request_is_read_as_the_generated_class_reads_it(data: bytes) -> None:
    try:
        expected = ledger_pb2.SubmitRequest.FromString(data).commands
    except DecodeError:
        expected = None
    try:
        found = bytes(read_request(data))
    except DecodeError:
        found = None
    assert found == expected


@given(envelopes)
def test_a_response_is_read_as_the_generated_class_reads_it(data: bytes) -> None:
    try:
        message = ledger_pb2.SubmitResponse.FromString(data)
        expected: Any = (message.replies, message.ledger_time_ns)
    except DecodeError:
        expected = None
    try:
        replies, ledger_time_ns = read_response(data)
        found: Any = (bytes(replies), ledger_time_ns)
    except (DecodeError, ValueError):
        found = None
    if found is None:
        assert expected is None or len(expected[0]) % 48
    else:
        assert found == expected


@given(st.binary(max_size=400))
def test_the_bank_codec_answers_refuses_or_packs_any_bytes(data: bytes) -> None:
    decoded = BankCodec().decode(data, 0)
    if isinstance(decoded, tuple):
        assert len(read_message(decoded[0])) == 1
    else:
        assert isinstance(decoded, bytes | Refusal)


@given(st.binary(max_size=400), st.booleans())
def test_typed_commands_of_any_bytes_are_packed_or_refused(data: bytes, atomic: bool) -> None:
    try:
        request = ledger_pb2.ExecuteBatchRequest.FromString(data)
    except DecodeError:
        return
    try:
        read_message(pack_commands(request.commands, atomic=atomic))
    except InvalidCommands as error:
        check_told(error.reason)
