"""The composition root: builds every part, starts, tells when it is ready, drains, stops. The one place that knows them all."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from ensembles import repository
from ensembles.members.cores import cores
from scrutin.v1 import ensemble_pb2_grpc
from serving import catalog, energy, farewell, logs, receipts
from serving.aggregator import Aggregator
from serving.books import Books
from serving.catalog import Catalog, Loader, LoadMember
from serving.door import SIGNALS, take_precedence
from serving.ledger import Ledger
from serving.observer import Observer, Tracer
from serving.settings import Settings, from_environment
from serving.statistics import Statistics
from serving.telemetry import Telemetry
from serving.versions import Versions
from serving.wire import health, oip
from serving.wire.asgi import Application
from serving.wire.exchange import Serving
from serving.wire.grpc import Methods
from serving.wire.health import HealthServicer
from serving.wire.predict import EnsembleServicer

log = logging.getLogger("serving")

SERVICES = (
    "inference.GRPCInferenceService",
    "scrutin.v1.EnsembleService",
    health.SERVICE,
    reflection.SERVICE_NAME,
)
SPARE_THREADS = 32
"""Beside one a core, for runs that are overdue and do not stop: they must not keep other members from theirs."""
NEVER_READY = 1
"""The exit code of a server that a fault of an ensemble has kept from ever taking requests."""
YOUNG_OBJECTS = 10_000
"""So many more objects than before make the garbage collector look. Python's 700 are what the requests of one batch consist of, so
that it would look at each of them while it is needed; that took 2% of a light request."""
FLUSH_SECONDS = 0.2
"""From the last answer to the end of the process: what was handed to the door still has to leave it."""


class Server:
    """One process. `load_member` makes a member from its manifest entry and its bytes."""

    def __init__(self, settings: Settings, load_member: LoadMember | None = None) -> None:
        """Raises RepositoryError, SettingsError, or ValueError when two ensembles have one name."""
        self.settings = settings
        self.catalog = Catalog.of(repository.read(path) for path in settings.repositories)
        self.draining = False
        ledger = Ledger.of(settings)
        telemetry = Telemetry(ledger)
        self.books = Books(ledger, telemetry, Statistics(telemetry.answers))
        self.aggregator = Aggregator(self.books.telemetry)
        self.health = HealthServicer()
        executor = ThreadPoolExecutor(cores() + SPARE_THREADS, thread_name_prefix="member")
        spare = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        load_member = load_member or catalog.onnx_loader(executor, spare)
        loader = Loader(load_member, self.books, cores(), lambda: self._spawn(self._changed()))
        self.versions = Versions(self.catalog, loader, self._changed)
        management = self.versions if settings.management else None
        signer = receipts.opened(settings.receipt_key_file, settings.receipt_seconds)
        self._tracer = _tracer(settings)
        observer = Observer(self._tracer, settings.access_log)
        self.serving = Serving(
            self.catalog, self.aggregator, self.books.telemetry, self.books.statistics, management, signer, observer
        )
        self._announced = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.application = Application(
            self.serving, self.mount(Methods()), lambda: self.ready, self.start, settings.metrics_port
        )
        _watch(self.books.telemetry, self.catalog)
        _watch_energy(self.books.telemetry)

    @property
    def ready(self) -> bool:
        """Whether every ensemble takes requests, but for those that were unloaded."""
        return self.catalog.ready and not self.draining

    def mount(self, methods: Any) -> Any:
        """Add all services to what takes grpcio's servicers."""
        oip.mount(oip.InferenceServicer(self.serving, lambda: self.ready), methods)
        ensemble_pb2_grpc.add_EnsembleServiceServicer_to_server(EnsembleServicer(self.serving), methods)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, methods)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(SERVICES), methods)
        return methods

    async def start(self) -> None:
        """Return at once; load in the background, so that liveness answers meanwhile."""
        take_precedence()
        await self._tell_health()
        self._spawn(self.load())
        _on_signals(lambda: self._spawn(self._stop()), lambda: self._spawn(self.versions.load_all()))

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def load(self) -> None:
        """Load all ensembles, one after the other, and say so when every one takes requests."""
        await self.versions.begin()
        gc.collect()
        gc.freeze()  # what is loaded now stays, and need not be looked at again
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        await self._changed()

    async def _changed(self) -> None:
        """Another version is served than before: let what depends on it follow, and print the addresses once all are ready."""
        self.serving.measure_again()
        await self._tell_health()
        if self.ready and not self._announced:
            self._announced = True
            self._announce()

    async def _tell_health(self) -> None:
        """grpc.health.v1: the empty service is the server, the others are the ensembles."""
        ensembles = {live.name: live.ready and not self.draining for live in self.catalog.ensembles.values()}
        await self.health.tell({"": self.ready, **ensembles})

    def _announce(self) -> None:
        settings = self.settings
        for live in self.catalog.ensembles.values():
            members = ", ".join(f"{member.name} on {member.device}" for member in live.members)
            print(f"scrutin {version('scrutin')} serves {live.name} {live.version} ({live.spec.vote.rule}): {members}")
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"grpc     grpc://{host}:{settings.grpc_port}")
        print(f"http     http://{host}:{settings.http_port}")
        print(f"metrics  http://{host}:{settings.metrics_port}/metrics")
        sys.stdout.flush()

    async def _stop(self) -> None:
        """Readiness goes first, then new requests, then the process, once what was admitted is answered."""
        if self.draining:
            return
        self.draining = True
        self.versions.close()
        await self._tell_health()
        farewell.say()
        faults = [] if self._announced else self.catalog.faults
        log.info("draining: %d requests under way", len(self.application.calls))
        await asyncio.sleep(self.settings.drain_delay_seconds)
        for live in self.catalog.ensembles.values():
            live.close("draining")
        deadline = time.perf_counter() + self.settings.drain_timeout_seconds
        while self.catalog.in_flight and time.perf_counter() < deadline:  # noqa: ASYNC110  once in a life
            await asyncio.sleep(0.01)
        await asyncio.sleep(FLUSH_SECONDS)
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        log.info("stopped: %d requests unanswered", self.catalog.in_flight)
        farewell.forget()
        sys.stdout.flush()
        if faults:
            log.error("never ready: %s", "; ".join(faults))
            os._exit(NEVER_READY)
        _terminate()


def _tracer(settings: Settings) -> "Tracer | None":
    """Raises SettingsError where the extra for it is not installed."""
    if not settings.otlp_endpoint:
        return None
    from serving import tracing  # only here, since few need the packages that it needs

    return tracing.Tracer(settings, settings.otlp_endpoint)


def _on_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """Call `reload` on this loop at each SIGHUP, `stop` at the first SIGTERM or SIGINT, and then nothing any more.

    Every thread of the process has them blocked (see `door.py`).
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        while signal.sigwait(SIGNALS) == signal.SIGHUP:
            loop.call_soon_threadsafe(reload)
        loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _terminate() -> None:
    """Let the door end the process: by a signal that is let through once.

    A second SIGTERM stays blocked, since it could come when the door has given up its handler but not yet the process.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _watch(telemetry: Telemetry, served: Catalog) -> None:
    """The series that are read when they are asked for."""
    lives = served.ensembles.values()
    telemetry.watch(
        "ensemble_queued_rows",
        "Rows that wait",
        lambda: [({"ensemble": live.name}, live.batcher.queue.rows if live.batcher else 0) for live in lives],
    )
    telemetry.watch(
        "ensemble_in_flight_requests",
        "Requests under way",
        lambda: [({"ensemble": live.name}, live.in_flight) for live in lives],
    )
    telemetry.watch(
        "ensemble_brownout_level",
        "How many steps requests are served below the policy that they ask for, at the most",
        lambda: [({"ensemble": live.name}, live.batcher.brownout_level if live.batcher else 0) for live in lives],
    )
    telemetry.watch(
        "ensemble_info", "What is served", lambda: [(_info(live), 1) for live in lives if not live.unloaded]
    )
    telemetry.watch("ensemble_member_info", "What it is served with", lambda: _member_infos(lives))
    telemetry.watch(
        "ensemble_member_in_rotation",
        "1 where the member is asked, 0 where it has left after repeated faults or is not loaded",
        lambda: _rotation(lives),
    )
    telemetry.watch(
        "ensemble_quorum",
        "So many members must be in rotation for the ensemble to be ready",
        lambda: [({"ensemble": live.name}, live.spec.vote.quorum) for live in lives if not live.unloaded],
    )
    telemetry.watch(
        "ensemble_certificate_stale",
        "1 where the policy's certificate was made for another manifest",
        lambda: [(labels, stale) for labels, stale, _ in _certificates(lives)],
    )
    telemetry.watch(
        "ensemble_certificate_violated",
        "1 where audits found that the policy's certificate does not hold",
        lambda: [(labels, violated) for labels, _, violated in _certificates(lives)],
    )


def _watch_energy(telemetry: Telemetry) -> None:
    found = energy.find(nvml=energy.installed_nvml())
    log.info("%s", found)
    if found.meters:
        telemetry.watch_total("ensemble_energy_joules_total", "What the machine's devices used", found.samples)


def _info(live: catalog.Live) -> dict[str, str]:
    return {"ensemble": live.name, "version": live.version, "digest": live.digest, "rule": live.spec.vote.rule.value}


def _certificates(lives: Iterable[catalog.Live]) -> list[tuple[dict[str, str], bool, bool]]:
    return [
        ({"ensemble": live.name, "policy": policy}, stale, violated)
        for live in lives
        if live.audits is not None
        for policy, stale, violated in live.audits.certificates
    ]


def _member_infos(lives: Iterable[catalog.Live]) -> list[tuple[dict[str, str], float]]:
    return [
        (
            {
                "ensemble": live.name,
                "member": member.name,
                "backend": spec.run_on.backend,
                "device": member.device,
                "provider": member.provider,
            },
            1,
        )
        for live in lives
        for spec, member in zip(live.spec.members, live.members, strict=False)
    ]


def _rotation(lives: Iterable[catalog.Live]) -> list[tuple[dict[str, str], float]]:
    return [
        ({"ensemble": live.name, "member": member.name}, asked)
        for live in lives
        if not live.unloaded
        for member, asked in zip(live.spec.members, _present(live), strict=True)
    ]


def _present(live: catalog.Live) -> Sequence[bool]:
    return live.batcher.present if live.batcher else [False] * len(live.spec.members)


def create() -> Application:
    """The application of a process that `serving run` has become."""
    settings = from_environment()
    logs.begin(settings.log_format)
    return Server(settings).application
