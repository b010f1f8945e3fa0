"""Receipts say what they were given, once, for a while, to the ensemble that they are of; whatever else comes is refused."""

from binascii import a2b_base64, b2a_base64
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensembles.votes import Result
from serving import receipts
from serving.errors import InvalidRequest
from serving.receipts import Receipt, Receipts, Subject, read_key
from serving.settings import SettingsError

KEY = b"k" * 32
DIGITS = Subject("ab" * 32, classes=10, members=5)
DAY = 86400.0


class Clock:
    """Says what it was set to."""

    now = 1.8e9

    def __call__(self) -> float:
        return self.now


def result(label_index: Any, votes: Any) -> Result:
    """Only what receipts look at is filled."""
    labels, cast = np.array(label_index, np.int64), np.array(votes, np.int64)
    nothing = np.zeros(len(labels), np.float32)
    return Result(labels, np.zeros((len(labels), 1), np.float32), cast, cast == labels[:, None], nothing, nothing)


def issue(
    signer: Receipts,
    subject: Subject = DIGITS,
    label_index: Any = (7, 3),
    votes: Any = ((7, 7, 1, 7, 7), (3, 3, -1, -1, 3)),
    policy: str = "full",
) -> str:
    """One receipt for all rows, which cost 2 USD."""
    page = signer.page(subject, policy, result(label_index, votes))
    return signer.signed(page.head(len(label_index), 2.0), page.rows(0, len(label_index))).decode()


def read(signer: Receipts, text: str, subject: Subject = DIGITS) -> Receipt:
    return signer.read(text, subject, most_rows=64)


def refusal(signer: Receipts, text: str, subject: Subject = DIGITS) -> str:
    with pytest.raises(InvalidRequest) as fault:
        read(signer, text, subject)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


# ------------------------------------------------------------------------------------------------------ what a receipt says


@given(st.data())
@settings(deadline=None)
@pytest.mark.parametrize("classes", [2, 10, 254, 255, 1000, 65534, 65535, 100_000])
def test_a_receipt_says_what_was_put_into_it(classes: int, data: st.DataObject) -> None:
    members, rows = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 20))
    index = st.integers(-1, classes - 1)
    labels = data.draw(st.lists(index, min_size=rows, max_size=rows))
    votes = np.reshape(data.draw(st.lists(index, min_size=rows * members, max_size=rows * members)), (rows, members))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    policy = data.draw(st.sampled_from(["full", "member:" + "x" * 63, "größe"]))
    signer, subject = Receipts(KEY, DAY), Subject("cd" * 32, classes, members)
    page = signer.page(subject, policy, result(labels, votes))
    text = signer.signed(page.head(stop - start, 0.25), page.rows(start, stop)).decode()
    found = read(signer, text, subject)

    assert (found.policy, found.cost_usd) == (policy, 0.25)
    assert found.label_index.tolist() == labels[start:stop]
    assert found.votes.tolist() == votes[start:stop].tolist()
    assert len(text) <= subject.longest(stop - start)


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=200))
@settings(deadline=None)
def test_the_signature_is_blake2b_with_the_key(content: bytes, key: bytes) -> None:
    short = key if len(key) <= 64 else blake2b(key).digest()

    assert Receipts(key, DAY)._signature(content) == blake2b(content, key=short, digest_size=16).digest()


def test_no_two_receipts_are_the_same() -> None:
    signers = [Receipts(KEY, DAY, Clock()) for _ in range(2)]

    assert len({issue(signer) for signer in signers for _ in range(100)}) == 200


def test_a_receipt_for_one_row_of_five_members_is_short() -> None:
    assert len(issue(Receipts(KEY, DAY), label_index=[1], votes=[[1] * 5])) == 108


# ------------------------------------------------------------------------------------------------------- what is refused


def test_a_changed_byte_is_noticed_wherever_it_is() -> None:
    signer = Receipts(KEY, DAY)
    content = a2b_base64(issue(signer))
    for place in range(len(content)):
        forged = bytearray(content)
        forged[place] ^= 1
        line = refusal(signer, b2a_base64(bytes(forged), newline=False).decode())
        kind = "format 3" if place == 0 else "bytes, expected" if place < 5 else "a forged one"
        assert kind in line, (place, line)


def test_a_truncated_receipt_is_said_to_be_one() -> None:
    signer = Receipts(KEY, DAY)
    content = a2b_base64(issue(signer))
    for length in range(1, len(content)):
        line = refusal(signer, b2a_base64(content[:length], newline=False).decode())
        assert line.startswith(f"receipt: found a truncated one of {length} bytes, expected "), line


@pytest.mark.parametrize("length", [1, 2, 3, 5, 50])
def test_a_truncated_text_is_refused_too(length: int) -> None:
    signer = Receipts(KEY, DAY)

    assert refusal(signer, issue(signer)[:-length]).startswith("receipt: found ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "receipt: found a truncated one of 0 bytes"),
        ("hello", "receipt: found characters or a length that none has, expected one as it came"),
        ("größe===", "receipt: found characters"),
        ("\ud800", "receipt: found characters"),
        ("AQ==\n", "receipt: found characters"),
        ("AQ==AQ==", "receipt: found characters"),
        ("A" * 3, "receipt: found characters"),
        ("A" * 10**6, "receipt: found 1000000 characters, expected at most "),
        ("CAAA", "receipt: found the format 8, expected 2"),
    ],
    ids=lambda text: text[:10].encode("unicode-escape").decode(),
)
def test_what_is_no_receipt_is_refused(text: str, line: str) -> None:
    assert refusal(Receipts(KEY, DAY), text).startswith(line)


def test_more_than_one_is_refused() -> None:
    signer = Receipts(KEY, DAY)
    doubled = b2a_base64(a2b_base64(issue(signer)) * 2, newline=False).decode()

    assert refusal(signer, doubled) == "receipt: found more than one of 172 bytes, expected 86"


def test_a_receipt_of_another_key_is_forged() -> None:
    line = "receipt: found a forged one, expected one that was signed here or by a replica with the same key"

    assert refusal(Receipts(KEY, DAY), issue(Receipts(b"l" * 32, DAY))) == line


def test_replicas_with_one_key_take_each_others_receipts() -> None:
    assert read(Receipts(KEY, DAY), issue(Receipts(KEY, DAY))).policy == "full"


@pytest.mark.parametrize("other", [Subject("cd" * 32, 10, 5), Subject("cd" * 32, 3, 9), Subject("cd" * 32, 1000, 5)])
def test_a_receipt_of_another_ensemble_is_foreign(other: Subject) -> None:
    signer = Receipts(KEY, DAY)

    line = "receipt: found one of another ensemble, or of another version of this one"
    assert refusal(signer, issue(signer), other) == line


def test_a_receipt_is_good_for_as_long_as_the_settings_say() -> None:
    clock = Clock()
    signer = Receipts(KEY, 60.0, clock)
    text = issue(signer)
    clock.now += 59.9

    assert read(signer, text).expires == pytest.approx(Clock.now + 60)
    clock.now += 0.2
    assert refusal(signer, text) == "receipt: found one that has expired, expected it within 60 s of the answer"


# ------------------------------------------------------------------------------------------------------------- only once

USED = "receipt: found one that was used before, expected each one once"


def use(signer: Receipts, text: str) -> None:
    signer.use(read(signer, text))


def test_a_receipt_is_used_once() -> None:
    signer = Receipts(KEY, DAY)
    text = issue(signer)
    use(signer, text)

    with pytest.raises(InvalidRequest, match=f"^{USED}$"):
        use(signer, text)
    use(signer, issue(signer))


def test_only_as_many_are_remembered_as_are_promised() -> None:
    signer = Receipts(KEY, DAY, remembered=10)
    texts = [issue(signer) for _ in range(11)]
    for text in texts:
        use(signer, text)

    assert len(signer._used) == 10
    with pytest.raises(InvalidRequest, match=USED):
        use(signer, texts[1])
    use(signer, texts[0])


def test_what_has_expired_need_not_be_remembered() -> None:
    clock = Clock()
    signer = Receipts(KEY, 60.0, clock)
    for _ in range(1000):
        use(signer, issue(signer))
        clock.now += 1

    assert len(signer._used) == 60


# --------------------------------------------------------------------------------------------------------------- the key


def test_a_key_file_holds_the_key_and_perhaps_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for end in (b"", b"\n", b"\r\n"):
        file.write_bytes(b"0123456789abcdef" * 4 + end)
        assert read_key(file) == b"0123456789abcdef" * 4
    file.write_bytes(b"\xff" * 4096)
    assert len(read_key(file)) == 4096


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"", "0 bytes"), (b"short\n", "5 bytes"), (b"k" * 31, "31 bytes"), (b"k" * 5000, "more than 4096 bytes")],
)
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as fault:
        read_key(file)

    assert str(fault.value) == f"receipt_key_file: {file}: found {found}, expected 32 to 4096 random ones"


def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="^receipt_key_file: .*nowhere: No such file or directory$"):
        read_key(tmp_path / "nowhere")


def test_receipts_can_be_turned_off() -> None:
    assert receipts.opened(None, 0) is None
