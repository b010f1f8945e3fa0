"""What is served: repositories become live ensembles, and the names by which requests find them."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ensembles.member_spec import MemberSpec
from ensembles.members import Member, MemberError
from ensembles.members.microbatch import MicroBatchSize
from ensembles.repository import Repository, RepositoryError
from ensembles.spec import EnsembleSpec
from ensembles.trials import ShadowSpec
from serving.admission import Terms
from serving.audits import Audits
from serving.batcher import Batcher
from serving.books import Books
from serving.errors import NotReady, Unknown
from serving.sanity import SanityError, replay, replay_shadow
from serving.shadows import Shadow
from serving.spare_time import SpareTime

log = logging.getLogger(__name__)

LoadMember = Callable[[MemberSpec, bytes], Member]

LOADING = "loading"


@dataclass(slots=True, eq=False, weakref_slot=True)
class Live:
    """One version of one ensemble with its members loaded. A newer version is another one.

    `reason`: why it is not ready. `unloaded`: because its operator wants it so. `label_names`, `label_bytes` [K + 1]: the last,
    for -1, is empty.
    """

    repository: Repository
    members: Sequence[Member] = ()
    batcher: Batcher | None = None
    audits: Audits | None = None
    spare_time: SpareTime | None = None
    reason: str = LOADING
    closed: bool = False
    unloaded: bool = False
    spec: EnsembleSpec = field(init=False)
    name: str = field(init=False)
    version: str = field(init=False)
    digest: str = field(init=False)
    terms: Terms = field(init=False)
    label_names: NDArray[np.object_] = field(init=False)
    label_bytes: NDArray[np.object_] = field(init=False)

    def __post_init__(self) -> None:
        self.spec, self.digest = self.repository.spec, self.repository.digest
        self.name, self.version, self.terms = self.spec.name, str(self.spec.version), Terms.of(self.spec)
        self.label_names = np.array([*self.spec.labels, ""], dtype=object)
        self.label_bytes = np.array([name.encode() for name in self.label_names], dtype=object)

    @property
    def ready(self) -> bool:
        return self.batcher is not None and not self.closed and self.batcher.quorate

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.batcher.in_flight if self.batcher else 0

    def serving(self) -> Batcher:
        """Raises NotReady, or Unknown where it was unloaded."""
        if self.unloaded:
            raise Unknown(f"{self.name} is unloaded")
        if self.batcher is None or self.closed:
            raise NotReady(f"{self.name} is not ready: {self.reason}")
        return self.batcher

    def check_ready(self) -> None:
        """Raises NotReady, or Unknown where it was unloaded. Requests are taken also while too few members are in rotation."""
        if not self.serving().quorate:
            raise NotReady(f"{self.name} is not ready: fewer members are in rotation than the quorum")

    def close(self, reason: str) -> None:
        """Take no more requests; what is in the queue is still answered."""
        self.reason, self.closed = reason, True
        self.rest()

    def rest(self) -> None:
        """Do nothing beside the traffic any more: no audits, no shadows."""
        if self.spare_time is not None:
            self.spare_time.stop()

    def certificate(self, policy: str) -> str:
        """What is to be said of the policy's certificate, see `Audits`."""
        return self.audits.certificate(policy) if self.audits else ""


@dataclass(frozen=True, slots=True)
class Model:
    """A name that requests use: an ensemble, or one of its members as a policy of it."""

    name: str
    live: Live
    policy: str | None = None


def _models(lives: Iterable[Live]) -> dict[str, Model]:
    """By name. Raises ValueError when two have one."""
    models: dict[str, Model] = {}
    for live in lives:
        for model in _names(live):
            if model.name in models:
                raise ValueError(f"found two models named {model.name!r}, expected distinct names")
            models[model.name] = model
    return models


def _names(live: Live) -> Iterator[Model]:
    yield Model(live.name, live)
    for member in live.spec.members:
        yield Model(f"{live.name}.{member.name}", live, EnsembleSpec.MEMBER_PREFIX + member.name)


@dataclass(slots=True)
class Catalog:
    """All ensembles by name, and all models (`digits`, `digits.mlp`) by theirs.

    `leaving`: batchers of versions that others have replaced, while somebody may still wait for them.
    """

    ensembles: dict[str, Live] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    leaving: list[Batcher] = field(default_factory=list)

    @classmethod
    def of(cls, repositories: Iterable[Repository]) -> "Catalog":
        """Raises ValueError when two would be served under one name."""
        lives = [Live(repository) for repository in repositories]
        models = _models(lives)
        return cls({live.name: live for live in lives}, models)

    def check_fits(self, live: Live) -> None:
        """Raises ValueError when a model of `live` has a name that one of another ensemble has already."""
        _models([*(other for other in self.ensembles.values() if other.name != live.name), live])

    def swap(self, live: Live) -> Live:
        """Let requests find `live` from now on; the one of its name that they found before. Raises ValueError as `check_fits`."""
        self.check_fits(live)
        old, self.ensembles[live.name] = self.ensembles[live.name], live
        self.models = _models(self.ensembles.values())
        return old

    def find(self, name: str, version: str = "") -> Model:
        """The model of this name and version, "" being the one that is served. Raises Unknown."""
        model = self.models.get(name)
        if model is None:
            raise Unknown(f"unknown model {name[:64]!r}, expected one of {', '.join(self.models)}")
        if version not in ("", model.live.version):
            raise Unknown(f"unknown version {version[:20]!r} of {name}, expected {model.live.version}")
        return model

    @property
    def faults(self) -> list[str]:
        """Why ensembles could not be loaded that are meant to be served."""
        lives = self.ensembles.values()
        return [live.reason for live in lives if live.batcher is None and not live.unloaded and live.reason != LOADING]

    @property
    def ready(self) -> bool:
        """Whether all take requests that are meant to."""
        return all(live.ready or live.unloaded for live in self.ensembles.values())

    @property
    def in_flight(self) -> int:
        """Requests under way, also those to versions that were replaced meanwhile."""
        leaving = sum(batcher.in_flight for batcher in self.leaving)
        return leaving + sum(live.in_flight for live in self.ensembles.values())


@dataclass(frozen=True, slots=True)
class Loader:
    """What it takes to bring an ensemble to life. `cores`: how many its members may keep busy at once.

    `on_rotation` is called when a member leaves the rotation or comes back.
    """

    load_member: LoadMember
    books: Books
    cores: int
    on_rotation: Callable[[], None] = lambda: None

    async def load(self, live: Live) -> None:
        """Load the members, replay the samples, and let traffic in, unless it was closed meanwhile.

        Raises SanityError or RepositoryError, and then leaves nothing loaded.
        """
        members = await loaded(live.repository, self.load_member)
        samples, _ = await asyncio.to_thread(live.repository.samples)
        for warning in live.spec.warnings:
            log.warning("%s: %s", live.name, warning)
        live.members = members
        if not live.closed:
            live.audits = Audits(live.spec, self.books.telemetry)
            live.spare_time = SpareTime([live.audits, *self._shadows(live.repository)])
            watchers = [live.spare_time.watch]
            live.batcher = Batcher(live.spec, members, self.books, self.cores, watchers, self.cores)
            live.batcher.on_rotation(self.on_rotation)
            live.batcher.try_with(samples)
            live.spare_time.start(live.batcher)

    def _shadows(self, repository: Repository) -> list[Shadow]:
        telemetry = self.books.telemetry
        return [
            Shadow(repository, shadow, partial(_member, repository, shadow, self.load_member), telemetry)
            for shadow in repository.spec.shadows
        ]

    async def load_first(self, live: Live) -> None:
        """The same for a version that replaces none: a fault is kept as the reason and logged as one line."""
        try:
            await self.load(live)
        except Exception as error:
            live.reason = fault_line(live.name, error)
            log.error("not ready: %s", live.reason)  # noqa: TRY400  one line; the fault is the repository's, not ours


def fault_line(name: str, error: Exception) -> str:
    """Why an ensemble cannot be served. What is no fault of its repository is logged with its traceback."""
    if not isinstance(error, (SanityError, RepositoryError)):
        log.error("loading %s broke; this is a bug", name, exc_info=error)
    return str(error)


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
        kind = "shadow" if isinstance(spec, ShadowSpec) else "member"
        raise SanityError(f"{repository.spec.name}: {kind} {spec.name}: {error}") from None


async def check_shadows(repository: Repository, load_member: LoadMember) -> None:
    """Load the shadows, replay the samples and free them again. Raises SanityError or RepositoryError."""
    for shadow in repository.spec.shadows:
        member = await asyncio.to_thread(_member, repository, shadow, load_member)
        try:
            await replay_shadow(repository, shadow, partial(member.run, occupation=nullcontext()))
        except MemberError as error:
            raise SanityError(f"{repository.spec.name}: shadow {shadow.name}: {error}") from None
        finally:
            member.close()


def onnx_loader(executor: Executor, spare: Executor | None = None) -> LoadMember:
    """Members on ONNX Runtime in this process, whose longer runs go to `executor`; those of shadows to `spare`, if there is one."""

    def load_member(spec: MemberSpec, content: bytes) -> Member:
        from ensembles.members.onnx import OnnxMember  # without ONNX Runtime this raises, and says what to install

        pool = spare if spare and isinstance(spec, ShadowSpec) else executor
        return OnnxMember(spec, content, pool, MicroBatchSize())

    return load_member
