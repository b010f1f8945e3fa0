"""How ensembles come and go while the server runs: a newer version is loaded and proven beside the one that is served.

Requests find the old version until the new one has passed, and the new one from then on; whoever had found the old one is
answered by it. One that does not pass changes nothing. For a while, memory holds both.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from ensembles import repository
from ensembles.members import Member
from ensembles.repository import Repository, RepositoryError
from serving.batcher import Batcher
from serving.catalog import Catalog, Live, Loader, fault_line
from serving.errors import Fault, InvalidRequest, NotReady

log = logging.getLogger(__name__)

POLL_SECONDS = 0.01

T = TypeVar("T")


class Change(StrEnum):
    """What came of the wish for another version."""

    LOADED = "loaded"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    UNLOADED = "unloaded"


class Versions:
    """Changes what a catalog serves, one ensemble after the other."""

    def __init__(self, catalog: Catalog, loader: Loader, changed: Callable[[], Awaitable[None]]) -> None:
        """`changed` is awaited each time that another version is served than before."""
        self._catalog = catalog
        self._loader = loader
        self._changed = changed
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """Change nothing any more, since the server drains."""
        self._closed = True

    async def begin(self) -> None:
        """Load all ensembles. One with a fault keeps it as its reason; the others are served."""
        async with self._turn:
            for live in self._catalog.ensembles.values():
                await self._loader.load_first(live)

    async def load(self, name: str) -> Change:
        """Serve what stands at the path of ensemble `name` by now. A caller who leaves does not stop it.

        Raises Unknown, NotReady while the server drains, and InvalidRequest with what is wrong with the repository.
        """
        return await asyncio.shield(self._spawn(self._in_turn(self._load, self._ensemble(name))))

    async def unload(self, name: str) -> Change:
        """Answer no more requests to ensemble `name`, but for those under way, and free its memory. Raises as `load`."""
        return await asyncio.shield(self._spawn(self._in_turn(self._unload, self._ensemble(name))))

    async def load_all(self) -> None:
        """Serve what stands at the paths by now, but for ensembles that were unloaded. The log says what came of each."""
        for name in [live.name for live in self._catalog.ensembles.values() if not live.unloaded]:
            try:
                await self.load(name)
            except Fault:
                continue

    def _ensemble(self, name: str) -> str:
        model = self._catalog.find(name)
        if model.policy:
            raise InvalidRequest(f"{name} is a member of {model.live.name}, which is loaded and unloaded as a whole")
        return name

    def _spawn(self, coroutine: "Coroutine[Any, Any, T]") -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # heard, though its caller may have left

    async def _in_turn(self, change: Callable[[str], Awaitable[Change]], name: str) -> Change:
        async with self._turn:
            while self._catalog.leaving:  # noqa: ASYNC110  so that memory never holds more than two versions
                await asyncio.sleep(POLL_SECONDS)
            self._check_open()
            done = await change(name)
            self._count(name, done)
            return done

    def _count(self, name: str, change: Change) -> None:
        self._loader.books.telemetry.reloaded(name, change.value)

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("the server is draining")

    async def _load(self, name: str) -> Change:
        path, digest = self._served(name)
        try:
            found = await asyncio.to_thread(_read, path, name)
            if found.digest == digest:
                log.info("%s: nothing to load, digest %s is served already", name, digest)
                return Change.UNCHANGED
            await self._replace_by(found)
        except Fault:
            raise
        except Exception as error:
            line = fault_line(name, error)
            log.error("%s: not loaded, nothing has changed: %s", name, line)  # noqa: TRY400  as in `Loader`
            self._count(name, Change.REFUSED)
            raise InvalidRequest(line.replace(str(path), name)) from None  # no path leaves over the network
        log.info("%s: version %s is served, digest %s", name, found.spec.version, found.digest)
        return Change.LOADED

    def _served(self, name: str) -> tuple[Path, str]:
        """Where the ensemble stands, and the digest of what is served, "" if nothing is."""
        live = self._catalog.ensembles[name]
        return live.repository.path, live.digest if live.ready else ""

    async def _replace_by(self, found: Repository) -> None:
        """Raises RepositoryError or SanityError, NotReady where the server drains meanwhile, and then changes nothing."""
        live = Live(found)
        _check_names(self._catalog, live)
        await asyncio.to_thread(repository.verify, found)
        await self._loader.load(live)
        try:
            self._check_open()
        except NotReady:
            live.rest()
            _close(live.members)
            raise
        await self._swap(live)

    async def _unload(self, name: str) -> Change:
        if self._catalog.ensembles[name].unloaded:
            return Change.UNCHANGED
        await self._swap(Live(self._catalog.ensembles[name].repository, reason="unloaded", unloaded=True))
        log.info("%s: unloaded", name)
        return Change.UNLOADED

    async def _swap(self, live: Live) -> None:
        old = self._catalog.swap(live)
        old.rest()
        old.rest()
        if old.batcher is None:
            _close(old.members)
        else:
            self._catalog.leaving.append(old.batcher)
            until = time.perf_counter() + old.spec.limits.timeout_ms / 1000
            self._spawn(self._free(old.batcher, old.members, weakref.ref(old), until))
        del old
        await self._changed()

    async def _free(self, batcher: Batcher, members: Sequence[Member], held: "weakref.ref[Live]", until: float) -> None:
        """Close members once nobody comes to them any more: no request holds their version, or the time of all has run out."""
        while time.perf_counter() < until and not (held() is None and batcher.idle):  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(POLL_SECONDS)
        self._catalog.leaving.remove(batcher)
        batcher.close()
        await asyncio.to_thread(_close, members)


def _read(path: Path, name: str) -> Repository:
    """Raises RepositoryError, also where the ensemble has another name by now."""
    found = repository.read(path)
    if found.spec.name != name:
        raise RepositoryError(
            f"{path / repository.MANIFEST}: name: found {found.spec.name!r}, expected {name!r}, as it was"
        )
    return found


def _check_names(catalog: Catalog, live: Live) -> None:
    try:
        catalog.check_fits(live)
    except ValueError as error:
        raise RepositoryError(f"{live.repository.path / repository.MANIFEST}: {error}") from None


def _close(members: Sequence[Member]) -> None:
    for member in members:
        member.close()
