"""The client's own HTTP/2 against grpcio's server, which is another's."""

import asyncio
import subprocess

import grpc
import pytest

from loadtest.targets import opening
from loadtest.targets.address import parse
from loadtest.targets.answers import Call, TargetError
from loadtest.targets.grpc_calls import GrpcOptions, UnaryCaller, ask
from loadtest.targets.grpc_stream import StreamCaller
from loadtest.targets.opening import Tls

METHOD = "/test.Service/Method"


class Handler(grpc.GenericRpcHandler):
    """Bytes in, bytes out."""

    def __init__(self, unary=None, stream=None) -> None:
        self.unary, self.stream = unary, stream

    def service(self, details):
        if self.stream:
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.unary)


@pytest.fixture
async def serve():
    servers = []

    async def serve(handler: Handler, *options, port: int = 0):
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 1), *options])
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        servers.append(server)
        return parse(f"grpc://127.0.0.1:{port}/x"), server

    yield serve
    for server in servers:
        await server.stop(0)


class Sent:
    """A caller, and what became of its calls in the order of their ends."""

    def __init__(self, make) -> None:
        self.caller = make(self.done)
        self.ended = []
        self.changed = asyncio.Event()

    def done(self, call, raw, now) -> None:
        self.ended.append((call.arm, raw))
        self.changed.set()

    def send(self, number: int, head: bytes, tail: bytes = b"") -> Call:
        call = Call(number, 0, 0.0)
        self.caller.send(call, head, tail)
        return call

    async def all(self, count: int):
        async with asyncio.timeout(20):
            while len(self.ended) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.ended


async def reverse(request: bytes, context) -> bytes:
    return request[::-1]


def unary(address, channels: int = 2, deadline: float = 0.0) -> Sent:
    return Sent(lambda done: UnaryCaller(address, METHOD, GrpcOptions(channels, deadline), done))


async def test_calls_are_answered_each_with_its_own_message(serve) -> None:
    address, _ = await serve(Handler(reverse))
    sent = unary(address)
    await sent.caller.open()
    for number in range(50):
        sent.send(number, b"head-", b"%d" % number)
    ended = await sent.all(50)

    assert {number: raw.body for number, raw in ended} == {number: (b"head-%d" % number)[::-1] for number in range(50)}
    await sent.caller.close()


async def test_messages_larger_than_all_windows_arrive_whole(serve) -> None:
    address, _ = await serve(Handler(reverse))
    sent = unary(address, channels=1)
    await sent.caller.open()
    messages = [bytes([number]) * 3_000_000 + b"end" for number in range(4)]
    for number, message in enumerate(messages):
        sent.send(number, message)
    ended = await sent.all(4)

    assert all(raw.body == messages[number][::-1] for number, raw in ended)
    await sent.caller.close()


async def test_more_calls_than_the_server_takes_at_once_wait_their_turn(serve) -> None:
    address, _ = await serve(Handler(reverse), ("grpc.max_concurrent_streams", 2))
    sent = unary(address, channels=1)
    await sent.caller.open()
    for number in range(30):
        sent.send(number, b"%d" % number)
    ended = await sent.all(30)

    assert {raw.code for _, raw in ended} == {"OK"}
    await sent.caller.close()


async def test_a_status_comes_with_its_words(serve) -> None:
    async def refuse(request, context):
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "die Schlange ist voll: 100 % für alle")

    address, _ = await serve(Handler(refuse))
    sent = unary(address)
    await sent.caller.open()
    sent.send(0, b"")
    ((_, raw),) = await sent.all(1)

    assert (raw.code, raw.message) == ("RESOURCE_EXHAUSTED", "die Schlange ist voll: 100 % für alle")
    assert not raw.lost
    await sent.caller.close()


async def test_the_server_knows_the_deadline(serve) -> None:
    async def remaining(request, context):
        return b"%.1f" % context.time_remaining()

    address, _ = await serve(Handler(remaining))
    sent = unary(address, deadline=5.0)
    await sent.caller.open()
    sent.send(0, b"")
    ((_, raw),) = await sent.all(1)

    assert 4 < float(raw.body) <= 5
    await sent.caller.close()


async def test_the_server_learns_that_a_call_is_given_up(serve) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(request, context):
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    address, _ = await serve(Handler(forever))
    sent = unary(address)
    await sent.caller.open()
    call = sent.send(0, b"")
    async with asyncio.timeout(10):
        await begun.wait()
        sent.caller.forget(call)
        await cancelled.wait()

    assert sent.ended == []
    await sent.caller.close()


async def test_a_server_that_went_away_is_lost_and_found_again(serve) -> None:
    address, server = await serve(Handler(reverse))
    sent = unary(address, channels=1)
    await sent.caller.open()
    await server.stop(0)
    await asyncio.sleep(0.1)
    sent.send(0, b"ab")
    ((_, raw),) = await sent.all(1)
    assert (raw.code, raw.lost) == ("UNAVAILABLE", True)

    await serve(Handler(reverse), port=address.port)
    while sent.ended[-1][1].code != "OK":
        await asyncio.sleep(0.05)
        sent.send(1, b"ab")
        await sent.all(len(sent.ended) + 1)

    assert sent.ended[-1][1].body == b"ba"
    await sent.caller.close()


async def test_answers_on_a_stream_find_their_requests_in_any_order(serve) -> None:
    async def backwards(requests, context):
        """Ten at a time, the last first."""
        waiting = []
        async for request in requests:
            waiting.append(request)
            if len(waiting) == 10:
                for each in reversed(waiting):
                    yield each
                waiting.clear()

    def identify(message: bytes):
        text, _, name = message.partition(b"\x1a")
        return name[1:].decode(), text

    address, _ = await serve(Handler(stream=backwards))
    sent = Sent(lambda done: StreamCaller(address, METHOD, GrpcOptions(2), done, identify))
    await sent.caller.open()
    for number in range(100):
        sent.send(number, b"row-", b"%d" % number)
    ended = await sent.all(100)

    assert {number: raw.parsed for number, raw in ended} == {number: b"row-%d" % number for number in range(100)}
    assert [number for number, _ in ended] != list(range(100))
    await sent.caller.close()


async def test_a_stream_that_ends_takes_its_requests_with_it_and_the_next_opens_another(serve) -> None:
    async def one(requests, context):
        async for request in requests:
            if b"die" in request:
                await context.abort(grpc.StatusCode.INTERNAL, "no more")
            yield request

    address, _ = await serve(Handler(stream=one))
    sent = Sent(lambda done: StreamCaller(address, METHOD, GrpcOptions(1), done, lambda message: ("2", message)))
    await sent.caller.open()
    sent.send(0, b"die")
    ((_, raw),) = await sent.all(1)
    assert (raw.code, raw.message) == ("INTERNAL", "no more")

    sent.send(1, b"live")
    ended = await sent.all(2)

    assert ended[-1][1].parsed.startswith(b"live")
    await sent.caller.close()


@pytest.fixture
def certificate(tmp_path):
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*made, *subject, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return pem, key


async def test_over_tls_both_sides_show_who_they_are(certificate) -> None:
    pem, key = certificate
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(reverse),))
    pair = (key.read_bytes(), pem.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], pem.read_bytes(), require_client_auth=True)
    address = parse(f"grpcs://127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}/x")
    await server.start()

    known = opening.context(address, Tls(pem, pem, key))
    assert (await ask(address, known, METHOD, b"abc")).body == b"cba"

    stranger = opening.context(address, Tls(certificate=pem, key=key))
    with pytest.raises(TargetError, match="certificate verify failed"):
        await ask(address, stranger, METHOD, b"abc")
    await server.stop(0)


async def test_one_call_alone(serve) -> None:
    address, _ = await serve(Handler(reverse))

    assert (await ask(address, None, METHOD, b"abc")).body == b"cba"


async def test_a_port_where_nobody_listens_is_told_in_a_line(unused_port) -> None:
    with pytest.raises(TargetError, match="connect call failed|connection refused"):
        await ask(parse(f"grpc://127.0.0.1:{unused_port}/x"), None, METHOD, b"")


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
