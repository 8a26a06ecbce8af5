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
    STATUS_AMOUNT_NOT_POSITIVE: _ClassVar[Status]
    STATUS_SAME_ACCOUNT: _ClassVar[Status]
    STATUS_DEBIT_ACCOUNT_NOT_FOUND: _ClassVar[Status]
    STATUS_CREDIT_ACCOUNT_NOT_FOUND: _ClassVar[Status]
    STATUS_ASSETS_DIFFER: _ClassVar[Status]
    STATUS_INSUFFICIENT_FUNDS: _ClassVar[Status]
    STATUS_BALANCE_OVERFLOW: _ClassVar[Status]
    STATUS_ASSET_NOT_FOUND: _ClassVar[Status]
    STATUS_ACCOUNT_CAPACITY_REACHED: _ClassVar[Status]
    STATUS_ASSET_NUMBER_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_ASSET_DECIMALS_OUT_OF_RANGE: _ClassVar[Status]
    STATUS_ASSET_SYMBOL_INVALID: _ClassVar[Status]
    STATUS_ASSET_EXISTS: _ClassVar[Status]
    STATUS_ASSET_SYMBOL_TAKEN: _ClassVar[Status]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_LEADER: _ClassVar[Role]
    ROLE_FOLLOWER: _ClassVar[Role]
    ROLE_LEARNER: _ClassVar[Role]
    ROLE_ARCHIVER: _ClassVar[Role]
STATUS_UNSPECIFIED: Status
STATUS_OK: Status
STATUS_COMMAND_ID_REUSED: Status
STATUS_COMMAND_ID_TOO_OLD: Status
STATUS_COMMAND_ID_IN_FUTURE: Status
STATUS_AMOUNT_NOT_POSITIVE: Status
STATUS_SAME_ACCOUNT: Status
STATUS_DEBIT_ACCOUNT_NOT_FOUND: Status
STATUS_CREDIT_ACCOUNT_NOT_FOUND: Status
STATUS_ASSETS_DIFFER: Status
STATUS_INSUFFICIENT_FUNDS: Status
STATUS_BALANCE_OVERFLOW: Status
STATUS_ASSET_NOT_FOUND: Status
STATUS_ACCOUNT_CAPACITY_REACHED: Status
STATUS_ASSET_NUMBER_OUT_OF_RANGE: Status
STATUS_ASSET_DECIMALS_OUT_OF_RANGE: Status
STATUS_ASSET_SYMBOL_INVALID: Status
STATUS_ASSET_EXISTS: Status
STATUS_ASSET_SYMBOL_TAKEN: Status
ROLE_UNSPECIFIED: Role
ROLE_LEADER: Role
ROLE_FOLLOWER: Role
ROLE_LEARNER: Role
ROLE_ARCHIVER: Role

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
    __slots__ = ("credit_account", "amount")
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    credit_account: int
    amount: int
    def __init__(self, credit_account: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class Withdraw(_message.Message):
    __slots__ = ("debit_account", "amount")
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    debit_account: int
    amount: int
    def __init__(self, debit_account: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("debit_account", "credit_account", "amount")
    DEBIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    debit_account: int
    credit_account: int
    amount: int
    def __init__(self, debit_account: _Optional[int] = ..., credit_account: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("command_id", "code", "create_account", "deposit", "withdraw", "transfer", "register_asset")
    COMMAND_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CREATE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DEPOSIT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    REGISTER_ASSET_FIELD_NUMBER: _ClassVar[int]
    command_id: bytes
    code: int
    create_account: CreateAccount
    deposit: Deposit
    withdraw: Withdraw
    transfer: Transfer
    register_asset: RegisterAsset
    def __init__(self, command_id: _Optional[bytes] = ..., code: _Optional[int] = ..., create_account: _Optional[_Union[CreateAccount, _Mapping]] = ..., deposit: _Optional[_Union[Deposit, _Mapping]] = ..., withdraw: _Optional[_Union[Withdraw, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ..., register_asset: _Optional[_Union[RegisterAsset, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    def __init__(self, commands: _Optional[_Iterable[_Union[Command, _Mapping]]] = ...) -> None: ...

class ExecuteBatchResponse(_message.Message):
    __slots__ = ("replies", "ledger_time_ns")
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    ledger_time_ns: int
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ..., ledger_time_ns: _Optional[int] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: int
    def __init__(self, account_id: _Optional[int] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("account_id", "asset", "posted", "held", "debits_total", "credits_total", "version", "last_sequence", "reference", "code", "opened_ns")
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
    def __init__(self, account_id: _Optional[int] = ..., asset: _Optional[int] = ..., posted: _Optional[int] = ..., held: _Optional[int] = ..., debits_total: _Optional[int] = ..., credits_total: _Optional[int] = ..., version: _Optional[int] = ..., last_sequence: _Optional[int] = ..., reference: _Optional[int] = ..., code: _Optional[int] = ..., opened_ns: _Optional[int] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account", "applied_sequence")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    account: Account
    applied_sequence: int
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ..., applied_sequence: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("role", "node_id", "address", "leader", "epoch", "applied_sequence", "ledger_time_ns", "accounts", "ledger_id", "chain", "assets")
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
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., node_id: _Optional[str] = ..., address: _Optional[str] = ..., leader: _Optional[str] = ..., epoch: _Optional[int] = ..., applied_sequence: _Optional[int] = ..., ledger_time_ns: _Optional[int] = ..., accounts: _Optional[int] = ..., ledger_id: _Optional[bytes] = ..., chain: _Optional[bytes] = ..., assets: _Optional[_Iterable[_Union[Asset, _Mapping]]] = ...) -> None: ...

class Asset(_message.Message):
    __slots__ = ("asset", "decimals", "symbol", "posted_total", "accounts")
    ASSET_FIELD_NUMBER: _ClassVar[int]
    DECIMALS_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    POSTED_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    asset: int
    decimals: int
    symbol: str
    posted_total: int
    accounts: int
    def __init__(self, asset: _Optional[int] = ..., decimals: _Optional[int] = ..., symbol: _Optional[str] = ..., posted_total: _Optional[int] = ..., accounts: _Optional[int] = ...) -> None: ...
