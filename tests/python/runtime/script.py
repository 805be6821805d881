"""What a text tells the runtime to do."""

import asyncio
import json


class Cut(Exception):
    """Breaks the connection off: the server closes it without the end of the answer."""


def chunk(kind, **fields):
    """A chunk with all fields of the contract, null where they are not used, as a model dumped to JSON has them."""
    names = (
        "content token is_final call_id tool_name arguments requires_approval error metadata".split()
    )
    assert not set(fields) - set(names), fields
    return {"type": kind, **{name: fields.get(name) for name in names}}


def said(text):
    """A message in tokens, white space kept, and once more whole."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or (text[at - 1].isspace() and not text[at].isspace()):
            yield chunk("assistant_message", token=text[start:at], is_final=False)
            start = at
    yield chunk("assistant_message", content=text, is_final=True)


def framed(data, framing):
    """One chunk as it stands in the stream."""
    text = json.dumps(data, ensure_ascii=False)
    match framing:
        case "bare":
            return f"data: {text}\n\n"
        case "message":
            return f"event: message\ndata: {text}\n\n"
        case "crlf":
            return f"event: message\r\ndata: {text}\r\n\r\n"
        case "multiline":
            lines = json.dumps(data, ensure_ascii=False, indent=1).splitlines()
            return "".join(f"data: {line}\n" for line in lines) + "\n"
        case "comments":
            return f": ping\n\ndata: {text}\n: still here\n\n"
    raise ValueError(framing)


def head(text):
    """Status, body and content type of the answer, as the first step says; no body where it is streamed."""
    word, _, rest = text.partition("\n")[0].partition(" ")
    if word == "/status":
        status, _, body = rest.partition(" ")
        return int(status), body, "application/json"
    if word == "/type":
        return 200, None, rest
    return 200, None, "text/event-stream"


async def stream(text):
    """The answer's pieces."""
    if not text.startswith("/"):
        for one in said(text):
            yield framed(one, "bare").encode()
        yield framed(chunk("done", is_final=True), "bare").encode()
        return
    framing, size = "bare", None
    for line in text.split("\n"):
        word, _, rest = line.partition(" ")
        out = []
        match word:
            case "/say":
                out = [framed(one, framing) for one in said(rest)]
            case "/send":
                out = [framed(json.loads(rest), framing)]
            case "/tool":
                name, _, arguments = rest.partition(" ")
                call = chunk(
                    "tool_call",
                    call_id=f"call_{name}",
                    tool_name=name,
                    arguments=json.loads(arguments),
                    requires_approval=False,
                    is_final=True,
                )
                out = [framed(call, framing)]
            case "/error":
                out = [framed(chunk("error", error=rest, is_final=True), framing)]
            case "/done":
                out = [framed(chunk("done", is_final=True), framing)]
            case "/text":
                out = [json.loads(rest)]
            case "/wait":
                await asyncio.sleep(float(rest))
            case "/framing":
                framing = rest
            case "/split":
                size = int(rest)
            case "/silent":
                await asyncio.Event().wait()
            case "/cut":
                raise Cut
            case "/type":
                pass
            case _:
                raise ValueError(line)
        for piece in out:
            data = piece.encode()
            for at in range(0, len(data), size or len(data)):
                yield data[at : at + (size or len(data))]
