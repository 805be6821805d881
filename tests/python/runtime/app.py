"""The runtime's routes."""

import os
import secrets
from dataclasses import asdict, dataclass, field
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from .script import Cut, chunk, framed, head, said, stream

app = FastAPI()


class Message(BaseModel):
    """What is asked."""

    session_id: str
    message: dict


@dataclass
class Asked:
    """A request, and what became of it."""

    session_id: str
    message: dict
    #: Of the caller's connection.
    port: int
    #: streaming, ended, gone (the caller went before the end), cut
    state: str = "streaming"


@dataclass
class Session:
    """What is kept of a session."""

    agent: str = "orchestrator"
    turns: list = field(default_factory=list)


requests: list[Asked] = []
sessions: dict[str, Session] = {}


@app.get("/health")
def health():
    return {"status": "ok"}


@app.get("/requests")
def told():
    return [asdict(request) for request in requests]


@app.get("/sessions/{session_id:path}")
def session(session_id: str):
    if session_id not in sessions:
        raise HTTPException(404)
    return asdict(sessions[session_id])


@app.post("/agent/message/stream")
async def answer(
    asked: Message, request: Request, x_internal_auth: Annotated[str, Header()] = ""
):
    key = os.environ.get("INTERNAL_API_KEY", "")
    if not secrets.compare_digest(x_internal_auth.encode(), key.encode()):
        raise HTTPException(401, f"not the internal key: {x_internal_auth}")
    record = Asked(asked.session_id, asked.message, request.client.port)
    requests.append(record)
    session = sessions.setdefault(asked.session_id, Session())
    session.turns.append(asked.message)
    text = asked.message.get("content") or ""
    match asked.message.get("type"):
        case "user_message":
            status, body, media_type = head(text)
            if body is not None:
                record.state = "ended"
                return Response(body, status_code=status, media_type=media_type)
            pieces = stream(text)
        case "tool_result":
            media_type, pieces = "text/event-stream", result(asked.message)
        case "switch_agent":
            media_type, pieces = "text/event-stream", switch(session, asked.message)
        case "hitl_decision":
            media_type, pieces = "text/event-stream", stream(asked.message["decision"])
        case other:
            raise HTTPException(400, f"Unsupported message type: {other}")
    return StreamingResponse(watched(pieces, record), media_type=media_type)


async def watched(pieces, record):
    """The pieces; how it ended is noted."""
    state = "gone"
    try:
        async for piece in pieces:
            yield piece
        state = "ended"
    except Cut:
        state = "cut"
        raise
    finally:
        record.state = state


async def result(message):
    """What the tools said is repeated."""
    if "call_id" not in message:
        yield framed(chunk("error", error="call_id is missing"), "bare").encode()
        return
    told = message["error"] if message.get("error") else message.get("result")
    for one in said(f"{message['call_id']}: {told}"):
        yield framed(one, "bare").encode()
    yield framed(chunk("done", is_final=True), "bare").encode()


async def switch(session, message):
    """Another agent takes the session over, and says what it was told."""
    before, session.agent = session.agent, message["agent_type"]
    metadata = {"from_agent": before, "to_agent": session.agent, "reason": message.get("reason")}
    yield framed(
        chunk("agent_switched", content=f"now {session.agent}", metadata=metadata), "bare"
    ).encode()
    yield framed(chunk("done", is_final=True), "bare").encode()
