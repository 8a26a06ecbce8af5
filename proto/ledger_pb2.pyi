from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_OK: _ClassVar[Status]
    STATUS_COMMAND_ID_REUSED: _ClassVar[Status]
    STATUS_COMMAND_ID_TOO_OLD: _ClassVar[Status]
    STATUS_COMMAND_ID_IN_FUTURE: _ClassVar[Status]
    STATUS_CHAIN_ID_REUSED: _ClassVar[Status]
    STATUS_LINKED_FAILED: _ClassVar[Status]
    STATUS_AMOUNT_NOT_POSITIVE: _ClassVar[Status]
    STATUS_SAME_ACCOUNT: _ClassVar[Status]
    STATUS_DEBIT_ACCOUNT_NOT_FOUND: _ClassVar[Status]
    STATUS_CREDIT_ACCOUNT_NOT_FOUND: _ClassVar[Status]
    STATUS_ASSETS_DIFFER: _ClassVar[Status]
    STATUS_INSUFFICIENT_FUNDS: _ClassVar[Status]
    STATUS_BALANCE_OVERFLOW: _ClassVar[Status]
    STATUS_CEILING_EXCEEDED: _ClassVar[Status]
    STATUS_ASSET_NOT_FOUND: _ClassVar[Status]
    STATUS_ACCOUNT_CAPACITY_REACHED: _ClassVar[Status]
    STATUS_ASSET_NUMBER_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_ASSET_DECIMALS_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_ASSET_SYMBOL_INVALID: _ClassVar[Status]
    STATUS_ASSET_EXISTS: _ClassVar[Status]
    STATUS_ASSET_SYMBOL_TAKEN: _ClassVar[Status]
    STATUS_DEBIT_ACCOUNT_CLOSED: _ClassVar[Status]
    STATUS_CREDIT_ACCOUNT_CLOSED: _ClassVar[Status]
    STATUS_DEBIT_ACCOUNT_LOCKED: _ClassVar[Status]
    STATUS_CREDIT_ACCOUNT_LOCKED: _ClassVar[Status]
    STATUS_VERSION_MISMATCH: _ClassVar[Status]
    STATUS_HOLD_CAPACITY_REACHED: _ClassVar[Status]
    STATUS_HOLD_NOT_FOUND: _ClassVar[Status]
    STATUS_HOLD_NOT_OPEN: _ClassVar[Status]
    STATUS_HOLD_EXPIRED: _ClassVar[Status]
    STATUS_HOLD_NOT_EXPIRED: _ClassVar[Status]
    STATUS_HOLD_EXCEEDED: _ClassVar[Status]
    STATUS_LOCK_CODE_INVALID: _ClassVar[Status]
    STATUS_FLOOR_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_FLOOR_ABOVE_CEILING: _ClassVar[Status]
    STATUS_BALANCE_OUTSIDE_LIMITS: _ClassVar[Status]
    STATUS_BALANCE_NOT_ZERO: _ClassVar[Status]
    STATUS_HOLDS_OPEN: _ClassVar[Status]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_LEADER: _ClassVar[Role]
    ROLE_FOLLOWER: _ClassVar[Role]
    ROLE_LEARNER: _ClassVar[Role]
    ROLE_ARCHIVER: _ClassVar[Role]
    ROLE_STANDBY: _ClassVar[Role]

class AccountStateFilter(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCOUNT_STATE_FILTER_UNSPECIFIED: _ClassVar[AccountStateFilter]
    ACCOUNT_STATE_FILTER_OPEN: _ClassVar[AccountStateFilter]
    ACCOUNT_STATE_FILTER_LOCKED: _ClassVar[AccountStateFilter]
    ACCOUNT_STATE_FILTER_CLOSED: _ClassVar[AccountStateFilter]

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_CREATE_ACCOUNT: _ClassVar[Operation]
    OPERATION_DEPOSIT: _ClassVar[Operation]
    OPERATION_WITHDRAW: _ClassVar[Operation]
    OPERATION_TRANSFER: _ClassVar[Operation]
    OPERATION_REGISTER_ASSET: _ClassVar[Operation]
    OPERATION_HOLD: _ClassVar[Operation]
    OPERATION_CAPTURE: _ClassVar[Operation]
    OPERATION_RELEASE: _ClassVar[Operation]
    OPERATION_EXPIRE: _ClassVar[Operation]
    OPERATION_LOCK: _ClassVar[Operation]
    OPERATION_UNLOCK: _ClassVar[Operation]
    OPERATION_CLOSE: _ClassVar[Operation]
    OPERATION_SET_LIMITS: _ClassVar[Operation]
STATUS_UNSPECIFIED: Status
STATUS_OK: Status
STATUS_COMMAND_ID_REUSED: Status
STATUS_COMMAND_ID_TOO_OLD: Status
STATUS_COMMAND_ID_IN_FUTURE: Status
STATUS_CHAIN_ID_REUSED: Status
STATUS_LINKED_FAILED: Status
STATUS_AMOUNT_NOT_POSITIVE: Status
STATUS_SAME_ACCOUNT: Status
STATUS_DEBIT_ACCOUNT_NOT_FOUND: Status
STATUS_CREDIT_ACCOUNT_NOT_FOUND: Status
STATUS_ASSETS_DIFFER: Status
STATUS_INSUFFICIENT_FUNDS: Status
STATUS_BALANCE_OVERFLOW: Status
STATUS_CEILING_EXCEEDED: Status
STATUS_ASSET_NOT_FOUND: Status
STATUS_ACCOUNT_CAPACITY_REACHED: Status
STATUS_ASSET_NUMBER_OUT_OF_RANGE: Status
STATUS_ASSET_DECIMALS_OUT_OF_RANGE: Status
STATUS_ASSET_SYMBOL_INVALID: Status
STATUS_ASSET_EXISTS: Status
STATUS_ASSET_SYMBOL_TAKEN: Status
STATUS_DEBIT_ACCOUNT_CLOSED: Status
STATUS_CREDIT_ACCOUNT_CLOSED: Status
STATUS_DEBIT_ACCOUNT_LOCKED: Status
STATUS_CREDIT_ACCOUNT_LOCKED: Status
STATUS_VERSION_MISMATCH: Status
STATUS_HOLD_CAPACITY_REACHED: Status
STATUS_HOLD_NOT_FOUND: Status
STATUS_HOLD_NOT_OPEN: Status
STATUS_HOLD_EXPIRED: Status
STATUS_HOLD_NOT_EXPIRED: Status
STATUS_HOLD_EXCEEDED: Status
STATUS_LOCK_CODE_INVALID: Status
STATUS_FLOOR_OUT_OF_RANGE: Status
STATUS_FLOOR_ABOVE_CEILING: Status
STATUS_BALANCE_OUTSIDE_LIMITS: Status
STATUS_BALANCE_NOT_ZERO: Status
STATUS_HOLDS_OPEN: Status
ROLE_UNSPECIFIED: Role
ROLE_LEADER: Role
ROLE_FOLLOWER: Role
ROLE_LEARNER: Role
ROLE_ARCHIVER: Role
ROLE_STANDBY: Role
ACCOUNT_STATE_FILTER_UNSPECIFIED: AccountStateFilter
ACCOUNT_STATE_FILTER_OPEN: AccountStateFilter
ACCOUNT_STATE_FILTER_LOCKED: AccountStateFilter
ACCOUNT_STATE_FILTER_CLOSED: AccountStateFilter
OPERATION_UNSPECIFIED: Operation
OPERATION_CREATE_ACCOUNT: Operation
OPERATION_DEPOSIT: Operation
OPERATION_WITHDRAW: Operation
OPERATION_TRANSFER: Operation
OPERATION_REGISTER_ASSET: Operation
OPERATION_HOLD: Operation
OPERATION_CAPTURE: Operation
OPERATION_RELEASE: Operation
OPERATION_EXPIRE: Operation
OPERATION_LOCK: Operation
OPERATION_UNLOCK: Operation
OPERATION_CLOSE: Operation
OPERATION_SET_LIMITS: Operation

class SubmitRequest(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: bytes
    def __init__(self, commands: _Optional[bytes] = ...) -> None: ...

class SubmitResponse(_message.Message):
    __slots__ = ("replies", "ledger_time_ns")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    replies: bytes
    ledger_time_ns: int
    def __init__(self, replies: _Optional[bytes] = ..., ledger_time_ns: _Optional[int] = ...) -> None: ...

class CreateAccount(_message.Message):
    __slots__ = ("asset", "reference")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    asset: int
    reference: int
    def __init__(self, asset: _Optional[int] = ..., reference: _Optional[int] = ...) -> None: ...

class Deposit(_message.Message):
    __slots__ = ("credit_account", "amount", "expected_version")
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    credit_account: int
    amount: int
    expected_version: int
    def __init__(self, credit_account: _Optional[int] = ..., amount: _Optional[int] = ..., expected_version: _Optional[int] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("debit_account", "amount", "expected_version")
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    debit_account: int
    amount: int
    expected_version: int
    def __init__(self, debit_account: _Optional[int] = ..., amount: _Optional[int] = ..., expected_version: _Optional[int] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("debit_account", "credit_account", "amount", "expected_version", "balancing")
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    BALANCING_FIELD_NUMBER: _ClassVar[int]
    debit_account: int
    credit_account: int
    amount: int
    expected_version: int
    balancing: bool
    def __init__(self, debit_account: _Optional[int] = ..., credit_account: _Optional[int] = ..., amount: _Optional[int] = ..., expected_version: _Optional[int] = ..., balancing: bool = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("debit_account", "credit_account", "amount", "timeout_s", "expected_version")
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    debit_account: int
    credit_account: int
    amount: int
    timeout_s: int
    expected_version: int
    def __init__(self, debit_account: _Optional[int] = ..., credit_account: _Optional[int] = ..., amount: _Optional[int] = ..., timeout_s: _Optional[int] = ..., expected_version: _Optional[int] = ...) -> None: ...

class Capture(_message.Message):
    __slots__ = ("hold_id", "amount", "balancing", "keep_rest_held")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    BALANCING_FIELD_NUMBER: _ClassVar[int]
    KEEP_REST_HELD_FIELD_NUMBER: _ClassVar[int]
    hold_id: int
    amount: int
    balancing: bool
    keep_rest_held: bool
    def __init__(self, hold_id: _Optional[int] = ..., amount: _Optional[int] = ..., balancing: bool = ..., keep_rest_held: bool = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("hold_id", "amount")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    hold_id: int
    amount: int
    def __init__(self, hold_id: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class Lock(_message.Message):
    __slots__ = ("account", "debits", "credits")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DEBITS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    account: int
    debits: bool
    credits: bool
    def __init__(self, account: _Optional[int] = ..., debits: bool = ..., credits: bool = ...) -> None: ...

class Unlock(_message.Message):
    __slots__ = ("account", "debits", "credits")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DEBITS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    account: int
    debits: bool
    credits: bool
    def __init__(self, account: _Optional[int] = ..., debits: bool = ..., credits: bool = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: int
    def __init__(self, account: _Optional[int] = ...) -> None: ...

class SetLimits(_message.Message):
    __slots__ = ("account", "floor", "ceiling")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    account: int
    floor: int
    ceiling: int
    def __init__(self, account: _Optional[int] = ..., floor: _Optional[int] = ..., ceiling: _Optional[int] = ...) -> None: ...

class RegisterAsset(_message.Message):
    __slots__ = ("asset", "decimals", "symbol")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    DECIMALS_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    asset: int
    decimals: int
    symbol: str
    def __init__(self, asset: _Optional[int] = ..., decimals: _Optional[int] = ..., symbol: _Optional[str] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("command_id", "code", "create_account", "deposit", "withdraw", "transfer", "register_asset", "hold", "capture", "release", "lock", "unlock", "close", "set_limits")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CREATE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    REGISTER_ASSET_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    LOCK_FIELD_NUMBER: _ClassVar[int]
    UNLOCK_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    SET_LIMITS_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    code: int
    create_account: CreateAccount
    deposit: Deposit
    withdraw: Withdraw
    transfer: Transfer
    register_asset: RegisterAsset
    hold: Hold
    capture: Capture
    release: Release
    lock: Lock
    unlock: Unlock
    close: Close
    set_limits: SetLimits
    def __init__(self, command_id: _Optional[bytes] = ..., code: _Optional[int] = ..., create_account: _Optional[_Union[CreateAccount, _Mapping]] = ..., deposit: _Optional[_Union[Deposit, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ..., register_asset: _Optional[_Union[RegisterAsset, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., capture: _Optional[_Union[Capture, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., lock: _Optional[_Union[Lock, _Mapping]] = ..., unlock: _Optional[_Union[Unlock, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., set_limits: _Optional[_Union[SetLimits, _Mapping]] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("status", "sequence", "entity", "amount", "debit_balance", "credit_balance", "duplicate")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DEBIT_BALANCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BALANCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    status: Status
    sequence: int
    entity: int
    amount: int
    debit_balance: int
    credit_balance: int
    duplicate: bool
    def __init__(self, status: _Optional[_Union[Status, str]] = ..., sequence: _Optional[int] = ..., entity: _Optional[int] = ..., amount: _Optional[int] = ..., debit_balance: _Optional[int] = ..., credit_balance: _Optional[int] = ..., duplicate: bool = ...) -> None: ...

class ExecuteRequest(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: Command
    def __init__(self, command: _Optional[_Union[Command, _Mapping]] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("reply", "ledger_time_ns")
    REPLY_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    reply: Reply
    ledger_time_ns: int
    def __init__(self, reply: _Optional[_Union[Reply, _Mapping]] = ..., ledger_time_ns: _Optional[int] = ...) -> None: ...

class ExecuteBatchRequest(_message.Message):
    __slots__ = ("commands", "atomic")
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    atomic: bool
    def __init__(self, commands: _Optional[_Iterable[_Union[Command, _Mapping]]] = ..., atomic: bool = ...) -> None: ...

class ExecuteBatchResponse(_message.Message):
    __slots__ = ("replies", "ledger_time_ns")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    ledger_time_ns: int
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ..., ledger_time_ns: _Optional[int] = ...) -> None: ...

class Consistency(_message.Message):
    __slots__ = ("at_least_sequence", "linearizable")
    AT_LEAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LINEARIZABLE_FIELD_NUMBER: _ClassVar[int]
    at_least_sequence: int
    linearizable: bool
    def __init__(self, at_least_sequence: _Optional[int] = ..., linearizable: bool = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account_id", "consistency")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    consistency: Consistency
    def __init__(self, account_id: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("account_id", "asset", "posted", "held", "debits_total", "credits_total", "version", "last_sequence", "reference", "code", "opened_ns", "floor", "ceiling", "open_holds", "debits_locked", "credits_locked", "closed", "available")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    POSTED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    DEBITS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    CREDITS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    OPENED_NS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    OPEN_HOLDS_FIELD_NUMBER: _ClassVar[int]
    DEBITS_LOCKED_FIELD_NUMBER: _ClassVar[int]
    CREDITS_LOCKED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    asset: int
    posted: int
    held: int
    debits_total: int
    credits_total: int
    version: int
    last_sequence: int
    reference: int
    code: int
    opened_ns: int
    floor: int
    ceiling: int
    open_holds: int
    debits_locked: bool
    credits_locked: bool
    closed: bool
    available: int
    def __init__(self, account_id: _Optional[int] = ..., asset: _Optional[int] = ..., posted: _Optional[int] = ..., held: _Optional[int] = ..., debits_total: _Optional[int] = ..., credits_total: _Optional[int] = ..., version: _Optional[int] = ..., last_sequence: _Optional[int] = ..., reference: _Optional[int] = ..., code: _Optional[int] = ..., opened_ns: _Optional[int] = ..., floor: _Optional[int] = ..., ceiling: _Optional[int] = ..., open_holds: _Optional[int] = ..., debits_locked: bool = ..., credits_locked: bool = ..., closed: bool = ..., available: _Optional[int] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account", "applied_sequence")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    account: Account
    applied_sequence: int
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class GetAccountsRequest(_message.Message):
    __slots__ = ("account_ids", "consistency")
    ACCOUNT_IDS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    account_ids: bytes
    consistency: Consistency
    def __init__(self, account_ids: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class GetAccountsResponse(_message.Message):
    __slots__ = ("accounts", "applied_sequence")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    accounts: bytes
    applied_sequence: int
    def __init__(self, accounts: _Optional[bytes] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class ListAccountsRequest(_message.Message):
    __slots__ = ("after_account_id", "page_size", "asset", "state", "code", "reference", "consistency")
    AFTER_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    after_account_id: int
    page_size: int
    asset: int
    state: AccountStateFilter
    code: int
    reference: int
    consistency: Consistency
    def __init__(self, after_account_id: _Optional[int] = ..., page_size: _Optional[int] = ..., asset: _Optional[int] = ..., state: _Optional[_Union[AccountStateFilter, str]] = ..., code: _Optional[int] = ..., reference: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class ListAccountsResponse(_message.Message):
    __slots__ = ("accounts", "next_after_account_id", "applied_sequence")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[Account]
    next_after_account_id: int
    applied_sequence: int
    def __init__(self, accounts: _Optional[_Iterable[_Union[Account, _Mapping]]] = ..., next_after_account_id: _Optional[int] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class GetHoldRequest(_message.Message):
    __slots__ = ("hold_id", "consistency")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    hold_id: int
    consistency: Consistency
    def __init__(self, hold_id: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class OpenHold(_message.Message):
    __slots__ = ("hold_id", "debit_account", "credit_account", "asset", "remaining", "expires_ns", "opened_sequence", "code")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    OPENED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    hold_id: int
    debit_account: int
    credit_account: int
    asset: int
    remaining: int
    expires_ns: int
    opened_sequence: int
    code: int
    def __init__(self, hold_id: _Optional[int] = ..., debit_account: _Optional[int] = ..., credit_account: _Optional[int] = ..., asset: _Optional[int] = ..., remaining: _Optional[int] = ..., expires_ns: _Optional[int] = ..., opened_sequence: _Optional[int] = ..., code: _Optional[int] = ...) -> None: ...

class GetHoldResponse(_message.Message):
    __slots__ = ("hold", "applied_sequence")
    HOLD_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    hold: OpenHold
    applied_sequence: int
    def __init__(self, hold: _Optional[_Union[OpenHold, _Mapping]] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class GetTotalsRequest(_message.Message):
    __slots__ = ("consistency",)
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    consistency: Consistency
    def __init__(self, consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class GetTotalsResponse(_message.Message):
    __slots__ = ("assets", "applied_sequence", "ledger_time_ns")
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    assets: _containers.RepeatedCompositeFieldContainer[Asset]
    applied_sequence: int
    ledger_time_ns: int
    def __init__(self, assets: _Optional[_Iterable[_Union[Asset, _Mapping]]] = ..., applied_sequence: _Optional[int] = ..., ledger_time_ns: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("account_ids", "consistency")
    ACCOUNT_IDS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    account_ids: _containers.RepeatedScalarFieldContainer[int]
    consistency: Consistency
    def __init__(self, account_ids: _Optional[_Iterable[int]] = ..., consistency: _Optional[_Union[Consistency, _Mapping]] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("accounts", "applied_sequence", "missed_from_sequence")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MISSED_FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[Account]
    applied_sequence: int
    missed_from_sequence: int
    def __init__(self, accounts: _Optional[_Iterable[_Union[Account, _Mapping]]] = ..., applied_sequence: _Optional[int] = ..., missed_from_sequence: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("role", "node_id", "address", "leader", "epoch", "applied_sequence", "ledger_time_ns", "accounts", "ledger_id", "chain", "assets", "lag_commands", "lag_s", "next_offset", "in_flight_commands", "ring_capacity", "snapshot_taken_ns", "snapshot_applied_sequence", "cannot_lead_because")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ID_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    LAG_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    LAG_S_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    RING_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_TAKEN_NS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CANNOT_LEAD_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    role: Role
    node_id: str
    address: str
    leader: str
    epoch: int
    applied_sequence: int
    ledger_time_ns: int
    accounts: int
    ledger_id: bytes
    chain: bytes
    assets: _containers.RepeatedCompositeFieldContainer[Asset]
    lag_commands: int
    lag_s: float
    next_offset: int
    in_flight_commands: int
    ring_capacity: int
    snapshot_taken_ns: int
    snapshot_applied_sequence: int
    cannot_lead_because: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., node_id: _Optional[str] = ..., address: _Optional[str] = ..., leader: _Optional[str] = ..., epoch: _Optional[int] = ..., applied_sequence: _Optional[int] = ..., ledger_time_ns: _Optional[int] = ..., accounts: _Optional[int] = ..., ledger_id: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., assets: _Optional[_Iterable[_Union[Asset, _Mapping]]] = ..., lag_commands: _Optional[int] = ..., lag_s: _Optional[float] = ..., next_offset: _Optional[int] = ..., in_flight_commands: _Optional[int] = ..., ring_capacity: _Optional[int] = ..., snapshot_taken_ns: _Optional[int] = ..., snapshot_applied_sequence: _Optional[int] = ..., cannot_lead_because: _Optional[str] = ...) -> None: ...

class HandOverRequest(_message.Message):
    __slots__ = ("standby", "standby_next_offset")
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    STANDBY_NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    standby: str
    standby_next_offset: int
    def __init__(self, standby: _Optional[str] = ..., standby_next_offset: _Optional[int] = ...) -> None: ...

class HandOverResponse(_message.Message):
    __slots__ = ("epoch", "applied_sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    applied_sequence: int
    def __init__(self, epoch: _Optional[int] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class Asset(_message.Message):
    __slots__ = ("asset", "decimals", "symbol", "posted_total", "accounts", "held_total", "open_holds")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    DECIMALS_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    POSTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    HELD_TOTAL_FIELD_NUMBER: _ClassVar[int]
    OPEN_HOLDS_FIELD_NUMBER: _ClassVar[int]
    asset: int
    decimals: int
    symbol: str
    posted_total: int
    accounts: int
    held_total: int
    open_holds: int
    def __init__(self, asset: _Optional[int] = ..., decimals: _Optional[int] = ..., symbol: _Optional[str] = ..., posted_total: _Optional[int] = ..., accounts: _Optional[int] = ..., held_total: _Optional[int] = ..., open_holds: _Optional[int] = ...) -> None: ...

class HistoryExtent(_message.Message):
    __slots__ = ("complete_sequence", "ledger_time_ns", "first_sequence", "refused", "ledger_id")
    COMPLETE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    LEDGER_ID_FIELD_NUMBER: _ClassVar[int]
    complete_sequence: int
    ledger_time_ns: int
    first_sequence: int
    refused: bool
    ledger_id: bytes
    def __init__(self, complete_sequence: _Optional[int] = ..., ledger_time_ns: _Optional[int] = ..., first_sequence: _Optional[int] = ..., refused: bool = ..., ledger_id: _Optional[bytes] = ...) -> None: ...

class HistoryEntry(_message.Message):
    __slots__ = ("sequence", "timestamp_ns", "command_id", "operation", "status", "debit_account", "credit_account", "amount", "debit_balance", "credit_balance", "hold_id", "asset", "code", "reference")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    DEBIT_BALANCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BALANCE_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    timestamp_ns: int
    command_id: bytes
    operation: Operation
    status: Status
    debit_account: int
    credit_account: int
    amount: int
    debit_balance: int
    credit_balance: int
    hold_id: int
    asset: int
    code: int
    reference: int
    def __init__(self, sequence: _Optional[int] = ..., timestamp_ns: _Optional[int] = ..., command_id: _Optional[bytes] = ..., operation: _Optional[_Union[Operation, str]] = ..., status: _Optional[_Union[Status, str]] = ..., debit_account: _Optional[int] = ..., credit_account: _Optional[int] = ..., amount: _Optional[int] = ..., debit_balance: _Optional[int] = ..., credit_balance: _Optional[int] = ..., hold_id: _Optional[int] = ..., asset: _Optional[int] = ..., code: _Optional[int] = ..., reference: _Optional[int] = ...) -> None: ...

class GetStatementRequest(_message.Message):
    __slots__ = ("account_id", "before_sequence", "page_size", "from_ns", "until_ns", "operation", "code")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BEFORE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    FROM_NS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    before_sequence: int
    page_size: int
    from_ns: int
    until_ns: int
    operation: Operation
    code: int
    def __init__(self, account_id: _Optional[int] = ..., before_sequence: _Optional[int] = ..., page_size: _Optional[int] = ..., from_ns: _Optional[int] = ..., until_ns: _Optional[int] = ..., operation: _Optional[_Union[Operation, str]] = ..., code: _Optional[int] = ...) -> None: ...

class GetStatementResponse(_message.Message):
    __slots__ = ("entries", "next_before_sequence", "extent")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_BEFORE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    next_before_sequence: int
    extent: HistoryExtent
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., next_before_sequence: _Optional[int] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class HistoryMoment(_message.Message):
    __slots__ = ("sequence", "timestamp_ns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    timestamp_ns: int
    def __init__(self, sequence: _Optional[int] = ..., timestamp_ns: _Optional[int] = ...) -> None: ...

class GetBalanceRequest(_message.Message):
    __slots__ = ("account_id", "at")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    at: HistoryMoment
    def __init__(self, account_id: _Optional[int] = ..., at: _Optional[_Union[HistoryMoment, _Mapping]] = ...) -> None: ...

class HistoryBalance(_message.Message):
    __slots__ = ("account_id", "asset", "posted", "last_sequence")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    POSTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    asset: int
    posted: int
    last_sequence: int
    def __init__(self, account_id: _Optional[int] = ..., asset: _Optional[int] = ..., posted: _Optional[int] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class GetBalanceResponse(_message.Message):
    __slots__ = ("balance", "below_sequence", "extent")
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    BELOW_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    balance: HistoryBalance
    below_sequence: int
    extent: HistoryExtent
    def __init__(self, balance: _Optional[_Union[HistoryBalance, _Mapping]] = ..., below_sequence: _Optional[int] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class ListBalancesRequest(_message.Message):
    __slots__ = ("at", "after_account_id", "page_size")
    AT_FIELD_NUMBER: _ClassVar[int]
    AFTER_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    at: HistoryMoment
    after_account_id: int
    page_size: int
    def __init__(self, at: _Optional[_Union[HistoryMoment, _Mapping]] = ..., after_account_id: _Optional[int] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListBalancesResponse(_message.Message):
    __slots__ = ("balances", "next_after_account_id", "below_sequence", "extent")
    BALANCES_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BELOW_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    balances: _containers.RepeatedCompositeFieldContainer[HistoryBalance]
    next_after_account_id: int
    below_sequence: int
    extent: HistoryExtent
    def __init__(self, balances: _Optional[_Iterable[_Union[HistoryBalance, _Mapping]]] = ..., next_after_account_id: _Optional[int] = ..., below_sequence: _Optional[int] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class FindCommandRequest(_message.Message):
    __slots__ = ("command_id",)
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    def __init__(self, command_id: _Optional[bytes] = ...) -> None: ...

class FindCommandResponse(_message.Message):
    __slots__ = ("entry", "extent")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    entry: HistoryEntry
    extent: HistoryExtent
    def __init__(self, entry: _Optional[_Union[HistoryEntry, _Mapping]] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class ListByReferenceRequest(_message.Message):
    __slots__ = ("reference", "operation", "from_sequence", "page_size")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    reference: int
    operation: Operation
    from_sequence: int
    page_size: int
    def __init__(self, reference: _Optional[int] = ..., operation: _Optional[_Union[Operation, str]] = ..., from_sequence: _Optional[int] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListByReferenceResponse(_message.Message):
    __slots__ = ("entries", "next_sequence", "extent")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    next_sequence: int
    extent: HistoryExtent
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., next_sequence: _Optional[int] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class ListChangesRequest(_message.Message):
    __slots__ = ("from_sequence", "page_size")
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    from_sequence: int
    page_size: int
    def __init__(self, from_sequence: _Optional[int] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListChangesResponse(_message.Message):
    __slots__ = ("entries", "next_sequence", "extent")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[HistoryEntry]
    next_sequence: int
    extent: HistoryExtent
    def __init__(self, entries: _Optional[_Iterable[_Union[HistoryEntry, _Mapping]]] = ..., next_sequence: _Optional[int] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...

class ListDayTotalsRequest(_message.Message):
    __slots__ = ("from_day", "until_day", "asset")
    FROM_DAY_FIELD_NUMBER: _ClassVar[int]
    UNTIL_DAY_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    from_day: int
    until_day: int
    asset: int
    def __init__(self, from_day: _Optional[int] = ..., until_day: _Optional[int] = ..., asset: _Optional[int] = ...) -> None: ...

class DayTotal(_message.Message):
    __slots__ = ("day", "asset", "operation", "commands", "amount")
    DAY_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    day: int
    asset: int
    operation: Operation
    commands: int
    amount: str
    def __init__(self, day: _Optional[int] = ..., asset: _Optional[int] = ..., operation: _Optional[_Union[Operation, str]] = ..., commands: _Optional[int] = ..., amount: _Optional[str] = ...) -> None: ...

class ListDayTotalsResponse(_message.Message):
    __slots__ = ("totals", "extent")
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    EXTENT_FIELD_NUMBER: _ClassVar[int]
    totals: _containers.RepeatedCompositeFieldContainer[DayTotal]
    extent: HistoryExtent
    def __init__(self, totals: _Optional[_Iterable[_Union[DayTotal, _Mapping]]] = ..., extent: _Optional[_Union[HistoryExtent, _Mapping]] = ...) -> None: ...
