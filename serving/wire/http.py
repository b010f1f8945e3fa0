"""HTTP on ASGI: the routes, the bodies, and nothing else. Errors are always `{"error": "…"}`."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from serving.catalog import Model
from serving.errors import Fault, Internal, Overloaded, TooLarge, Unknown
from serving.journey import Caller
from serving.wire import feedback_http, management, oip, openapi, predict_http
from serving.wire.codec import WINDOW_BITS, compressed, decompressed
from serving.wire.exchange import Serving
from serving.wire.grpc import Complete, Gone, Receive, Send
from serving.wire.oip_http import Inference
from serving.wire.origin import echo, names
from serving.wire.status import status

log = logging.getLogger(__name__)

JSON = b"application/json"
WORTH_COMPRESSING = 1024


class MethodNotAllowed(Exception):
    """The route exists, for another method."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


@dataclass(slots=True)
class HttpCall:
    """One request. `names`: the parts of the path that name a model and a version."""

    headers: Mapping[bytes, bytes]
    serving: Serving
    inference: Inference
    ready: Callable[[], bool]
    receive: Receive
    complete: Complete
    caller: Caller | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: bytes) -> str:
        return self.headers.get(name, b"").decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body, decompressed. Raises TooLarge before more than `limit` bytes are held, and InvalidRequest."""
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise TooLarge(f"found a body of {int(declared)} bytes, expected at most {limit}")
        event = await self.receive()
        if event.get("more_body", False):
            body = await self._rest(bytearray(event["body"]), limit)
        elif event["type"] == "http.disconnect":
            raise Gone
        else:
            body = event.get("body", b"")
        if len(body) > limit:
            raise TooLarge(f"found a body of more than {limit} bytes")
        self.complete()
        if b"content-encoding" not in self.headers:
            return body
        return decompressed(body, self.header(b"content-encoding").lower(), limit)

    async def _rest(self, body: bytearray, limit: int) -> bytes:
        more = True
        while more and len(body) <= limit:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise Gone
            body += event["body"]
            more = event.get("more_body", False)
        return bytes(body)


@dataclass(slots=True)
class Reply:
    """What goes back."""

    body: bytes = b""
    content_type: bytes = JSON
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    may_compress: bool = False  # clients of this protocol expect it of inference only


Handler = Callable[[HttpCall], Awaitable[Reply]]


def _json(content: Any, code: int = 200) -> Reply:
    return Reply(orjson.dumps(content), status=code)


async def _server_metadata(call: HttpCall) -> Reply:
    return _json(oip.server_metadata(call.serving))


async def _live(call: HttpCall) -> Reply:
    return _json({"live": True})


async def _ready(call: HttpCall) -> Reply:
    ready = call.ready()
    return _json({"ready": ready}, 200 if ready else 503)


def _model(call: HttpCall) -> Model:
    return call.serving.catalog.find(call.names["model"], call.names.get("version") or "")


async def _model_metadata(call: HttpCall) -> Reply:
    return _json(oip.model_metadata(_model(call)))


async def _model_ready(call: HttpCall) -> Reply:
    model = _model(call)
    model.live.check_ready()
    return _json({"name": model.name, "ready": True})


async def _model_config(call: HttpCall) -> Reply:
    return _json(oip.model_config(_model(call)))


async def _model_stats(call: HttpCall) -> Reply:
    return _json({"model_stats": oip.model_statistics(call.serving, [_model(call)])})


async def _all_stats(call: HttpCall) -> Reply:
    models = call.serving.catalog.models.values()
    return _json({"model_stats": oip.model_statistics(call.serving, models)})


async def _infer(call: HttpCall) -> Reply:
    body = await call.body(call.serving.max_tensor_bytes)
    length = call.header(b"inference-header-content-length")
    reply = await call.inference.infer(call.names["model"], call.names.get("version") or "", body, length, call.caller)
    if reply.json_bytes is None:
        return Reply(reply.body, may_compress=True)
    length_header = (b"inference-header-content-length", b"%d" % reply.json_bytes)
    return Reply(reply.body, b"application/octet-stream", headers=[length_header], may_compress=True)


async def _predict(call: HttpCall) -> Reply:
    content_type = call.header(b"content-type")
    pictures = predict_http.takes_images(content_type)
    body = await call.body(call.serving.max_image_bytes if pictures else call.serving.max_tensor_bytes)
    answer = await predict_http.predict(call.serving, call.names["model"], body, content_type, call.caller)
    return Reply(orjson.dumps(answer), may_compress=True)


async def _feedback(call: HttpCall) -> Reply:
    body = await call.body(call.serving.max_feedback_bytes)
    return _json(feedback_http.feedback(call.serving, call.names["model"], body))


async def _models(call: HttpCall) -> Reply:
    return _json({"models": [predict_http.describe(live) for live in call.serving.catalog.ensembles.values()]})


async def _model_description(call: HttpCall) -> Reply:
    return _json(predict_http.describe(_model(call).live))


async def _index(call: HttpCall) -> Reply:
    return _json(management.index(call.serving, management.ready_only(await call.body(management.MOST_BYTES))))


async def _load(call: HttpCall) -> Reply:
    wanted = management.parameters(await call.body(management.MOST_BYTES))
    return _json(await management.load(call.serving, call.names["model"], wanted))


async def _unload(call: HttpCall) -> Reply:
    wanted = management.parameters(await call.body(management.MOST_BYTES))
    return _json(await management.unload(call.serving, call.names["model"], wanted))


async def _openapi(call: HttpCall) -> Reply:
    return _json(openapi.document(call.serving.catalog))


async def _docs(call: HttpCall) -> Reply:
    return Reply(openapi.PAGE, b"text/html; charset=utf-8")


async def _root(call: HttpCall) -> Reply:
    return Reply(status=307, headers=[(b"location", b"/docs")])


V2 = r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?"
V1 = r"/v1/models/(?P<model>[^/:]+)"

ROUTES: Sequence[tuple[str, re.Pattern[str], Handler]] = [
    (method, re.compile(pattern), handler)
    for method, pattern, handler in (
        ("POST", f"{V2}/infer", _infer),
        ("POST", f"{V1}:predict", _predict),
        ("POST", f"{V1}:feedback", _feedback),
        ("GET", "/v2/health/live", _live),
        ("GET", "/v2/health/ready", _ready),
        ("GET", "/v2/?", _server_metadata),
        ("GET", "/v2/models/stats", _all_stats),
        ("GET", f"{V2}/ready", _model_ready),
        ("GET", f"{V2}/config", _model_config),
        ("GET", f"{V2}/stats", _model_stats),
        ("GET", V2, _model_metadata),
        ("GET", "/v1/models", _models),
        ("GET", V1, _model_description),
        ("POST", "/v2/repository/index", _index),
        ("POST", "/v2/repository/models/(?P<model>[^/]+)/load", _load),
        ("POST", "/v2/repository/models/(?P<model>[^/]+)/unload", _unload),
        ("GET", "/openapi.json", _openapi),
        ("GET", "/docs", _docs),
        ("GET", "/", _root),
    )
]


@lru_cache(1024)
def find(method: str, path: str) -> tuple[Handler, Mapping[str, str]]:
    """The handler of a path and the names in it. Raises Unknown or MethodNotAllowed."""
    allowed = ""
    for expected, pattern, handler in ROUTES:
        match = pattern.fullmatch(path)
        if match:
            if method == expected:
                return handler, {name: unquote(value) for name, value in match.groupdict().items() if value}
            allowed = expected
    if allowed:
        raise MethodNotAllowed(f"found {method[:16]} {path[:128]}, expected {allowed}", allowed)
    raise Unknown(f"unknown path {path[:128]!r}, see /docs")


async def serve(scope: Mapping[str, Any], call: HttpCall, send: Send) -> None:
    """Answer one HTTP request, whatever happens."""
    method = scope["method"]
    try:
        handler, call.names = find("GET" if method == "HEAD" else method, scope["raw_path"].decode("latin-1"))
        reply = await handler(call)
    except Fault as fault:
        reply = _refusal(fault)
    except MethodNotAllowed as error:
        reply = Reply(orjson.dumps({"error": str(error)}), status=405, headers=[(b"allow", error.allowed.encode())])
    except Gone:
        return
    except Exception:
        log.exception("%s broke; this is a bug", scope["path"], extra=names(call.caller))
        reply = _refusal(Internal("the call broke; this is a bug"))
    if call.caller is not None:
        reply.headers = [*reply.headers, *echo(call.caller)]
    await _send(reply, call.header(b"accept-encoding"), method == "HEAD", send)


def _refusal(fault: Fault) -> Reply:
    retry = [(b"retry-after", b"%d" % max(1, round(fault.retry_after)))] if isinstance(fault, Overloaded) else []
    return Reply(orjson.dumps({"error": str(fault)}), status=status(fault).http, headers=retry)


async def _send(reply: Reply, accept_encoding: str, head_only: bool, send: Send) -> None:
    body, headers = reply.body, [(b"content-type", reply.content_type), *reply.headers]
    if accept_encoding and reply.may_compress:
        accepted = [part.strip() for part in accept_encoding.lower().split(",")]
        encoding = next((name for name in WINDOW_BITS if name in accepted), None)
        # Who names one encoding alone wants it (tritonclient); a browser's list is no reason to spend time on a small answer.
        if encoding and (len(accepted) == 1 or len(body) > WORTH_COMPRESSING):
            body = compressed(body, encoding)
            headers.append((b"content-encoding", encoding.encode()))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head_only else body})
