"""What holds for every request: errors and their classes, ids of requests, repeated requests, a gateway that is full."""

import asyncio
import json
import os
import unittest

import openai
from gateway import MODEL, URL, both, unique
from openai import APIStatusError, AuthenticationError, InternalServerError, NotFoundError

#: Tasks that the gateway takes at once: workers.count + workers.queue of its configuration.
CAPACITY = int(os.environ.get("PLUGWAY_CAPACITY", "0"))

REQUEST_ID = r"^req_[0-9a-f]{32}$"


@both
class Requests:
    async def test_a_wrong_key_is_an_authentication_error(self):
        stranger = self.client(api_key="a-key-that-nobody-gave-out")
        messages = [{"role": "user", "content": "x"}]
        for call in (
            stranger.models.list(),
            stranger.models.retrieve(MODEL),
            stranger.chat.completions.create(model=MODEL, messages=messages),
            stranger.chat.completions.create(model=MODEL, messages=messages, stream=True),
            stranger.responses.create(model=MODEL, input="x"),
            stranger.responses.retrieve("resp_" + "0" * 32),
            stranger.conversations.create(),
        ):
            error = await self.refused(
                AuthenticationError, None, call, code="invalid_api_key", type="authentication_error"
            )
            self.assertEqual(error.response.headers["www-authenticate"], "Bearer")

    async def test_an_unknown_path_is_not_found(self):
        with self.assertRaises(NotFoundError) as caught:
            await self.client(base_url=f"{URL}/v1/nowhere").models.list()
        self.assertEqual(caught.exception.body["type"], "not_found_error")
        self.assertRegex(caught.exception.request_id, REQUEST_ID)

    async def test_a_body_that_is_too_large(self):
        with self.assertRaises(APIStatusError) as caught:
            await self.chat("x" * (11 << 20))
        self.assertEqual((caught.exception.status_code, caught.exception.code), (413, "too_large"))

    async def test_every_answer_has_its_request_id(self):
        response = await self.respond("hello")
        conversation = await self.api.conversations.create()
        answers = [
            await self.chat("hello"), response, conversation,
            await self.api.models.list(), await self.api.models.retrieve(MODEL),
            await self.api.responses.retrieve(response.id),
            await self.api.responses.input_items.list(response.id),
            await self.api.conversations.retrieve(conversation.id),
            await self.api.conversations.items.list(conversation.id),
        ]
        ids = [answer._request_id for answer in answers]
        for id in ids:
            self.assertRegex(id, REQUEST_ID)
        self.assertEqual(len(set(ids)), len(ids))

    async def test_headers_of_raw_answers(self):
        for call, parsed in (
            (self.api.chat.completions.with_raw_response.create(
                model=MODEL, messages=[{"role": "user", "content": "hello"}]), "chat.completion"),
            (self.api.responses.with_raw_response.create(model=MODEL, input="hello"), "response"),
            (self.api.models.with_raw_response.retrieve(MODEL), "model"),
            (self.api.conversations.with_raw_response.create(), "conversation"),
        ):
            raw = await call
            self.assertEqual(raw.status_code, 200)
            self.assertEqual(raw.headers["content-type"], "application/json")
            self.assertRegex(raw.headers["x-request-id"], REQUEST_ID)
            self.assertEqual(raw.request_id, raw.headers["x-request-id"])
            read = raw.parse()
            read = await read if hasattr(read, "__await__") else read
            self.assertEqual(read.object, parsed)

    async def test_headers_of_streams(self):
        messages = [{"role": "user", "content": "hello"}]
        for call in (
            self.api.chat.completions.with_streaming_response.create(model=MODEL, messages=messages, stream=True),
            self.api.responses.with_streaming_response.create(model=MODEL, input="hello", stream=True),
        ):
            async with call as answer:
                self.assertEqual(answer.headers["content-type"].split(";")[0], "text/event-stream")
                self.assertEqual(answer.headers["cache-control"], "no-store")
                self.assertRegex(answer.headers["x-request-id"], REQUEST_ID)
                self.assertNotIn("content-length", answer.headers)

    async def test_a_repeated_chat_completion_is_the_same(self):
        key = {"extra_headers": {"Idempotency-Key": unique("key")}}
        one, other = await asyncio.gather(
            _awaited(self.chat("/sleep 200ms", **key)), _awaited(self.chat("/sleep 200ms", **key))
        )
        late = await self.chat("/sleep 200ms", **key)
        self.assertEqual(len({one.id, other.id, late.id}), 1)
        self.assertEqual([choice.to_dict() for choice in late.choices], [choice.to_dict() for choice in one.choices])
        stream = await self.chat("/sleep 200ms", stream=True, **key)
        chunks = [chunk async for chunk in stream]
        self.assertEqual({chunk.id for chunk in chunks}, {one.id})
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "slept")
        another = await self.chat("/sleep 200ms", extra_headers={"Idempotency-Key": unique("key")})
        self.assertNotEqual(another.id, one.id)

    async def test_a_repeated_response_is_the_same(self):
        for more in ({}, {"background": True}):
            key = {"extra_headers": {"Idempotency-Key": unique("key")}, **more}
            one, other = await asyncio.gather(
                _awaited(self.respond("/sleep 200ms", **key)), _awaited(self.respond("/sleep 200ms", **key))
            )
            self.assertEqual(one.id, other.id)
            ended = await self.ended(one.id)
            late = await self.respond("/sleep 200ms", **key)
            self.assertEqual(late.to_dict(), ended.to_dict())
            stream = await self.respond("/sleep 200ms", stream=True, **key)
            events = [event async for event in stream]
            self.assertEqual({event.response.id for event in events if hasattr(event, "response")}, {one.id})
            self.assertEqual(events[-1].response.output_text, "slept")
            [item] = [item async for item in self.api.responses.input_items.list(one.id)]
            self.assertEqual(item.content[0].text, "/sleep 200ms")

    async def test_every_letter_comes_through(self):
        text = "Grüße 👋🏽 — 漢字,\nzwei  Zeilen \"und\" \\ data: [DONE]\r\n\u2028 Ende\t."
        self.assertEqual((await self.chat(text)).choices[0].message.content, text)
        self.assertEqual((await self.respond(text)).output_text, text)
        stream = await self.chat(text, stream=True)
        self.assertEqual("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), text)
        stream = await self.respond(text, stream=True)
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), text)

    async def test_what_is_long_is_kept_whole(self):
        text = "".join(f"{n:07}" for n in range(100_000))
        response = await self.respond(text)
        self.assertEqual(response.output_text, text)
        self.assertEqual(await self.api.responses.retrieve(response.id), response)
        [item] = [item async for item in self.api.responses.input_items.list(response.id)]
        self.assertEqual(item.content[0].text, text)
        after = await self.respond("and on", previous_response_id=response.id)
        self.assertEqual(after.output_text, "and on")

    async def test_a_key_is_of_one_endpoint(self):
        key = {"extra_headers": {"Idempotency-Key": unique("key")}}
        completion, response = await self.chat("hello", **key), await self.respond("there", **key)
        self.assertEqual(completion.choices[0].message.content, "hello")
        self.assertEqual(response.output_text, "there")

    async def test_a_key_that_is_too_long(self):
        key = {"extra_headers": {"Idempotency-Key": "k" * 256}}
        for call in (self.chat("x", **key), self.respond("x", **key)):
            await self.refused(openai.BadRequestError, "Idempotency-Key", call)

    async def test_the_name_of_a_session_that_is_too_long(self):
        session = {"metadata": {"session": "s" * 500}}
        for call in (self.chat("x", **session), self.respond("x", **session)):
            await self.refused(openai.BadRequestError, "metadata.session", call)


@unittest.skipUnless(CAPACITY, "PLUGWAY_CAPACITY does not say how many tasks the gateway takes")
class Full:
    async def fill(self):
        """Silent tasks until the gateway takes no more; those that it took, and the refusal."""
        taken = []
        for _ in range(CAPACITY + 1):
            try:
                taken.append(await self.respond("/silent", background=True))
            except APIStatusError as error:
                return taken, error
        self.fail(f"the gateway took {len(taken)} tasks")

    async def empty(self, taken):
        for response in taken:
            await self.api.responses.cancel(response.id)

    async def test_a_full_gateway_refuses_and_says_when_to_come_back(self):
        taken, error = await self.fill()
        try:
            self.assertIs(type(error), InternalServerError)
            self.assertEqual((error.status_code, error.type, error.param), (503, "unavailable_error", None))
            self.assertGreaterEqual(int(error.response.headers["retry-after"]), 1)
            self.assertRegex(error.request_id, REQUEST_ID)
            for call in (self.chat("x"), self.chat("x", stream=True), self.respond("x"), self.respond("x", stream=True)):
                error = await self.refused(InternalServerError, None, call, status_code=503)
                self.assertGreaterEqual(int(error.response.headers["retry-after"]), 1)
            self.assertEqual((await self.api.models.retrieve(MODEL)).id, MODEL)
        finally:
            await self.empty(taken)
        self.assertEqual((await self.chat("room again")).choices[0].message.content, "room again")

    async def test_a_refused_turn_is_no_part_of_its_conversation(self):
        made = await self.api.conversations.create()
        taken, _ = await self.fill()
        try:
            await self.refused(InternalServerError, None, self.respond("lost", conversation=made.id), status_code=503)
        finally:
            await self.empty(taken)
        self.assertEqual((await self.respond("kept", conversation=made.id)).output_text, "kept")
        items = [item async for item in self.api.conversations.items.list(made.id, order="asc")]
        self.assertEqual([item.content[0].text for item in items if item.type == "message"], ["kept", "kept"])

    async def test_the_sdk_tries_again(self):
        taken, _ = await self.fill()
        patient = self.client(max_retries=5)
        create = patient.chat.completions.with_raw_response.create
        messages = [{"role": "user", "content": "at last"}]
        waiting = asyncio.ensure_future(_awaited(create(model=MODEL, messages=messages)))
        try:
            # Until it was refused once at least: whoever asks after it is refused too.
            await asyncio.wait([waiting], timeout=0.5)
            self.assertFalse(waiting.done())
        finally:
            await self.empty(taken)
        raw = await waiting
        self.assertGreaterEqual(raw.retries_taken, 1)
        self.assertEqual(json.loads(raw.text)["choices"][0]["message"]["content"], "at last")


both(Full)


async def _awaited(call):
    return await call
