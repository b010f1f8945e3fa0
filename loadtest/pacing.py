"""Wakes an event loop at an instant, to some tens of microseconds."""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

EARLY_SECONDS = 80e-6
"""How long before the instant to wake, and then wait for it without sleeping: about what a timer of Linux is late by."""

_ABSOLUTE = 1
_MONOTONIC = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls back shortly before an instant of `time.perf_counter`.

    A loop's own timers are good to a millisecond, and a request a millisecond is what they are to pace; so on Linux this is a
    timerfd, which is on the same clock. Elsewhere the loop's timer does.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            self._setting = _Setting()
            self._reference = ctypes.byref(self._setting)
            self._loop.add_reader(self._file, self._rung)

    def set(self, instant: float) -> None:
        """To ring once; an instant that is past rings as soon as the loop comes to it."""
        wake = max(instant - EARLY_SECONDS, 1e-9)
        if self._file < 0:
            self._handle = self._loop.call_later(wake - time.perf_counter(), self._ring)
            return
        value = self._setting.value
        value.seconds = seconds = int(wake)
        value.nanoseconds = int((wake - seconds) * 1e9)
        self._libc.timerfd_settime(self._file, _ABSOLUTE, self._reference, None)

    def _rung(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return
        self._ring()

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1


def wait_until(instant: float) -> float:
    """Wait without sleeping, as sleeping is not so exact; returns the instant it is."""
    now = time.perf_counter()
    while now < instant:
        now = time.perf_counter()
    return now
