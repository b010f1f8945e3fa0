"""Where one thread does everything, others get nothing done unless it lets them."""

import asyncio
import ctypes

_yield_core = ctypes.CDLL(None).sched_yield  # unlike os.sched_yield it lets go of the interpreter meanwhile


BREATHS = 3
"""For a request to be refused: one for its headers, one for its body, and one for the refusal to leave."""


async def breathe() -> None:
    """Let other threads have the core, and then the event loop what they have brought.

    Requests reach the loop's thread through others, which the kernel keeps waiting for as long as that one computes.
    """
    _yield_core()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def give_way() -> None:
    """Breathe as often as it takes others to get in and, where they are refused, out."""
    for _ in range(BREATHS):
        await breathe()
