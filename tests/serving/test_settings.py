"""What the operator decides, from a file and flags; whatever makes no sense is refused in one line."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import settings
from serving.settings import ENVIRONMENT, Settings, SettingsError

FLAGS: dict[str, object] = {"repositories": (Path("/models/digits"),)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "scrutin.yaml"


@pytest.fixture
def environment() -> Iterator[Any]:
    """The process's own, put back afterwards."""
    before = os.environ.pop(ENVIRONMENT, None)
    yield os.environ
    os.environ.pop(ENVIRONMENT, None)
    if before is not None:
        os.environ[ENVIRONMENT] = before


def refusal(file: Path | None, flags: dict[str, object]) -> str:
    with pytest.raises(SettingsError) as fault:
        settings.read(file, flags)
    assert len(str(fault.value).splitlines()) == 1, str(fault.value)
    return str(fault.value)


def test_only_the_repositories_have_to_be_named() -> None:
    assert settings.read(None, FLAGS) == Settings(
        repositories=(Path("/models/digits"),),
        host="127.0.0.1",
        http_port=8000,
        grpc_port=8001,
        metrics_port=8002,
        price_per_hour=0.10,
        drain_delay_seconds=0.0,
        drain_timeout_seconds=20.0,
        log_format="text",
        access_log=False,
        otlp_endpoint=None,
        trace_ratio=0.01,
    )


def test_a_file_says_everything(file: Path) -> None:
    file.write_text(
        "repositories: [a, /b]\nhost: '::'\nhttp_port: 0\ngrpc_port: 1\nmetrics_port: 65535\n"
        "price_per_hour: 2\ndrain_delay_seconds: 1.5\ndrain_timeout_seconds: 0\n"
    )

    assert settings.read(file, {}) == Settings(
        repositories=(Path("a"), Path("/b")),
        host="::",
        http_port=0,
        grpc_port=1,
        metrics_port=65535,
        price_per_hour=2.0,
        drain_delay_seconds=1.5,
        drain_timeout_seconds=0.0,
    )


def test_flags_win_and_flags_not_given_do_not(file: Path) -> None:
    file.write_text("repositories: [a]\nhttp_port: 1\ngrpc_port: 2\n")
    found = settings.read(file, {**FLAGS, "http_port": 9, "grpc_port": None, "host": None})

    assert (found.repositories, found.http_port, found.grpc_port) == ((Path("/models/digits"),), 9, 2)
    assert found.host == "127.0.0.1"


def test_a_flag_of_zero_is_given() -> None:
    assert settings.read(None, {**FLAGS, "http_port": 0, "drain_timeout_seconds": 0.0}).http_port == 0


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.read(None, FLAGS).host = "0.0.0.0"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("http_port", 65536, "http_port: found 65536, expected less than or equal to 65535"),
        ("http_port", -1, "http_port: found -1, expected greater than or equal to 0"),
        ("grpc_port", "http", "grpc_port: found 'http', expected a valid integer"),
        ("metrics_port", 80.5, "metrics_port: found 80.5, expected a valid integer"),
        ("host", 1, "host: found 1, expected a valid string"),
        ("price_per_hour", 0, "price_per_hour: found 0, expected greater than 0"),
        ("price_per_hour", float("nan"), "price_per_hour: found nan, expected "),
        ("price_per_hour", float("inf"), "price_per_hour: found inf, expected "),
        ("price_per_hour", "cheap", "price_per_hour: found 'cheap', expected a valid number"),
        (
            "prices",
            {"cpu": {"usd_per_hour": 0, "as_of": "2026-11-24"}},
            "prices.cpu.usd_per_hour: found 0, expected greater ",
        ),
        (
            "prices",
            {"cpu": {"usd_per_hour": -1, "as_of": "2026-11-24"}},
            "prices.cpu.usd_per_hour: found -1, expected grea",
        ),
        (
            "prices",
            {"cpu": {"usd_per_hour": float("nan"), "as_of": "2026-11-24"}},
            "prices.cpu.usd_per_hour: found nan, ",
        ),
        ("prices", {"cpu": {"usd_per_hour": 1}}, "prices.cpu.as_of: missing"),
        (
            "prices",
            {"cpu": {"usd_per_hour": 1, "as_of": 20261124}},
            "prices.cpu.as_of: found 20261124, expected a day such as",
        ),
        (
            "prices",
            {"cpu": {"usd_per_hour": 1, "as_of": "soon"}},
            "prices.cpu.as_of: found 'soon', expected a valid date",
        ),
        ("prices", {"cpu": 0.1}, "prices.cpu: found 0.1, expected a mapping"),
        (
            "prices",
            {"gpu": {"usd_per_hour": 1, "as_of": "2026-11-24"}},
            "prices.gpu.[key]: found 'gpu', expected match",
        ),
        ("max_connection_age_seconds", 0, "max_connection_age_seconds: found 0, expected greater than or equal to 1"),
        ("receipt_seconds", -1, "receipt_seconds: found -1, expected greater than or equal to 0"),
        ("receipt_seconds", float("inf"), "receipt_seconds: found inf, expected "),
        ("drain_delay_seconds", -1, "drain_delay_seconds: found -1, expected greater than or equal to 0"),
        (
            "drain_timeout_seconds",
            1e9,
            "drain_timeout_seconds: found 1000000000.0, expected less than or equal to 3600",
        ),
        ("repositories", (), "repositories: found ()"),
        ("author", "me", "author: unknown key"),
    ],
)
def test_a_wrong_value_is_refused_with_key_found_and_expected(file: Path, key: str, value: Any, line: str) -> None:
    assert refusal(None, {**FLAGS, key: value}).startswith(line)


def test_a_fault_of_the_file_names_the_file_and_one_of_a_flag_does_not(file: Path) -> None:
    file.write_text("http_port: 99999\n")
    expected = "http_port: found 99999, expected less than or equal to 65535"

    assert refusal(file, FLAGS) == f"{file}: {expected}"
    assert refusal(file, {**FLAGS, "http_port": 99999}) == expected


def test_a_fault_of_the_file_names_the_file_also_where_a_flag_could_have_been_given(file: Path) -> None:
    """The command hands over every flag, None for those that were not given."""
    file.write_text("http_port: 99999\n")

    assert refusal(file, {**FLAGS, "http_port": None}).startswith(f"{file}: http_port: found 99999, ")


def test_without_repositories_there_is_nothing_to_serve() -> None:
    assert refusal(None, {}).startswith("repositories: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "found NoneType, expected a mapping"),
        ("[1]", "found list, expected a mapping"),
        ("a: [", "expected YAML, found "),
        ("a: b: c", "expected YAML, found "),
        ("a: !!python/object/apply:os.system [ls]", "expected YAML, found "),
        ("author: me", "author: "),
        ("1: 2", "1: "),
        ('"two\\nlines": 1', ""),
        ("host: 2020-99-99", ""),
        ("a: " + "[" * 10_000, ""),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_a_file_that_is_none_is_refused(file: Path, content: str, line: str) -> None:
    file.write_text(content)

    assert refusal(file, FLAGS).startswith(f"{file}: {line}")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("größe: 1".encode("latin-1"))

    assert refusal(tmp_path / "nowhere", FLAGS) == f"{tmp_path}/nowhere: No such file or directory"
    assert refusal(tmp_path, FLAGS) == f"{tmp_path}: Is a directory"
    assert refusal(tmp_path / "latin", FLAGS).startswith(f"{tmp_path}/latin: expected YAML, found ")


def test_prices_are_by_device_with_their_day(file: Path) -> None:
    file.write_text(
        "prices:\n  cpu: {usd_per_hour: 0.1, as_of: 2026-11-24}\n  cuda:0: {usd_per_hour: 2.5, as_of: '2026-10-01'}\n"
    )
    found = settings.read(file, FLAGS).prices

    assert {name: (price.usd_per_hour, str(price.as_of)) for name, price in found.items()} == {
        "cpu": (0.1, "2026-11-24"),
        "cuda:0": (2.5, "2026-10-01"),
    }


def test_settings_go_through_the_environment_unchanged(environment: Any) -> None:
    flags = {**FLAGS, "host": "::1", "price_per_hour": 0.123456789, "drain_delay_seconds": 3.25}
    prices = {"cpu": {"usd_per_hour": 0.1, "as_of": "2026-11-24"}}
    given = settings.read(None, {**flags, "prices": prices, "receipt_key_file": Path("/run/key")})
    environment.update(given.to_environment())

    assert settings.from_environment() == given


def test_an_environment_without_settings_says_how_to_start(environment: Any) -> None:
    with pytest.raises(SettingsError, match="SCRUTIN_SETTINGS: missing, expected to be started by `serving run`"):
        settings.from_environment()


@pytest.mark.parametrize("content", ["", "hello", "[]", "{}", '{"repositories": ["a"], "http_port": -1}'])
def test_an_environment_with_other_settings_is_refused_in_one_line(environment: Any, content: str) -> None:
    environment[ENVIRONMENT] = content
    with pytest.raises(SettingsError) as fault:
        settings.from_environment()

    assert len(str(fault.value).splitlines()) == 1
