from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BaseResult(_message.Message):
    __slots__ = ("code", "message", "correlationId")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    correlationId: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., correlationId: _Optional[str] = ...) -> None: ...

class SingleBalanceResult(_message.Message):
    __slots__ = ("id", "amount", "precision", "active", "correlationId")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    id: int
    amount: int
    precision: int
    active: bool
    correlationId: str
    def __init__(self, id: _Optional[int] = ..., amount: _Optional[int] = ..., precision: _Optional[int] = ..., active: bool = ..., correlationId: _Optional[str] = ...) -> None: ...

class BaseResponse(_message.Message):
    __slots__ = ("singleBalanceResult", "baseResult")
    SINGLEBALANCERESULT_FIELD_NUMBER: _ClassVar[int]
    BASERESULT_FIELD_NUMBER: _ClassVar[int]
    singleBalanceResult: SingleBalanceResult
    baseResult: BaseResult
    def __init__(self, singleBalanceResult: _Optional[_Union[SingleBalanceResult, _Mapping]] = ..., baseResult: _Optional[_Union[BaseResult, _Mapping]] = ...) -> None: ...

class CreateBalanceCommand(_message.Message):
    __slots__ = ("correlationId",)
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    correlationId: str
    def __init__(self, correlationId: _Optional[str] = ...) -> None: ...

class DepositCommand(_message.Message):
    __slots__ = ("id", "amount", "correlationId")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    id: int
    amount: int
    correlationId: str
    def __init__(self, id: _Optional[int] = ..., amount: _Optional[int] = ..., correlationId: _Optional[str] = ...) -> None: ...

class WithdrawCommand(_message.Message):
    __slots__ = ("id", "amount", "correlationId")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    id: int
    amount: int
    correlationId: str
    def __init__(self, id: _Optional[int] = ..., amount: _Optional[int] = ..., correlationId: _Optional[str] = ...) -> None: ...

class TransferCommand(_message.Message):
    __slots__ = ("fromId", "toId", "amount", "correlationId")
    FROMID_FIELD_NUMBER: _ClassVar[int]
    TOID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    fromId: int
    toId: int
    amount: int
    correlationId: str
    def __init__(self, fromId: _Optional[int] = ..., toId: _Optional[int] = ..., amount: _Optional[int] = ..., correlationId: _Optional[str] = ...) -> None: ...

class BalanceCommand(_message.Message):
    __slots__ = ("createBalanceCommand", "depositCommand", "withdrawCommand", "transferCommand")
    CREATEBALANCECOMMAND_FIELD_NUMBER: _ClassVar[int]
    DEPOSITCOMMAND_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWCOMMAND_FIELD_NUMBER: _ClassVar[int]
    TRANSFERCOMMAND_FIELD_NUMBER: _ClassVar[int]
    createBalanceCommand: CreateBalanceCommand
    depositCommand: DepositCommand
    withdrawCommand: WithdrawCommand
    transferCommand: TransferCommand
    def __init__(self, createBalanceCommand: _Optional[_Union[CreateBalanceCommand, _Mapping]] = ..., depositCommand: _Optional[_Union[DepositCommand, _Mapping]] = ..., withdrawCommand: _Optional[_Union[WithdrawCommand, _Mapping]] = ..., transferCommand: _Optional[_Union[TransferCommand, _Mapping]] = ...) -> None: ...

class CommandLog(_message.Message):
    __slots__ = ("createBalanceCommand", "depositCommand", "withdrawCommand", "transferCommand")
    CREATEBALANCECOMMAND_FIELD_NUMBER: _ClassVar[int]
    DEPOSITCOMMAND_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWCOMMAND_FIELD_NUMBER: _ClassVar[int]
    TRANSFERCOMMAND_FIELD_NUMBER: _ClassVar[int]
    createBalanceCommand: CreateBalanceCommand
    depositCommand: DepositCommand
    withdrawCommand: WithdrawCommand
    transferCommand: TransferCommand
    def __init__(self, createBalanceCommand: _Optional[_Union[CreateBalanceCommand, _Mapping]] = ..., depositCommand: _Optional[_Union[DepositCommand, _Mapping]] = ..., withdrawCommand: _Optional[_Union[WithdrawCommand, _Mapping]] = ..., transferCommand: _Optional[_Union[TransferCommand, _Mapping]] = ...) -> None: ...

class CommandLogs(_message.Message):
    __slots__ = ("logs",)
    LOGS_FIELD_NUMBER: _ClassVar[int]
    logs: _containers.RepeatedCompositeFieldContainer[CommandLog]
    def __init__(self, logs: _Optional[_Iterable[_Union[CommandLog, _Mapping]]] = ...) -> None: ...

class SingleBalanceQuery(_message.Message):
    __slots__ = ("id", "correlationId")
    ID_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    id: int
    correlationId: str
    def __init__(self, id: _Optional[int] = ..., correlationId: _Optional[str] = ...) -> None: ...

class BalanceQuery(_message.Message):
    __slots__ = ("singleBalanceQuery",)
    SINGLEBALANCEQUERY_FIELD_NUMBER: _ClassVar[int]
    singleBalanceQuery: SingleBalanceQuery
    def __init__(self, singleBalanceQuery: _Optional[_Union[SingleBalanceQuery, _Mapping]] = ...) -> None: ...

class BalanceQueryResult(_message.Message):
    __slots__ = ("singleBalanceResult", "baseResult")
    SINGLEBALANCERESULT_FIELD_NUMBER: _ClassVar[int]
    BASERESULT_FIELD_NUMBER: _ClassVar[int]
    singleBalanceResult: SingleBalanceResult
    baseResult: BaseResult
    def __init__(self, singleBalanceResult: _Optional[_Union[SingleBalanceResult, _Mapping]] = ..., baseResult: _Optional[_Union[BaseResult, _Mapping]] = ...) -> None: ...
