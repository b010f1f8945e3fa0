"""Who used the devices, and what it cost.

A device's time goes to the runs that occupy it, in equal shares while several do, and is idle while none does. So what is
attributed and what is idle add up to the time that passed: nothing is counted twice and nothing is lost. A second of a device has
one price, whoever has it and if nobody has it, so the bill adds up to price x time.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serving.settings import Settings

Clock = Callable[[], float]
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of a device costs, in USD. `as_of`: the day of that price in ISO 8601, "" where nobody said."""

    usd_per_hour: float
    as_of: str = ""


UNPRICED = Price(0.0)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a run's device time is charged to."""

    ensemble: str
    policy: str
    member: str


class Device:
    """The books of one device. Members run on threads, so entries are serialised by a lock."""

    def __init__(self, name: str, clock: Clock = time.perf_counter, price: Price = UNPRICED) -> None:
        self.name = name
        self.price = price
        self.usd_per_second = price.usd_per_hour / SECONDS_PER_HOUR
        self._clock = clock
        self._lock = threading.Lock()
        self._occupants: list[Occupation] = []
        self._until = clock()
        self._idle = 0.0

    def occupation(self, account: "Account | None" = None) -> "Occupation":
        """One run's hold on the device, to be entered as a context manager."""
        return Occupation(self, account)

    def uncharged(self) -> "list[tuple[Account, float]]":
        """What the runs under way have used since they were last asked, by account; they count it as charged."""
        with self._lock:
            self._settle(self._clock())
            return [(occupant.account, occupant.charge()) for occupant in self._occupants if occupant.account]

    def cost_usd(self, seconds: float) -> float:
        """The price of so much of its time."""
        return seconds * self.usd_per_second

    @property
    def idle_seconds(self) -> float:
        """How long nothing has run on it so far."""
        with self._lock:
            self._settle(self._clock())
            return self._idle

    def enter(self, occupant: "Occupation") -> None:
        with self._lock:
            now = self._clock()
            occupant.began(now)
            self._settle(now)
            self._occupants.append(occupant)

    def leave(self, occupant: "Occupation") -> None:
        with self._lock:
            now = self._clock()
            occupant.stopped(now)
            self._settle(now)
            self._occupants.remove(occupant)

    def _settle(self, now: float) -> None:
        """Share out the time since the last entry among those who were there."""
        passed, self._until = now - self._until, now
        if not self._occupants:
            self._idle += passed
            return
        for occupant in self._occupants:
            occupant.device_seconds += passed / len(self._occupants)


class Occupation:
    """One run on a device, in one piece or several. `seconds`: how long it took; `device_seconds`: its share of the device's time.

    `started`, `ended`: instants, of the first piece and the last. `charged`: how much of its share was counted already, because
    somebody looked at the books in the middle of the run.
    """

    __slots__ = ("_device", "_since", "account", "charged", "device_seconds", "ended", "seconds", "started")

    def __init__(self, device: Device, account: "Account | None" = None) -> None:
        self._device = device
        self.account = account
        self.charged = 0.0
        self.started = 0.0
        self.ended = 0.0
        self.seconds = 0.0
        self.device_seconds = 0.0
        self._since = 0.0

    @property
    def device(self) -> str:
        return self._device.name

    def began(self, now: float) -> None:
        self._since = now
        if not self.ended:
            self.started = now

    def stopped(self, now: float) -> None:
        self.ended = now
        self.seconds += now - self._since

    def charge(self) -> float:
        """What was not charged so far."""
        amount, self.charged = self.device_seconds - self.charged, self.device_seconds
        return amount

    def __enter__(self) -> Self:
        self._device.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._device.leave(self)


class Ledger:
    """The devices of this process and the prices of their time: `prices` by device, `price_per_hour` in USD for all others."""

    def __init__(
        self, price_per_hour: float, clock: Clock = time.perf_counter, prices: Mapping[str, Price] | None = None
    ) -> None:
        self._price = Price(price_per_hour)
        self._prices = dict(prices or {})
        self._clock = clock
        self._devices: dict[str, Device] = {}

    @classmethod
    def of(cls, settings: Settings) -> "Ledger":
        """With the prices that the operator gave."""
        prices = {name: Price(price.usd_per_hour, price.as_of.isoformat()) for name, price in settings.prices.items()}
        return cls(settings.price_per_hour, prices=prices)

    def device(self, name: str) -> Device:
        """The books of a device; opened at the first mention."""
        if name not in self._devices:
            self._devices[name] = Device(name, self._clock, self._prices.get(name, self._price))
        return self._devices[name]

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(self._devices.values())
