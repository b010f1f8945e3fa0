"""The server as it is, with one more path, `GET /tasks`: how many tasks its event loop has. A program and a module, as in
`scripted_app.py`."""

import asyncio
import json
import sys

from serving.app import create


class Counting:
    def __init__(self, application) -> None:
        self.application = application

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["path"] == "/tasks":
            body = str(len(asyncio.all_tasks())).encode()
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
            )
            await send({"type": "http.response.body", "body": body})
        else:
            await self.application(scope, receive, send)


if __name__ == "__main__":
    from serving.door import become, with_free_ports
    from serving.settings import read

    become(with_free_ports(read(None, json.loads(sys.argv[1]))), "counting_app:application")
else:
    application = Counting(create())
