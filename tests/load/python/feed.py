"""The agent feed as one writes it with FastAPI, sse-starlette and redis: a queue for each client."""

import asyncio
import contextlib
import json
import os

from fastapi import FastAPI
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse, ServerSentEvent

QUEUE = 1000
clients: set[asyncio.Queue] = set()


async def listen(redis: Redis) -> None:
    number = 0
    async with redis.pubsub() as channel:
        await channel.subscribe("channel:signals")
        async for message in channel.listen():
            if message["type"] != "message":
                continue
            payload = json.loads(message["data"])
            number += 1
            event = {"id": f"{number:08}", "event": payload.get("type", "signal"), "data": json.dumps(payload)}
            for queue in clients:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(event)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI):
    redis = Redis.from_url(os.environ["REDIS_URL"])
    listener = asyncio.create_task(listen(redis))
    yield
    listener.cancel()
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/api/agent/stream")
async def stream():
    queue: asyncio.Queue = asyncio.Queue(QUEUE)
    clients.add(queue)

    async def events():
        try:
            while True:
                yield ServerSentEvent(**await queue.get())
        finally:
            clients.discard(queue)

    return EventSourceResponse(events(), ping=30)
