"""An IDE's side of a session, and what the runtime behind the gateway was asked.

PLUGWAY_URL           the gateway, started as gateway.toml says
PLUGWAY_KEY           one of its keys
PLUGWAY_RUNTIME       the runtime behind it (tests/python/runtime)
PLUGWAY_SILENCE       its agent's stream_timeout, in the gateway's words: "3s"
PLUGWAY_TOOL_SECONDS  how long a tool takes that takes long
PLUGWAY_CUTS          how often the connection is cut
"""

import asyncio
import json
import os
import unittest
import urllib.request
import uuid

from websockets.asyncio.client import connect

URL = os.environ.get("PLUGWAY_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("PLUGWAY_KEY", "conformance-key-0001")
RUNTIME = os.environ.get("PLUGWAY_RUNTIME", "http://127.0.0.1:8001").rstrip("/")
SILENCE = os.environ.get("PLUGWAY_SILENCE", "3s")
TOOL_SECONDS = float(os.environ.get("PLUGWAY_TOOL_SECONDS", "60"))
CUTS = int(os.environ.get("PLUGWAY_CUTS", "200"))

PATHS = ("/ws", "/api/v1/ws")
#: Longer than any answer takes.
DEADLINE = 30


class Ide:
    """One connection."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, frame):
        await self.socket.send(frame if isinstance(frame, (str, bytes)) else json.dumps(frame))

    async def ask(self, *lines):
        await self.send({"type": "user_message", "role": "user", "content": "\n".join(lines)})

    async def text(self):
        """The next frame, as it came."""
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE)
        assert isinstance(text, str), text
        return text

    async def frame(self):
        return json.loads(await self.text())

    async def turn(self):
        """All frames up to the one that ends the turn."""
        frames = [await self.frame()]
        while frames[-1]["type"] != "done" and not ends(frames[-1]):
            frames.append(await self.frame())
        return frames

    def cut(self):
        """Goes away without a word."""
        self.socket.transport.abort()


def ends(frame):
    """Whether the gateway says that the turn has failed."""
    return frame["type"] == "error" and frame.get("content", "").startswith(("Agent error: ", "Streaming error: "))


def new_session():
    return f"ide-{uuid.uuid4().hex}"


class Suite(unittest.IsolatedAsyncioTestCase):
    maxDiff = None

    async def connect(self, session, path=PATHS[0], query="", key=KEY):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{URL.replace('http', 'ws', 1)}{path}/{session}{query}"
        socket = await connect(url, additional_headers=headers, compression=None, max_size=None, proxy=None)
        self.addAsyncCleanup(socket.close)
        return Ide(socket)

    async def asked(self, session):
        """The frames that the runtime got in a session, each with what became of it."""

        def get():
            with urllib.request.urlopen(f"{RUNTIME}/requests", timeout=DEADLINE) as answer:
                return json.load(answer)

        return [one for one in await asyncio.to_thread(get) if one["session_id"] == session]


def said(text):
    """The frames in which the runtime says a text: in tokens, and once more whole."""
    words = text.replace(" ", " \n").split("\n")
    tokens = [{"type": "assistant_message", "token": word, "is_final": False} for word in words]
    return [*tokens, {"type": "assistant_message", "content": text, "is_final": True}]


def error(content):
    return {"type": "error", "content": content}


DONE = {"type": "done", "is_final": True}
