import pytest

from loadtest.targets.address import AddressError, Protocol, parse


@pytest.mark.parametrize(
    ("url", "protocol", "tls", "authority", "name"),
    [
        ("grpc://localhost:8001/digits", Protocol.PREDICT, False, "localhost:8001", "digits"),
        ("grpcs://votes.example/digits", Protocol.PREDICT, True, "votes.example:8001", "digits"),
        ("oip+grpc://127.0.0.1:9/digits.mlp", Protocol.OIP_GRPC, False, "127.0.0.1:9", "digits.mlp"),
        ("http://localhost:8000/digits", Protocol.V1_HTTP, False, "localhost:8000", "digits"),
        ("oip+https://[::1]/digits/", Protocol.OIP_HTTP, True, "[::1]:8000", "digits"),
        ("grpc://localhost", Protocol.PREDICT, False, "localhost:8001", ""),
    ],
)
def test_a_url_says_protocol_place_and_name(url, protocol, tls, authority, name) -> None:
    found = parse(url)

    assert (found.protocol, found.tls, found.authority, found.name) == (protocol, tls, authority, name)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001",
        "ftp://localhost/x",
        "grpc://",
        "grpc:///digits",
        "grpc://host:port/x",
        "grpc://h:99999/x",
        "http://h/a/b",
        "http://h/a?b=c",
        "",
    ],
)
def test_anything_else_is_told_in_one_line(url) -> None:
    with pytest.raises(AddressError, match="expected grpc://host:port/ensemble") as fault:
        parse(url)

    assert "\n" not in str(fault.value)
