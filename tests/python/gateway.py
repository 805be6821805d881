"""The gateway under test, and both kinds of clients of the SDK under one roof.

Every case is written once, as a coroutine against `self.api`. `both` makes two test cases of it: in one `self.api` is an
`AsyncOpenAI`, in the other an `OpenAI` whose calls run in threads, in the same clothes.
"""

import asyncio
import functools
import json
import os
import sys
import typing
import unittest
import uuid
from concurrent.futures import ThreadPoolExecutor

import openai
import pydantic
from openai import AsyncOpenAI, OpenAI

URL = os.environ.get("PLUGWAY_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("PLUGWAY_KEY", "conformance-key-0001")
MODEL = os.environ.get("PLUGWAY_MODEL", "echo")
#: The model is an agent `openai` with another gateway behind it. What a model server can't be told or tell is left out.
IN_FRONT = bool(os.environ.get("PLUGWAY_IN_FRONT"))

#: What the echo agent thinks before it says anything.
THOUGHT = "repeating what I was sent"

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

_threads = ThreadPoolExecutor(max_workers=32)
_END = object()


class Dressed:
    """A blocking object whose methods may be awaited, iterated over and entered as those of an asynchronous one."""

    def __init__(self, bare):
        self._bare = bare

    def __getattr__(self, name):
        value = getattr(self._bare, name)
        if callable(value):
            return functools.partial(Call, value)
        return _dress(value)

    def __aiter__(self):
        return _each(lambda: iter(self._bare))

    async def __aenter__(self):
        return _dress(await _in_thread(self._bare.__enter__))

    async def __aexit__(self, *error):
        await _in_thread(self._bare.__exit__, *error)


class Call:
    """A blocking call that is made when it is awaited, iterated over or entered."""

    def __init__(self, function, *args, **kwargs):
        self._made = functools.partial(function, *args, **kwargs)

    def __await__(self):
        return self._await().__await__()

    async def _await(self):
        return _dress(await _in_thread(self._made))

    def __aiter__(self):
        return _each(lambda: iter(self._made()))

    async def __aenter__(self):
        self._manager = await _in_thread(self._made)
        return _dress(await _in_thread(self._manager.__enter__))

    async def __aexit__(self, *error):
        await _in_thread(self._manager.__exit__, *error)


def _in_thread(function, *args):
    return asyncio.get_running_loop().run_in_executor(_threads, functools.partial(function, *args))


async def _each(begin):
    iterator = await _in_thread(begin)
    while (one := await _in_thread(next, iterator, _END)) is not _END:
        yield one


def _dress(value):
    is_page = isinstance(value, openai._base_client.BasePage)
    is_plain = isinstance(value, (pydantic.BaseModel, str, bytes, int, float, list, dict, tuple, type(None)))
    is_data = is_plain and not is_page
    module = type(value).__module__
    return value if is_data or not module.startswith("openai") else Dressed(value)


class Gateway(unittest.IsolatedAsyncioTestCase):
    """A test case with a client of one kind."""

    blocking = False
    maxDiff = None

    def client(self, **options):
        options = {"base_url": f"{URL}/v1", "api_key": KEY, "max_retries": 0, "timeout": 60, **options}
        if self.blocking:
            client = OpenAI(**options)
            self.addCleanup(client.close)
            return Dressed(client)
        client = AsyncOpenAI(**options)
        self.addAsyncCleanup(client.close)
        return client

    async def asyncSetUp(self):
        self.api = self.client()

    async def refused(self, kind, param, call, **expected):
        """The call is refused with this class of error, which names the parameter."""
        with self.assertRaises(kind) as caught:
            await call
        error = caught.exception
        self.assertIs(type(error), kind)
        self.assertEqual(error.param, param)
        for name, value in expected.items():
            self.assertEqual(getattr(error, name), value, name)
        self.assertTrue(error.body["message"])
        self.assertEqual(set(error.body), {"message", "type", "param", "code"})
        self.assertRegex(error.request_id, r"^req_[0-9a-f]{32}$")
        return error

    # -- chat completions

    def chat(self, text, **more):
        return self.api.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)

    # -- responses

    def respond(self, given, **more):
        return self.api.responses.create(model=MODEL, input=given, **more)

    async def ended(self, response_id):
        """The response once it has ended."""
        for _ in range(600):
            response = await self.api.responses.retrieve(response_id)
            if response.status not in ("queued", "in_progress"):
                return response
            await asyncio.sleep(0.05)
        self.fail(f"{response_id} has not ended")

    async def until(self, response_id, status):
        for _ in range(600):
            response = await self.api.responses.retrieve(response_id)
            if response.status == status:
                return response
            await asyncio.sleep(0.02)
        self.fail(f"{response_id} is {response.status}, not {status}")

    async def wire(self, call):
        """The events of a stream as they stood on the wire: name of the event, and its data."""
        events, name = [], None
        async with call as answer:
            self.assertEqual(answer.headers["content-type"].split(";")[0], "text/event-stream")
            async for line in answer.iter_lines():
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.strip()
                elif field == "data":
                    events.append((name, value.strip()))
                elif not line:
                    name = None
        return events

    async def response_events(self, given, **more):
        """All events of a response stream, from the wire."""
        create = self.api.responses.with_streaming_response.create
        events = await self.wire(create(model=MODEL, input=given, stream=True, **more))
        return self.read_events(events)

    async def events_after(self, response_id, number=openai.omit):
        retrieve = self.api.responses.with_streaming_response.retrieve
        return self.read_events(await self.wire(retrieve(response_id, stream=True, starting_after=number)))

    def read_events(self, events):
        read = [(name, json.loads(data)) for name, data in events if data != "[DONE]"]
        for name, event in read:
            self.assertEqual(name, event["type"])
        return [event for _, event in read]


def both(cases):
    """Makes a test case for either kind of client."""
    module = sys.modules[cases.__module__]
    for kind, blocking in (("Sync", True), ("Async", False)):
        name = f"{cases.__name__}{kind}"
        made = type(name, (cases, Gateway), {"blocking": blocking, "__module__": cases.__module__})
        setattr(module, name, made)
    return cases


def unique(prefix):
    return f"{prefix}-{uuid.uuid4().hex}"


def texts(items):
    """What each message of a list of items says, with its role."""
    return [(item.role, item.content[0].text) for item in items if item.type == "message"]


def strictly(test, kind, value):
    """The value is what the SDK's type says, with every required field, and without any coercion.

    The SDK itself reads answers without checking them.
    """
    adapter = pydantic.TypeAdapter(kind)
    try:
        # As JSON, so that a time may be a whole number; strict, so that "1" is none.
        return adapter.validate_json(json.dumps(value), strict=True)
    except pydantic.ValidationError as error:
        test.fail(f"{_explained(error)}\nin {json.dumps(value)[:2000]}")


def _explained(error):
    """What is wrong, without the members of unions that were not meant."""
    all = error.errors(include_url=False, include_input=False)
    others = [e["loc"][:-1] for e in all if e["type"] == "literal_error" and e["loc"][-1] in ("type", "object")]
    meant = [e for e in all if not any(e["loc"][: len(other)] == other and other for other in others)]
    return "\n".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in meant or all[:5])


def member(union, **fields):
    """The member of a union of models whose fields have these values alone."""
    if typing.get_origin(union) is typing.Annotated:
        union = typing.get_args(union)[0]
    for model in typing.get_args(union):
        literals = {name: typing.get_args(model.model_fields[name].annotation) for name in fields}
        if all(literals[name] == (value,) for name, value in fields.items()):
            return model
    raise LookupError(f"{fields}: not in the SDK")


#: What the API itself sends besides what the SDK's types list, or listed in earlier versions of it.
_BESIDES = {"Response": {"store"}, "ResponseFunctionCallArgumentsDoneEvent": {"name"}}


def unknown_fields(model, path=""):
    """Paths of all fields that the SDK's types don't know."""
    besides = _BESIDES.get(type(model).__name__, ())
    found = [f"{path}{name}" for name in (model.model_extra or {}) if name not in besides]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for at, one in enumerate(value) if isinstance(value, list) else [("", value)]:
            if isinstance(one, pydantic.BaseModel):
                found += unknown_fields(one, f"{path}{name}{at}.")
    return found
