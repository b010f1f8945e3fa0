import asyncio
import contextlib

import pytest

from loadtest.targets.address import parse
from loadtest.targets.answers import Call, TargetError
from loadtest.targets.http1 import HttpCaller, HttpOptions, get, header, unchunked


@pytest.fixture
async def serve():
    """A server that sends what it is told, piece by piece, to each request on a connection."""
    servers = []

    async def serve(*answers: list[bytes]):
        connections = []

        async def speak(reader, writer) -> None:
            connections.append(writer)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                for pieces in answers:
                    head = await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(int(header(head, b"content-length") or 0))
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0.005)
            writer.close()

        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        servers.append(server)
        return parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"), connections

    yield serve
    for server in servers:
        server.close()
        await server.wait_closed()
    await asyncio.sleep(0.01)  # until the connections' tasks have seen that the client hung up


async def answers(address, count: int, connections: int = 1):
    """What a caller gets to so many requests, one after the other."""
    ended: asyncio.Queue = asyncio.Queue()
    caller = HttpCaller(address, HttpOptions(connections), lambda call, raw, now: ended.put_nowait(raw))
    await caller.open()
    found = []
    for _ in range(count):
        caller.send(Call(0, 0, 0.0), b"POST /x HTTP/1.1\r\nHost: x\r\n\r\nfront,", b"tail")
        found.append(await asyncio.wait_for(ended.get(), 10))
    await caller.close()
    return found


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def test_an_answer_in_pieces_is_one(serve) -> None:
    address, connections = await serve([WHOLE], [WHOLE[:10], WHOLE[10:40], WHOLE[40:]], [WHOLE])
    found = await answers(address, 3)

    assert [raw.body for raw in found] == [b"hello"] * 3
    assert len(connections) == 1


async def test_chunks_are_joined(serve) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    address, _ = await serve([head, b"3\r\nhel\r\n", b"2;x=y\r\nlo", b"\r\n0\r\n\r\n"])

    assert [raw.body for raw in await answers(address, 1)] == [b"hello"]


async def test_an_error_is_its_status_and_its_words(serve) -> None:
    body = b'{"error": "queue full"}'
    address, _ = await serve([b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)])
    (raw,) = await answers(address, 1)

    assert (raw.code, raw.message, raw.lost) == ("429", "queue full", False)


async def test_a_connection_that_the_server_closes_is_followed_by_another(serve) -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    address, connections = await serve([closing])
    found = await answers(address, 3)

    assert [raw.body for raw in found] == [b"ok"] * 3
    assert len(connections) == 3


async def test_hanging_up_in_the_middle_is_a_lost_request(serve) -> None:
    address, _ = await serve([WHOLE[:20]])
    (raw,) = await answers(address, 1)

    assert (raw.code, raw.lost) == ("UNAVAILABLE", True)


async def test_another_protocol_is_named(serve) -> None:
    address, _ = await serve([b"SSH-2.0-OpenSSH_9.2\r\n"])
    (raw,) = await answers(address, 1)

    assert "found b'SSH-2.0-Open', expected HTTP/1.1" in raw.message


async def test_requests_that_find_no_free_connection_open_one() -> None:
    held: list[asyncio.StreamWriter] = []
    all_there = asyncio.Event()

    async def hold(reader, writer) -> None:
        await reader.readuntil(b"tail")
        held.append(writer)
        if len(held) == 20:
            all_there.set()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    address = parse(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x")
    ended = []
    caller = HttpCaller(address, HttpOptions(1), lambda call, raw, now: ended.append(raw))
    await caller.open()
    for _ in range(20):
        caller.send(Call(0, 0, 0.0), b"POST /x HTTP/1.1\r\n\r\n", b"tail")
    await asyncio.wait_for(all_there.wait(), 10)  # none waited for another's answer
    for writer in held:
        writer.write(WHOLE)
    while len(ended) < 20:
        await asyncio.sleep(0.01)

    assert {raw.body for raw in ended} == {b"hello"}
    await caller.close()
    for writer in held:
        writer.close()
    server.close()


async def test_a_port_where_nobody_listens_is_told_in_a_line() -> None:
    with pytest.raises(TargetError, match="expected an HTTP server"):
        await get(parse("http://127.0.0.1:1/x"), None, "/")


def test_a_header_is_found_whatever_its_case() -> None:
    assert header(b"HTTP/1.1 200 OK\r\nX-A: 1\r\ncontent-LENGTH:  5 ", b"content-length") == b"5"
    assert header(b"HTTP/1.1 200 OK", b"content-length") == b""


def test_chunks_that_are_not_all_there_are_waited_for() -> None:
    data = b"3\r\nabc\r\n0\r\n\r\n"

    assert [unchunked(data[:size], 0) for size in range(len(data))] == [None] * len(data)
    assert unchunked(data, 0) == (b"abc", len(data))
