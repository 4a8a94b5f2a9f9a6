"""uvicorn on the socket that init keeps open through every switch, leaving without losing a request.

`uvicorn --fd 3` alone closes idle connections at once when it stops, also those on which a client is sending its next
request in that instant. Here they are left open for a while: what still comes is answered, with "Connection: close".
"""

import asyncio
import os

import uvicorn

from app import app

LINGER_SECONDS = 6


class Server(uvicorn.Server):
    async def shutdown(self, sockets=None):
        for server in self.servers:
            server.close()  # our descriptor alone: the next release goes on accepting with its own
        end = asyncio.get_running_loop().time() + LINGER_SECONDS
        while self.server_state.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def closing(app):
    async def wrapped(scope, receive, send):
        async def send_last(message):
            if server.should_exit and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, send_last)

    return wrapped


# Without an init, as on a developer's machine, it listens by itself.
where = {"fd": 3} if os.environ.get("LISTEN_PID") == str(os.getpid()) else {"port": int(os.environ.get("PORT", 3000))}
server = Server(uvicorn.Config(closing(app), **where))
server.run()
