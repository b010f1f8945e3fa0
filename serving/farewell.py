"""How callers learn that the server is about to end: HTTP/2 gets GOAWAY, HTTP/1.1 `connection: close`, with the answer to each new request.

Envoy can be asked for that at once by nothing but its admin port, which is not open, and its overload manager: from the moment when a file says
that all of something is used, no connection is kept.
"""

import ctypes
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

ENVIRONMENT = "SCRUTIN_FAREWELL"
LOOK_SECONDS = 0.25
NAME = "envoy.resource_monitors.injected_resource"
MONITOR = "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig"
STAY, LEAVE = "0", "1"
IN_CREATE = 0x100  # as in <sys/inotify.h>


def prepared() -> Path | None:
    """The file, which asks callers to stay; None where it cannot be made or watched, and callers find out when the server has ended."""
    try:
        if not _can_watch():
            return None
        file = Path(tempfile.mkdtemp(prefix="scrutin-")) / "leave"
        file.write_text(STAY)
    except OSError:
        return None
    return file


def _can_watch() -> bool:
    """Envoy would not start without: of watchers, a user has a limited number, shared by all its processes on the machine."""
    libc = ctypes.CDLL(None)
    watcher = libc.inotify_init1(os.O_CLOEXEC)
    if watcher < 0:
        return False
    watch = libc.inotify_add_watch(watcher, os.fsencode(tempfile.gettempdir()), IN_CREATE)
    os.close(watcher)
    return bool(watch >= 0)


def manager(file: Path) -> dict[str, Any]:
    """Of the door's configuration."""
    monitor = {"name": NAME, "typed_config": {"@type": MONITOR, "filename": str(file)}}
    trigger = {"name": NAME, "threshold": {"value": 1}}
    action = {"name": "envoy.overload_actions.disable_http_keepalive", "triggers": [trigger]}
    return {"refresh_interval": f"{LOOK_SECONDS}s", "resource_monitors": [monitor], "actions": [action]}


def say() -> None:
    """Callers are asked to leave, each with its next answer."""
    if file := os.environ.get(ENVIRONMENT):
        with suppress(OSError):
            new = Path(file).with_suffix(".new")
            new.write_text(LEAVE)
            new.replace(file)


def forget(file: str = "") -> None:
    """Nobody is left to ask. Removes what `prepared` made, and nothing else."""
    if made := file or os.environ.get(ENVIRONMENT):
        with suppress(OSError):
            Path(made).unlink()
            Path(made).parent.rmdir()
