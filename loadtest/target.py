"""A target before the load: what it says of itself, whether the data fits, and whether each policy gives an answer."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from loadtest import data as rows
from loadtest.data import Data, DataError
from loadtest.records import FULL, MEMBER
from loadtest.targets import address as addresses
from loadtest.targets import opening
from loadtest.targets.address import Address, Protocol
from loadtest.targets.answers import OK, Answer, Call, Description, Raw, TargetError
from loadtest.targets.opening import TargetOptions

PROBE_SECONDS = 30.0
"""What the first answer of a policy may take: some servers load a model only then."""


class UnknownPolicy(TargetError):
    """Not one of the server's; one line that lists them."""


@dataclass(frozen=True, slots=True)
class Target:
    """Ready to be asked. `policies`: as the server is asked for them, "" for its default; `names`: as it calls them."""

    address: Address
    options: TargetOptions
    description: Description
    policies: tuple[str, ...]
    names: tuple[str, ...]
    path: Path | None
    data: Data


async def prepare(url: str, options: TargetOptions, policies: tuple[str, ...], path: Path | None, seed: int) -> Target:
    """Raises AddressError, TargetError, DataError."""
    address = addresses.parse(url)
    _check_options(address, options)
    description = await opening.describe(address, options)
    check_policies(description, policies)
    if 0 < description.max_batch_size < options.rows:
        raise DataError(
            f"--rows: found {options.rows}, expected at most {description.max_batch_size}, as {description.name} takes"
        )
    if not description.batched and options.rows > 1:
        raise DataError(f"--rows: found {options.rows}, expected 1, as {description.name} takes one sample at a time")
    data = rows.load(path, description, seed)
    asked = policies or ("",)
    answers = [await probe(address, options, description, policy, data) for policy in asked]
    names = tuple(
        policy or answer.policy or description.default_policy or "default"
        for policy, answer in zip(asked, answers, strict=True)
    )
    return Target(address, options, description, asked, names, path, data)


def _check_options(address: Address, options: TargetOptions) -> None:
    if options.stream and address.protocol is not Protocol.PREDICT:
        raise TargetError(
            f"--stream: found {address.url}, expected a grpc:// or grpcs:// URL: only PredictStream is a stream"
        )
    if options.json_tensors and address.protocol is not Protocol.OIP_HTTP:
        raise TargetError(f"--tensors json: found {address.url}, expected an oip+http:// or oip+https:// URL")


def check_policies(description: Description, policies: tuple[str, ...]) -> None:
    """Where the server says which there are. Raises UnknownPolicy."""
    known = {FULL, *description.policies, *(MEMBER + name for name in description.members)}
    for policy in policies:
        if description.policies and policy not in known:
            raise UnknownPolicy(f"--policy: found {policy!r}, expected one of {', '.join(sorted(known))}")


async def probe(address: Address, options: TargetOptions, description: Description, policy: str, data: Data) -> Answer:
    """One request, answered. Raises TargetError with what the server says instead."""
    codec = opening.codec(address, description, options)
    ended: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
    caller = opening.caller(address, options, lambda call, raw, now: None if ended.done() else ended.set_result(raw))
    try:
        await caller.open()
        first = data.x[[place % len(data.x) for place in range(options.rows)]]
        caller.send(Call(0, 0, 0.0), codec.head(policy), codec.tail(first))
        raw = await asyncio.wait_for(ended, PROBE_SECONDS)
    except TimeoutError:
        raise TargetError(f"{address.url}: found no answer to the first request within {PROBE_SECONDS:g} s") from None
    finally:
        await caller.close()
    what = f"{address.url}{f', policy {policy}' if policy else ''}"
    try:
        answer = codec.decode(raw) if raw.code == OK else Answer([], code=raw.code, message=raw.message)
    except Exception as error:  # whatever a server sends, it is told in a line
        raise TargetError(
            f"{what}: found {type(error).__name__}: {error}, expected an answer to a first request"
        ) from None
    if answer.code != OK:
        raise TargetError(f"{what}: found {answer.code} ({answer.message}), expected an answer to a first request")
    if len(answer.labels) != options.rows:
        raise TargetError(f"{what}: found {len(answer.labels)} labels, expected {options.rows}, one a row")
    return answer
