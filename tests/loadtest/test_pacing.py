import asyncio
import time

import pytest
import uvloop

from loadtest import pacing


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_alarm_rings_once_for_each_instant_and_never_long_before_it(run) -> None:
    async def rings() -> list[float]:
        instants = [time.perf_counter() + delay for delay in (0.02, 0.021, 0.04)]
        early: list[float] = []
        ended = asyncio.Event()

        def ring() -> None:
            early.append(instants[len(early)] - time.perf_counter())
            if len(early) < len(instants):
                alarm.set(instants[len(early)])
            else:
                ended.set()

        alarm = pacing.Alarm(ring)
        alarm.set(instants[0])
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0.05)
        alarm.close()
        return early

    early = run(rings())

    assert len(early) == 3
    assert max(early) <= pacing.EARLY_SECONDS + 1e-4


def test_an_instant_that_is_past_rings_at_once() -> None:
    async def ring() -> None:
        rung = asyncio.Event()
        alarm = pacing.Alarm(rung.set)
        alarm.set(time.perf_counter() - 5)
        await asyncio.wait_for(rung.wait(), 10)
        alarm.close()

    asyncio.run(ring())


def test_waiting_ends_at_the_instant_or_after_it() -> None:
    instant = time.perf_counter() + 0.001

    assert pacing.wait_until(instant) >= instant
