"""What is served: repositories become live ensembles, and the names by which requests find them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ensembles.members import Member, MemberError
from ensembles.repository import Repository, RepositoryError
from ensembles.spec import EnsembleSpec, MemberSpec
from serving.batcher import Batcher, Books
from serving.errors import NotReady, Unknown
from serving.sanity import SanityError, replay

log = logging.getLogger(__name__)

LoadMember = Callable[[MemberSpec, bytes], Member]


@dataclass(slots=True)
class Live:
    """One ensemble with its members loaded.

    `reason`: why it is not ready, "" when it is. `label_names`, `label_bytes` [K + 1]: the last, for -1, is empty.
    """

    repository: Repository
    members: Sequence[Member] = ()
    batcher: Batcher | None = None
    reason: str = "loading"
    closed: bool = False
    spec: EnsembleSpec = field(init=False)
    name: str = field(init=False)
    version: str = field(init=False)
    digest: str = field(init=False)
    label_names: NDArray[np.object_] = field(init=False)
    label_bytes: NDArray[np.object_] = field(init=False)

    def __post_init__(self) -> None:
        self.spec, self.digest = self.repository.spec, self.repository.digest
        self.name, self.version = self.spec.name, str(self.spec.version)
        self.label_names = np.array([*self.spec.labels, ""], dtype=object)
        self.label_bytes = np.array([name.encode() for name in self.label_names], dtype=object)

    @property
    def ready(self) -> bool:
        return self.batcher is not None and not self.closed

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.batcher.in_flight if self.batcher else 0

    def serving(self) -> Batcher:
        """Raises NotReady."""
        if self.batcher is None or self.closed:
            raise NotReady(f"{self.name} is not ready: {self.reason}")
        return self.batcher

    def close(self, reason: str) -> None:
        """Take no more requests; what is in the queue is still answered."""
        self.reason, self.closed = reason, True


@dataclass(frozen=True, slots=True)
class Model:
    """A name that requests use: an ensemble, or one of its members as a policy of it."""

    name: str
    live: Live
    policy: str | None = None


@dataclass(slots=True)
class Catalog:
    """All ensembles by name, and all models (`digits`, `digits.mlp`) by theirs."""

    ensembles: dict[str, Live] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)

    @classmethod
    def of(cls, repositories: Iterable[Repository]) -> "Catalog":
        """Raises ValueError when two would be served under one name."""
        catalog = cls()
        for repository in repositories:
            live = Live(repository)
            spec = live.spec
            catalog.ensembles[spec.name] = live
            catalog._add(Model(spec.name, live))
            for member in spec.members:
                catalog._add(Model(f"{spec.name}.{member.name}", live, spec.MEMBER_PREFIX + member.name))
        return catalog

    def _add(self, model: Model) -> None:
        if model.name in self.models:
            raise ValueError(f"found two models named {model.name!r}, expected distinct names")
        self.models[model.name] = model

    def find(self, name: str, version: str = "") -> Model:
        """The model of this name and version, "" being the one that is served. Raises Unknown."""
        model = self.models.get(name)
        if model is None:
            raise Unknown(f"unknown model {name[:64]!r}, expected one of {', '.join(self.models)}")
        if version not in ("", model.live.version):
            raise Unknown(f"unknown version {version[:20]!r} of {name}, expected {model.live.version}")
        return model

    @property
    def ready(self) -> bool:
        return all(live.ready for live in self.ensembles.values())

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(live.in_flight for live in self.ensembles.values())


async def load(live: Live, load_member: LoadMember, books: Books, executors: int) -> None:
    """Load the members, replay the samples, and let traffic in; a fault is kept as the reason and logged as one line."""
    try:
        members = await loaded(live.repository, load_member)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        if not isinstance(error, (SanityError, RepositoryError)):
            log.exception("loading %s broke; this is a bug", live.name)
        live.reason = str(error)
        log.error("not ready: %s", error)  # noqa: TRY400  one line; the fault is the repository's, not ours
        return
    for warning in live.spec.warnings:
        log.warning("%s: %s", live.name, warning)
    live.members = members
    if live.closed:
        return
    live.batcher = Batcher(live.spec, members, books, executors)


async def loaded(repository: Repository, load_member: LoadMember) -> Sequence[Member]:
    """The members, their samples replayed. Raises SanityError or RepositoryError, and then leaves none loaded."""
    members: list[Member] = []
    try:
        for spec in repository.spec.members:
            members.append(await asyncio.to_thread(_member, repository, spec, load_member))  # noqa: PERF401
        await replay(repository, members)
    except BaseException:
        for member in members:
            member.close()
        raise
    return members


def _member(repository: Repository, spec: MemberSpec, load_member: LoadMember) -> Member:
    try:
        return load_member(spec, repository.model(spec))
    except MemberError as error:
        raise SanityError(f"{repository.spec.name}: member {spec.name}: {error}") from None


def onnx_loader(executor: Executor) -> LoadMember:
    """Members on ONNX Runtime in this process, whose longer runs go to `executor`."""

    def load_member(spec: MemberSpec, content: bytes) -> Member:
        from ensembles.members.onnx import OnnxMember  # without ONNX Runtime this raises, and says what to install

        return OnnxMember(spec, content, executor)

    return load_member
