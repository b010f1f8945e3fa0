from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OK: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
    OUTCOME_LATE: _ClassVar[Outcome]
    OUTCOME_SKIPPED: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OK: Outcome
OUTCOME_FAILED: Outcome
OUTCOME_LATE: Outcome
OUTCOME_SKIPPED: Outcome

class PredictRequest(_message.Message):
    __slots__ = ("ensemble", "version", "id", "policy", "timeout_microseconds", "tensor", "images")
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ensemble: str
    version: str
    id: str
    policy: str
    timeout_microseconds: int
    tensor: Tensor
    images: Images
    def __init__(self, ensemble: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[str] = ..., policy: _Optional[str] = ..., timeout_microseconds: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., images: _Optional[_Union[Images, _Mapping]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("datatype", "shape", "data")
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, files: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("ensemble", "version", "id", "policy", "label", "label_index", "probabilities", "agreement", "margin", "exact", "partial", "members", "latency_seconds", "device_seconds", "cost_usd", "digest", "error", "votes", "receipt", "certificate", "requested_policy", "brownout_level")
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_INDEX_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_POLICY_FIELD_NUMBER: _ClassVar[int]
    BROWNOUT_LEVEL_FIELD_NUMBER: _ClassVar[int]
    ensemble: str
    version: str
    id: str
    policy: str
    label: _containers.RepeatedScalarFieldContainer[str]
    label_index: _containers.RepeatedScalarFieldContainer[int]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    agreement: _containers.RepeatedScalarFieldContainer[float]
    margin: _containers.RepeatedScalarFieldContainer[float]
    exact: _containers.RepeatedScalarFieldContainer[bool]
    partial: bool
    members: _containers.RepeatedCompositeFieldContainer[MemberResult]
    latency_seconds: LatencySeconds
    device_seconds: float
    cost_usd: float
    digest: str
    error: Error
    votes: _containers.RepeatedScalarFieldContainer[int]
    receipt: str
    certificate: str
    requested_policy: str
    brownout_level: int
    def __init__(self, ensemble: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[str] = ..., policy: _Optional[str] = ..., label: _Optional[_Iterable[str]] = ..., label_index: _Optional[_Iterable[int]] = ..., probabilities: _Optional[_Iterable[float]] = ..., agreement: _Optional[_Iterable[float]] = ..., margin: _Optional[_Iterable[float]] = ..., exact: _Optional[_Iterable[bool]] = ..., partial: _Optional[bool] = ..., members: _Optional[_Iterable[_Union[MemberResult, _Mapping]]] = ..., latency_seconds: _Optional[_Union[LatencySeconds, _Mapping]] = ..., device_seconds: _Optional[float] = ..., cost_usd: _Optional[float] = ..., digest: _Optional[str] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., votes: _Optional[_Iterable[int]] = ..., receipt: _Optional[str] = ..., certificate: _Optional[str] = ..., requested_policy: _Optional[str] = ..., brownout_level: _Optional[int] = ...) -> None: ...

class MemberResult(_message.Message):
    __slots__ = ("name", "outcome", "seconds", "device_seconds", "cost_usd")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    name: str
    outcome: Outcome
    seconds: float
    device_seconds: float
    cost_usd: float
    def __init__(self, name: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., seconds: _Optional[float] = ..., device_seconds: _Optional[float] = ..., cost_usd: _Optional[float] = ...) -> None: ...

class LatencySeconds(_message.Message):
    __slots__ = ("queue", "compute", "vote", "total")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    VOTE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    queue: float
    compute: float
    vote: float
    total: float
    def __init__(self, queue: _Optional[float] = ..., compute: _Optional[float] = ..., vote: _Optional[float] = ..., total: _Optional[float] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("ensemble", "receipt", "labels")
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ensemble: str
    receipt: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ensemble: _Optional[str] = ..., receipt: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("rows", "right", "members")
    class MembersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    right: int
    members: _containers.ScalarMap[str, int]
    def __init__(self, rows: _Optional[int] = ..., right: _Optional[int] = ..., members: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ListEnsemblesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEnsemblesResponse(_message.Message):
    __slots__ = ("ensembles",)
    ENSEMBLES_FIELD_NUMBER: _ClassVar[int]
    ensembles: _containers.RepeatedCompositeFieldContainer[Ensemble]
    def __init__(self, ensembles: _Optional[_Iterable[_Union[Ensemble, _Mapping]]] = ...) -> None: ...

class GetEnsembleRequest(_message.Message):
    __slots__ = ("ensemble",)
    ENSEMBLE_FIELD_NUMBER: _ClassVar[int]
    ensemble: str
    def __init__(self, ensemble: _Optional[str] = ...) -> None: ...

class Ensemble(_message.Message):
    __slots__ = ("name", "version", "labels", "datatype", "shape", "members", "rule", "tie_break", "quorum", "policies", "default_policy", "digest", "ready", "max_batch_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    TIE_BREAK_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_POLICY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    rule: str
    tie_break: str
    quorum: int
    policies: _containers.RepeatedScalarFieldContainer[str]
    default_policy: str
    digest: str
    ready: bool
    max_batch_size: int
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., rule: _Optional[str] = ..., tie_break: _Optional[str] = ..., quorum: _Optional[int] = ..., policies: _Optional[_Iterable[str]] = ..., default_policy: _Optional[str] = ..., digest: _Optional[str] = ..., ready: _Optional[bool] = ..., max_batch_size: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "weight", "backend", "device", "provider")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    backend: str
    device: str
    provider: str
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., provider: _Optional[str] = ...) -> None: ...
