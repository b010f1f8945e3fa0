"""Where one thread does everything, others get nothing done unless it lets them."""

import asyncio
import ctypes

_yield_core = ctypes.CDLL(None).sched_yield  # unlike os.sched_yield it lets go of the interpreter meanwhile


async def breathe() -> None:
    """Let other threads have the core, and then the event loop what they have brought.

    Requests reach the loop's thread through others, which the kernel keeps waiting for as long as that one computes.
    """
    _yield_core()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
