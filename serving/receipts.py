"""Signed receipts: what the members said of some rows, kept by the caller until the truth is known. No database, no state.

A receipt is base64 of these little-endian fields:

    format u8 | length of all u32 | ensemble digest [16] | expires, ms since 1970, u64 | cost in USD f64 | length u8 and policy
    | nonce [16] | label index of each row | votes, row by row | keyed BLAKE2b of all before [16]

A class index takes one byte where an ensemble has less than 255 classes, else two, else four; the largest number says "none".
BLAKE2b with a key is a MAC of its own (RFC 7693, section 2.9), at half the time that HMAC-SHA256 takes.
"""

import logging
import os
import struct
import sys
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from hmac import compare_digest
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensembles.votes import Result
from serving.errors import InvalidRequest
from serving.settings import SettingsError

log = logging.getLogger(__name__)

FORMAT = 2
DIGEST_BYTES, NONCE_BYTES, MAC_BYTES = 16, 16, 16
HEAD = struct.Struct("<BI16sQdB")
NUMBER = struct.Struct("<Q")
LONGEST_POLICY = 255
LEAST_BYTES = HEAD.size + NONCE_BYTES + MAC_BYTES
KEY_BYTES = range(32, 4097)
LOWEST_BYTE = 0 if sys.byteorder == "little" else 7  # of an int64

REMEMBERED = 100_000
"""Receipts that were used and have not expired. Beyond so many the first ones are forgotten, and could be counted once more; they
take 13 MB."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """What a receipt says. `label_index` [n], `votes` [n, M] int64, -1 being none; `expires`: in seconds since 1970."""

    policy: str
    cost_usd: float
    expires: float
    nonce: bytes
    label_index: NDArray[np.int64]
    votes: NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """The ensemble that a receipt is of."""

    digest: str
    classes: int
    members: int

    @cached_property
    def key(self) -> bytes:
        """Its digest as far as a receipt holds it."""
        return bytes.fromhex(self.digest)[:DIGEST_BYTES]

    @cached_property
    def index_bytes(self) -> int:
        """Of a class index; the largest number that fits is that of no class."""
        return 1 if self.classes < 0xFF else 2 if self.classes < 0xFFFF else 4

    @cached_property
    def votes_bytes(self) -> int:
        """Of a row's votes."""
        return self.members * self.index_bytes

    def packed(self, indices: NDArray[np.int64]) -> bytes:
        """Class indices, -1 becoming the largest number."""
        if self.index_bytes == 1:  # the usual case, in which the lowest byte of each is all of it
            return indices.tobytes()[LOWEST_BYTE::8]
        return indices.astype(f"<u{self.index_bytes}").tobytes()

    def unpacked(self, content: bytes) -> NDArray[np.int64]:
        """The indices again."""
        found = np.frombuffer(content, f"<u{self.index_bytes}").astype(np.int64)
        found[found == (1 << 8 * self.index_bytes) - 1] = -1
        return found

    def longest(self, rows: int) -> int:
        """Characters of a receipt of so many rows at the most."""
        return _characters(LEAST_BYTES + LONGEST_POLICY + rows * (self.index_bytes + self.votes_bytes))


class Page:
    """The part of a batch's receipts that is made once for all of them.

    `heads`: what receipts of answers that are alike begin with. `single`: those of all rows, where each is an answer of its own.
    """

    __slots__ = ("_expires", "_labels", "_policy", "_subject", "_votes", "heads", "number", "single")

    def __init__(self, subject: Subject, policy: str, result: Result, expires: float) -> None:
        self._subject = subject
        self._policy = policy.encode()
        self._expires = expires
        self._labels = subject.packed(result.label_index)
        self._votes = subject.packed(result.votes)
        self.heads: dict[Hashable, bytes] = {}
        self.number = len(result.label_index)
        self.single: list[bytes] | None = None

    def head(self, rows: int, cost_usd: float) -> bytes:
        """What receipts of as many rows that cost the same begin with."""
        subject, policy = self._subject, self._policy
        length = LEAST_BYTES + len(policy) + rows * (subject.index_bytes + subject.votes_bytes)
        return HEAD.pack(FORMAT, length, subject.key, int(self._expires * 1000), cost_usd, len(policy)) + policy

    def each_row(self) -> list[bytes]:
        """Label and votes of each row."""
        labels, votes = self._subject.index_bytes, self._subject.votes_bytes
        rows = range(self.number)
        return [
            self._labels[row * labels : (row + 1) * labels] + self._votes[row * votes : (row + 1) * votes]
            for row in rows
        ]

    def rows(self, start: int, stop: int) -> bytes:
        """Labels and votes of these rows."""
        labels, votes = self._subject.index_bytes, self._subject.votes_bytes
        return self._labels[start * labels : stop * labels] + self._votes[start * votes : stop * votes]


class Receipts:
    """Signs receipts, verifies them, and remembers which ones were used. `seconds`: how long they are good for.

    A key longer than BLAKE2b takes is hashed first.
    """

    def __init__(self, key: bytes, seconds: float, clock: Clock = time.time, remembered: int = REMEMBERED) -> None:
        short = key if len(key) <= blake2b.MAX_KEY_SIZE else blake2b(key).digest()
        self._keyed = blake2b(key=short, digest_size=MAC_BYTES)
        self._seconds = seconds
        self._clock = clock
        self._remembered = remembered
        self._process = os.urandom(NONCE_BYTES - NUMBER.size)
        self._numbers = count()
        self._used: dict[bytes, float] = {}

    def page(self, subject: Subject, policy: str, result: Result) -> Page:
        """For a batch that was counted just now."""
        return Page(subject, policy, result, self._clock() + self._seconds)

    def signed(self, head: bytes, rows: bytes) -> bytes:
        """The receipt, as it goes out."""
        content = head + self._process + NUMBER.pack(next(self._numbers)) + rows
        return b2a_base64(content + self._signature(content), newline=False)

    def of_rows(self, head: bytes, page: Page) -> list[bytes]:
        """A receipt for each row. In one go, since what runs once a batch and long after the last time is two or three times as slow."""
        before, signature = head + self._process, self._signature
        contents = [before + NUMBER.pack(next(self._numbers)) + row for row in page.each_row()]
        return [b2a_base64(content + signature(content), newline=False) for content in contents]

    def _signature(self, content: bytes) -> bytes:
        signed = self._keyed.copy()
        signed.update(content)
        return signed.digest()

    def read(self, text: str, subject: Subject, most_rows: int) -> Receipt:
        """What a receipt of this ensemble says, if it is one, is ours and has not expired. Raises InvalidRequest."""
        content = _decoded(text, subject.longest(most_rows))
        signed = content[:-MAC_BYTES]
        if not compare_digest(self._signature(signed), content[-MAC_BYTES:]):
            raise InvalidRequest(
                "receipt: found a forged one, expected one that was signed here or by a replica with the same key"
            )
        _, _, digest, expires, cost_usd, length = HEAD.unpack_from(content)
        if digest != subject.key:
            raise InvalidRequest("receipt: found one of another ensemble, or of another version of this one")
        if expires / 1000 <= self._clock():
            raise InvalidRequest(
                f"receipt: found one that has expired, expected it within {self._seconds:g} s of the answer"
            )
        at = HEAD.size + length
        label_index, votes = _table(signed[at + NONCE_BYTES :], subject)
        policy, nonce = signed[HEAD.size : at].decode(), signed[at : at + NONCE_BYTES]
        return Receipt(policy, cost_usd, expires / 1000, nonce, label_index, votes)

    def use(self, receipt: Receipt) -> None:
        """Note that it was counted. Raises InvalidRequest where that was noted before."""
        used, now = self._used, self._clock()
        if receipt.nonce in used:
            raise InvalidRequest("receipt: found one that was used before, expected each one once")
        used[receipt.nonce] = receipt.expires
        while len(used) > self._remembered or used[next(iter(used))] <= now:
            del used[next(iter(used))]


def _characters(size: int) -> int:
    """Of so many bytes in base64."""
    return -(-size // 3) * 4


def _decoded(text: str, longest: int) -> bytes:
    """The bytes of a whole receipt of this format. Raises InvalidRequest."""
    if len(text) > longest:
        raise InvalidRequest(f"receipt: found {len(text)} characters, expected at most {longest}")
    try:
        content = a2b_base64(text.encode(), strict_mode=True)
    except ValueError:
        raise InvalidRequest("receipt: found characters or a length that none has, expected one as it came") from None
    if content and content[0] != FORMAT:
        raise InvalidRequest(f"receipt: found the format {content[0]}, expected {FORMAT}")
    if len(content) < LEAST_BYTES:
        raise InvalidRequest(f"receipt: found a truncated one of {len(content)} bytes, expected at least {LEAST_BYTES}")
    length = HEAD.unpack_from(content)[1]
    if len(content) != length:
        what = "a truncated one" if len(content) < length else "more than one"
        raise InvalidRequest(f"receipt: found {what} of {len(content)} bytes, expected {length}")
    return content


def _table(content: bytes, subject: Subject) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label index [n] and votes [n, M]."""
    indices = subject.unpacked(content)
    rows = len(indices) // (1 + subject.members)
    return indices[:rows], indices[rows:].reshape(rows, subject.members)


def opened(key_file: Path | None, seconds: float) -> Receipts | None:
    """As the settings say: None for no receipts, a random key where no file has one. Raises SettingsError."""
    if not seconds:
        return None
    if key_file:
        return Receipts(read_key(key_file), seconds)
    log.info("receipts are signed with a random key of this process; replicas need one in common, receipt_key_file")
    return Receipts(os.urandom(KEY_BYTES.start), seconds)


def read_key(file: Path) -> bytes:
    """The key in a file, without the line's end that editors leave. Raises SettingsError."""
    try:
        with file.open("rb") as stream:
            key = stream.read(KEY_BYTES.stop + 2).rstrip(b"\r\n")
    except OSError as error:
        raise SettingsError(f"receipt_key_file: {file}: {error.strerror}") from None
    if len(key) not in KEY_BYTES:
        found = f"{len(key)} bytes" if len(key) < KEY_BYTES.start else f"more than {KEY_BYTES.stop - 1} bytes"
        raise SettingsError(
            f"receipt_key_file: {file}: found {found}, expected {KEY_BYTES.start} to {KEY_BYTES.stop - 1} random ones"
        )
    return key
