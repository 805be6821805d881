"""Responses: whole, streamed, in the background, come back to, gone on from."""

import asyncio
import json
import time
import typing
import unittest

import openai
from gateway import IN_FRONT, MODEL, THOUGHT, WEATHER, both, member, strictly, unique, unknown_fields
from openai import BadRequestError, ConflictError, NotFoundError
from openai.types.responses import (
    Response,
    ResponseItem,
    ResponseReasoningItem,
    ResponseStreamEvent,
    ResponseUsage,
)
from pydantic import BaseModel

TOOLS = [{"type": "function", "name": name, "parameters": WEATHER, "strict": True} for name in ("weather", "time")]
CALLS = '/call weather {"city":"Rome"}\ntime {"city":"Bern"}'

BEGUN = ["response.created", "response.in_progress"]
THOUGHT_OF = [
    "response.output_item.added",
    "response.reasoning_summary_part.added",
    "response.reasoning_summary_text.delta",
    "response.reasoning_summary_text.done",
    "response.reasoning_summary_part.done",
    "response.output_item.done",
]
CALLED = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


def said(words):
    return [
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * words,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


class City(BaseModel):
    city: str
    people: int


class weather(BaseModel):
    city: str


def calls_of(response):
    return [item for item in response.output if item.type == "function_call"]


def results_of(response):
    return [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"result of {call.name}"}
        for call in calls_of(response)
    ]


class Checks:
    def check_event(self, event):
        """It is what the SDK's type for this very event says."""
        read = strictly(self, member(ResponseStreamEvent, type=event["type"]), event)
        self.assertEqual(unknown_fields(read), [])
        response = event.get("response")
        if response and response["status"] == "completed":
            strictly(self, ResponseUsage, response["usage"])


@both
class Create(Checks):
    async def test_create(self):
        response = await self.respond("hello there world", metadata={"a": "b"}, temperature=0.5, user="me")
        strictly(self, Response, response.to_dict())
        self.assertEqual(unknown_fields(response), [])
        self.assertRegex(response.id, r"^resp_[0-9a-f]{32}$")
        self.assertEqual((response.object, response.status, response.model), ("response", "completed", MODEL))
        self.assertEqual(response.output_text, "hello there world")
        thought, message = response.output
        self.assertEqual((thought.type, thought.summary[0].text), ("reasoning", THOUGHT))
        self.assertEqual((message.type, message.role, message.status), ("message", "assistant", "completed"))
        self.assertEqual(len({thought.id, message.id}), 2)
        self.assertEqual((response.error, response.incomplete_details), (None, None))
        self.assertEqual((response.parallel_tool_calls, response.tool_choice, response.tools), (True, "auto", []))
        self.assertEqual((response.metadata, response.temperature, response.user), ({"a": "b"}, 0.5, "me"))
        self.assertEqual((response.previous_response_id, response.conversation), (None, None))
        self.assertEqual((response.truncation, response.text.format.type), ("disabled", "text"))
        self.assertGreaterEqual(response.completed_at, response.created_at)
        self.assertRegex(response._request_id, r"^req_[0-9a-f]{32}$")

    async def test_usage_with_both_details(self):
        usage = (await self.respond("one two three")).usage
        self.assertEqual((usage.input_tokens, usage.output_tokens, usage.total_tokens), (3, 3, 6))
        self.assertEqual(usage.input_tokens_details.cached_tokens, 0)
        self.assertEqual(usage.output_tokens_details.reasoning_tokens, 0)
        strictly(self, ResponseUsage, usage.to_dict())

    async def test_messages_and_parts_as_input(self):
        response = await self.respond([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "answer"},
            {"role": "user", "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "low"},
                {"type": "input_file", "file_id": "file_1"},
            ]},
        ])
        self.assertEqual(response.output_text, "look")

    async def test_parse_reads_the_answer(self):
        parsed = await self.api.responses.parse(
            model=MODEL, input='{"city":"Rome","people":3}', text_format=City
        )
        self.assertEqual(parsed.output_parsed, City(city="Rome", people=3))
        self.assertEqual((parsed.text.format.type, parsed.text.format.name), ("json_schema", "City"))

    async def test_parse_reads_the_arguments_of_calls(self):
        tool = {"type": "function", "name": "weather", "strict": True, "parameters": WEATHER}
        parsed = await self.api.responses.parse(model=MODEL, input='/call weather {"city":"Rome"}', tools=[tool])
        self.assertEqual(calls_of(parsed)[0].parsed_arguments, {"city": "Rome"})

    async def test_a_failing_agent(self):
        call = self.respond("/fail at once")
        await self.refused(openai.InternalServerError, None, call, code="agent_error", status_code=502)
        await self.refused(BadRequestError, None, self.respond("/words 0"), code="invalid_input")

    async def test_harmless_parameters_are_accepted(self):
        response = await self.respond(
            "fine",
            include=["reasoning.encrypted_content"], max_output_tokens=50, max_tool_calls=3, parallel_tool_calls=False,
            prompt_cache_key="k", reasoning={"effort": "low", "summary": "auto"}, safety_identifier="s",
            service_tier="auto", store=True, temperature=1, text={"format": {"type": "text"}, "verbosity": "low"},
            tool_choice="auto", top_logprobs=0, top_p=0.5, truncation="disabled",
            extra_body={"num_ctx": 4096, "something_new": {"x": [1]}},
        )
        strictly(self, Response, response.to_dict())
        self.assertEqual(response.output_text, "fine")
        self.assertEqual((response.max_output_tokens, response.max_tool_calls), (50, 3))
        self.assertEqual((response.reasoning.effort, response.text.verbosity), ("low", "low"))
        self.assertEqual((response.parallel_tool_calls, response.top_p, response.store), (False, 0.5, True))

    async def test_what_is_not_possible_is_refused_by_name(self):
        audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
        cases = [
            ("top_logprobs", {"top_logprobs": 2}),
            ("include", {"include": ["message.output_text.logprobs"]}),
            ("prompt", {"prompt": {"id": "p"}}),
            ("background", {"background": True, "store": False}),
            ("truncation", {"truncation": "most"}),
            ("temperature", {"temperature": -1}),
            ("max_output_tokens", {"max_output_tokens": -1}),
            ("tools[0].type", {"tools": [{"type": "web_search"}]}),
            ("tools[0].name", {"tools": [{"type": "function", "name": "no spaces"}]}),
            ("tool_choice.name", {"tools": TOOLS, "tool_choice": {"type": "function", "name": "other"}}),
            ("text.format.type", {"text": {"format": {"type": "poem"}}}),
            ("metadata.a", {"metadata": {"a": 1}}),
            ("metadata", {"metadata": {f"k{n}": "v" for n in range(17)}}),
            ("input[0].content[0].type", {"input": [{"role": "user", "content": [audio]}]}),
            ("input[1].type", {"input": [{"role": "user", "content": "x"}, {"type": "magic"}]}),
            ("input[0].role", {"input": [{"role": "wizard", "content": "x"}]}),
            ("input[0].call_id", {"input": [{"type": "function_call_output", "call_id": "no", "output": "x"}]}),
            ("input[0].output", {"input": [{"type": "function_call_output", "call_id": "no"}]}),
            ("input", {"input": ""}),
            ("input", {"input": []}),
            ("stream", {"extra_body": {"stream": "yes"}}),
        ]
        for param, given in cases:
            with self.subTest(param=param, given=given):
                call = self.api.responses.create(**{"model": MODEL, "input": "x", **given})
                await self.refused(BadRequestError, param, call, type="invalid_request_error", status_code=400)

    async def test_an_unknown_model_is_not_found(self):
        for more in ({}, {"stream": True}, {"background": True}):
            call = self.api.responses.create(model="nobody", input="x", **more)
            await self.refused(NotFoundError, "model", call, code="model_not_found")

    async def test_a_session_by_metadata_keeps_turns_in_order(self):
        session = {"metadata": {"session": unique("s")}}
        slow = await self.respond("/sleep 1500ms", background=True, **session)
        after = await self.respond("quick", background=True, **session)
        elsewhere = await self.respond("quick", background=True, metadata={"session": unique("s")})
        await self.ended(elsewhere.id)
        states = [(await self.api.responses.retrieve(one.id)).status for one in (after, slow)]
        self.assertEqual(states, ["queued", "in_progress"])
        await self.ended(after.id)
        slow = await self.api.responses.retrieve(slow.id)
        self.assertEqual((slow.status, slow.output_text), ("completed", "slept"))


@both
class Streams(Checks):
    async def test_the_events_of_a_message(self):
        events = await self.response_events("/words 3")
        kinds = [event["type"] for event in events]
        self.assertEqual(kinds, BEGUN + THOUGHT_OF + said(3) + ["response.completed"])
        self.assertEqual([event["sequence_number"] for event in events], list(range(len(events))))
        deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        self.assertEqual(deltas, ["w1 ", "w2 ", "w3"])

    async def test_the_events_of_a_message_and_two_calls(self):
        events = await self.response_events(CALLS, tools=TOOLS)
        kinds = [event["type"] for event in events]
        self.assertEqual(kinds, BEGUN + THOUGHT_OF + said(1) + CALLED + CALLED + ["response.completed"])
        self.assertEqual([event["sequence_number"] for event in events], list(range(len(events))))
        final = events[-1]["response"]
        self.assertEqual(
            [item["type"] for item in final["output"]], ["reasoning", "message", "function_call", "function_call"]
        )
        for at, item in enumerate(final["output"]):
            own = [event for event in events if event.get("output_index") == at]
            added, done = own[0]["item"], own[-1]["item"]
            self.assertEqual((added["id"], added["status"], done), (item["id"], "in_progress", item))
            self.assertEqual(item["status"], "completed")
            self.assertEqual({event["item_id"] for event in own[1:-1]}, {item["id"]})
            if item["type"] == "function_call":
                self.assertEqual(added["arguments"], "")
                self.assertEqual(added["call_id"], item["call_id"])
                deltas = [event["delta"] for event in own if event["type"].endswith("arguments.delta")]
                self.assertEqual("".join(deltas), item["arguments"])
        ids = [event["response"]["id"] for event in events if "response" in event]
        self.assertEqual(len(set(ids)), 1)

    async def test_every_event_has_what_its_type_requires(self):
        given = ["hello there", CALLS, '/tool search {"q":1}', "/fail no luck", "/words 0", "/progress 2"]
        for text in given:
            events = await self.response_events(text, tools=TOOLS, instructions="be brief", metadata={"a": "b"})
            for event in events:
                with self.subTest(text=text, event=event["type"]):
                    self.check_event(event)

    async def test_the_iterator_of_the_sdk_knows_every_event(self):
        stream = await self.respond(CALLS, tools=TOOLS, stream=True)
        events = [event async for event in stream]
        known = typing.get_args(typing.get_args(ResponseStreamEvent)[0])
        for event in events:
            self.assertIn(type(event), known)
        self.assertEqual(events[-1].response.status, "completed")

    async def test_what_was_streamed_is_what_is_kept(self):
        events = await self.response_events(CALLS, tools=TOOLS)
        final = events[-1]["response"]
        kept = await self.api.responses.retrieve(final["id"])
        self.assertEqual(kept.to_dict(), final)

    async def test_stream_helper(self):
        snapshots = []
        async with self.api.responses.stream(model=MODEL, input="hello there world") as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    snapshots.append(event.snapshot)
            final = await stream.get_final_response()
        self.assertEqual(snapshots, ["hello ", "hello there ", "hello there world"])
        self.assertEqual((final.status, final.output_text), ("completed", "hello there world"))
        self.assertEqual(final.usage.total_tokens, 6)

    async def test_stream_helper_with_calls(self):
        async with self.api.responses.stream(model=MODEL, input=CALLS, tools=TOOLS) as stream:
            final = await stream.get_final_response()
        self.assertEqual(
            [(call.name, call.parsed_arguments) for call in calls_of(final)],
            [("weather", {"city": "Rome"}), ("time", {"city": "Bern"})],
        )

    async def test_stream_helper_parses(self):
        text = '{"city":"Rome","people":3}'
        async with self.api.responses.stream(model=MODEL, input=text, text_format=City) as stream:
            final = await stream.get_final_response()
        self.assertEqual(final.output_parsed, City(city="Rome", people=3))

    @unittest.skipIf(IN_FRONT, "chat completions don't tell of the agent's own tools")
    async def test_the_agents_own_tools_are_none_of_the_clients(self):
        events = await self.response_events('/tool search {"q":1}')
        kinds = [event["type"] for event in events if "mcp_call" in event["type"]]
        self.assertEqual(kinds, [
            "response.mcp_call.in_progress",
            "response.mcp_call_arguments.delta",
            "response.mcp_call_arguments.done",
            "response.mcp_call.completed",
        ])
        [call] = [item for item in events[-1]["response"]["output"] if item["type"] == "mcp_call"]
        self.assertEqual((call["name"], call["arguments"], call["output"]), ("search", '{"q":1}', '{"q":1}'))
        self.assertEqual((call["server_label"], call["error"]), (MODEL, None))

    async def test_a_failing_agent_ends_the_stream(self):
        for text, code in (("/fail no luck", "server_error"), ("/words 0", "invalid_prompt")):
            stream = await self.respond(text, stream=True)
            events = [event async for event in stream]
            self.assertEqual([event.type for event in events], [*BEGUN, "response.failed"])
            failed = events[-1].response
            self.assertEqual((failed.status, failed.error.code), ("failed", code))
            self.assertTrue(failed.error.message)
            self.assertEqual(await self.api.responses.retrieve(failed.id), failed)

    async def test_a_stored_response_goes_on_though_the_client_has_gone(self):
        stream = await self.respond("/words 60", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
            if event.type == "response.created":
                response_id = event.response.id
        await stream.close()
        ended = await self.ended(response_id)
        self.assertEqual(ended.status, "completed")
        self.assertEqual(ended.output_text, " ".join(f"w{n}" for n in range(1, 61)))


@both
class Later(Checks):
    """What can be done with a response once it is there."""

    async def test_retrieve(self):
        response = await self.respond("hello there", instructions="be brief")
        again = await self.api.responses.retrieve(response.id)
        self.assertEqual(again.to_dict(), response.to_dict())
        strictly(self, Response, again.to_dict())
        self.assertEqual(again.instructions, "be brief")

    async def test_a_response_that_is_not_stored(self):
        response = await self.respond("hello", store=False)
        self.assertEqual((response.output_text, response.store), ("hello", False))
        call = self.api.responses.retrieve(response.id)
        await self.refused(NotFoundError, "response_id", call, type="invalid_request_error")

    async def test_unknown_responses_are_not_found(self):
        for id in ("resp_" + "0" * 32, "nonsense"):
            for call in (
                self.api.responses.retrieve(id),
                self.api.responses.retrieve(id, stream=True),
                self.api.responses.cancel(id),
                self.api.responses.delete(id),
                self.api.responses.input_items.list(id),
            ):
                await self.refused(NotFoundError, "response_id", call, status_code=404)

    async def test_a_stream_goes_on_from_any_event(self):
        for text in ("/words 3", CALLS, "/fail no luck"):
            events = await self.response_events(text, tools=TOOLS)
            response_id = events[0]["response"]["id"]
            self.assertEqual(await self.events_after(response_id), events)
            for number in range(len(events)):
                with self.subTest(text=text, after=number, of=len(events)):
                    self.assertEqual(await self.events_after(response_id, number), events[number + 1 :])

    async def test_the_time_of_its_end_stays(self):
        [*_, last] = await self.response_events("hello")
        final = last["response"]
        while time.time() < final["completed_at"] + 1.2:
            await asyncio.sleep(0.1)
        [*_, again] = await self.events_after(final["id"])
        self.assertEqual(again["response"]["completed_at"], final["completed_at"])
        kept = await self.api.responses.retrieve(final["id"])
        self.assertEqual(kept.completed_at, final["completed_at"])

    async def test_a_stream_that_is_under_way_is_come_back_to(self):
        stream = await self.respond("/words 100", stream=True)
        first = []
        async for event in stream:
            first.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        again = self.api.responses.retrieve(
            first[0].response.id, stream=True, starting_after=first[-1].sequence_number
        )
        rest = [event async for event in await again]
        events = first + rest
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        self.assertEqual("".join(deltas), " ".join(f"w{n}" for n in range(1, 101)))
        self.assertEqual(rest[-1].response.status, "completed")

    async def test_two_may_follow_one_response(self):
        response = await self.respond("/words 50", background=True)

        async def follow():
            return [event async for event in await self.api.responses.retrieve(response.id, stream=True)]

        one, other = await asyncio.gather(follow(), follow())
        self.assertEqual([event.to_dict() for event in one], [event.to_dict() for event in other])
        self.assertEqual(one[-1].response.output_text, " ".join(f"w{n}" for n in range(1, 51)))

    async def test_the_stream_helper_comes_back(self):
        response = await self.respond("hello there world")
        async with self.api.responses.stream(response_id=response.id, starting_after=9) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        self.assertEqual(events[0].sequence_number, 10)
        self.assertEqual(final.output_text, "hello there world")
        self.assertEqual(final.id, response.id)

    async def test_starting_after_is_a_number(self):
        response = await self.respond("hello")
        call = self.api.responses.retrieve(response.id, stream=True, extra_query={"starting_after": "soon"})
        await self.refused(BadRequestError, "starting_after", call)

    async def test_background(self):
        response = await self.respond("/sleep 300ms", background=True)
        strictly(self, Response, response.to_dict())
        self.assertIn(response.status, ("queued", "in_progress"))
        self.assertEqual((response.background, response.output, response.usage), (True, [], None))
        ended = await self.ended(response.id)
        strictly(self, Response, ended.to_dict())
        self.assertEqual((ended.status, ended.output_text, ended.background), ("completed", "slept", True))
        self.assertEqual(ended.usage.output_tokens, 1)
        # It has ended: nothing is left to cancel.
        self.assertEqual((await self.api.responses.cancel(response.id)).status, "completed")

    async def test_background_that_fails(self):
        response = await self.respond("/fail no luck", background=True)
        ended = await self.ended(response.id)
        strictly(self, Response, ended.to_dict())
        self.assertEqual((ended.status, ended.error.code), ("failed", "server_error"))

    async def test_background_stream(self):
        stream = await self.respond("/words 3", background=True, stream=True)
        events = [event async for event in stream]
        self.assertEqual((events[0].response.background, events[-1].response.output_text), (True, "w1 w2 w3"))

    async def test_cancel(self):
        response = await self.respond("/silent", background=True)
        await self.until(response.id, "in_progress")
        cancelled = await self.api.responses.cancel(response.id)
        strictly(self, Response, cancelled.to_dict())
        self.assertEqual((cancelled.id, cancelled.status), (response.id, "cancelled"))
        self.assertEqual(await self.api.responses.retrieve(response.id), cancelled)
        self.assertEqual(await self.api.responses.cancel(response.id), cancelled)

    async def test_cancel_of_one_that_has_not_begun(self):
        session = {"metadata": {"session": unique("s")}}
        first = await self.respond("/silent", background=True, **session)
        second = await self.respond("hello", background=True, **session)
        self.assertEqual(second.status, "queued")
        self.assertEqual((await self.api.responses.cancel(second.id)).status, "cancelled")
        self.assertEqual((await self.api.responses.cancel(first.id)).status, "cancelled")
        self.assertEqual((await self.api.responses.retrieve(second.id)).output, [])

    async def test_cancel_ends_the_stream(self):
        stream = await self.respond("/sleep 50s", stream=True)
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.reasoning_summary_text.delta":
                await self.api.responses.cancel(events[0].response.id)
        last = events[-1]
        self.assertEqual(last.response.status, "cancelled")
        self.check_event(last.to_dict())
        self.assertEqual([event.sequence_number for event in events], list(range(len(events))))
        for item in last.response.output:
            self.assertEqual(item.status, "incomplete")

    async def test_whoever_waits_for_a_cancelled_response_has_a_conflict(self):
        key = {"extra_headers": {"Idempotency-Key": unique("key")}}
        stream = await self.respond("/sleep 50s", stream=True, **key)
        events = aiter(stream)
        created = await anext(events)
        waiting = asyncio.ensure_future(_awaited(self.respond("/sleep 50s", **key)))
        await self.until(created.response.id, "in_progress")
        self.assertFalse(waiting.done())
        await self.api.responses.cancel(created.response.id)
        await self.refused(ConflictError, None, waiting, status_code=409)
        await stream.close()

    async def test_delete(self):
        response = await self.respond("hello")
        raw = await self.api.responses.with_raw_response.delete(response.id)
        body = json.loads(await _text(raw))
        self.assertEqual(body, {"id": response.id, "object": "response", "deleted": True})
        for call in (
            self.api.responses.retrieve(response.id),
            self.api.responses.delete(response.id),
            self.api.responses.input_items.list(response.id),
        ):
            await self.refused(NotFoundError, "response_id", call)
        call = self.respond("go on", previous_response_id=response.id)
        await self.refused(NotFoundError, "previous_response_id", call)

    async def test_delete_of_one_that_is_under_way(self):
        response = await self.respond("/silent", background=True)
        await self.until(response.id, "in_progress")
        self.assertIsNone(await self.api.responses.delete(response.id))
        await self.refused(NotFoundError, "response_id", self.api.responses.retrieve(response.id))

    async def test_input_items_in_pages(self):
        given = [{"role": "user", "content": f"message {n}"} for n in range(5)]
        given[1] = {"role": "assistant", "content": "message 1"}
        given[2] = {"role": "developer", "content": "message 2"}
        response = await self.respond(given)
        self.assertEqual(response.output_text, "message 4")
        items = self.api.responses.input_items
        for order, expected in (("asc", range(5)), ("desc", range(4, -1, -1)), (openai.omit, range(4, -1, -1))):
            listed = [item async for item in items.list(response.id, order=order, limit=2)]
            self.assertEqual([item.content[0].text for item in listed], [f"message {n}" for n in expected])
        roles = [item.role async for item in items.list(response.id, order="asc")]
        self.assertEqual(roles, ["user", "assistant", "developer", "user", "user"])

        page = await items.list(response.id, order="asc", limit=2)
        self.assertEqual((page.object, len(page.data), page.has_more), ("list", 2, True))
        self.assertEqual((page.first_id, page.last_id), (page.data[0].id, page.data[1].id))
        rest = await items.list(response.id, order="asc", after=page.last_id)
        self.assertEqual(([item.content[0].text for item in rest.data], rest.has_more),
                         (["message 2", "message 3", "message 4"], False))
        for item in page.data + rest.data:
            strictly(self, ResponseItem, item.to_dict())
        for param, more in (("limit", {"limit": 0}), ("limit", {"limit": 101}), ("after", {"after": "msg_no"}),
                            ("order", {"extra_query": {"order": "up"}})):
            await self.refused(BadRequestError, param, items.list(response.id, **more))

    async def test_every_kind_of_item_has_what_its_type_requires(self):
        response = await self.respond(CALLS, tools=TOOLS)
        given = [{"role": "user", "content": CALLS}, *response.output, *results_of(response)]
        answer = await self.respond(given, tools=TOOLS)
        self.assertEqual(answer.output_text, "result of weather\nresult of time")
        kinds = []
        async for item in self.api.responses.input_items.list(answer.id, order="asc"):
            kinds.append(item.type)
            strictly(self, ResponseItem, item.to_dict())
        self.assertEqual(kinds, ["message", "reasoning", "message", "function_call", "function_call",
                                 "function_call_output", "function_call_output"])


@both
class GoingOn(Checks):
    async def test_tools_round_trip_by_the_previous_response(self):
        response = await self.respond(CALLS, tools=TOOLS)
        strictly(self, Response, response.to_dict())
        calls = calls_of(response)
        self.assertEqual([(call.name, call.arguments) for call in calls],
                         [("weather", '{"city":"Rome"}'), ("time", '{"city":"Bern"}')])
        self.assertEqual(response.output_text, "calling weather and time")
        self.assertEqual([tool.name for tool in response.tools], ["weather", "time"])
        answer = await self.respond(results_of(response), previous_response_id=response.id, tools=TOOLS)
        self.assertEqual(answer.output_text, "result of weather\nresult of time")
        self.assertEqual(answer.previous_response_id, response.id)

    async def test_tools_round_trip_by_repeating_the_output(self):
        for store in (True, False):
            response = await self.respond(CALLS, tools=TOOLS, store=store)
            given = [{"role": "user", "content": CALLS}, *response.output, *results_of(response)]
            answer = await self.respond(given, tools=TOOLS, store=store)
            self.assertEqual(answer.output_text, "result of weather\nresult of time")
            given += [*answer.output, {"role": "user", "content": "thank you"}]
            self.assertEqual((await self.respond(given, tools=TOOLS, store=store)).output_text, "thank you")

    async def test_streamed_tools_round_trip(self):
        async with self.api.responses.stream(model=MODEL, input=CALLS, tools=TOOLS) as stream:
            response = await stream.get_final_response()
        async with self.api.responses.stream(
            model=MODEL, input=results_of(response), tools=TOOLS, previous_response_id=response.id
        ) as stream:
            answer = await stream.get_final_response()
        self.assertEqual(answer.output_text, "result of weather\nresult of time")

    async def test_what_the_agents_own_tools_did_may_be_repeated(self):
        response = await self.respond('/tool search {"q":1}')
        given = [{"role": "user", "content": "x"}, *response.output, {"role": "user", "content": "go on"}]
        self.assertEqual((await self.respond(given)).output_text, "go on")

    async def test_a_result_of_no_call_is_refused(self):
        response = await self.respond("hello")
        call = self.respond(
            [{"type": "function_call_output", "call_id": "call_no", "output": "x"}], previous_response_id=response.id
        )
        await self.refused(BadRequestError, "input[0].call_id", call)

    async def test_a_chain_of_responses(self):
        first = await self.respond("one", instructions="be brief")
        second = await self.respond("two", previous_response_id=first.id)
        third = await self.respond("three", previous_response_id=second.id, instructions="be kind")
        self.assertEqual([one.output_text for one in (first, second, third)], ["one", "two", "three"])
        self.assertEqual([one.previous_response_id for one in (first, second, third)], [None, first.id, second.id])
        asked = await self.respond(CALLS, tools=TOOLS, previous_response_id=third.id)
        answer = await self.respond(results_of(asked), tools=TOOLS, previous_response_id=asked.id)
        self.assertEqual(answer.output_text, "result of weather\nresult of time")

    @unittest.skipIf(IN_FRONT, "models are told of every call that it has no result so far")
    async def test_results_may_come_one_by_one(self):
        asked = await self.respond(CALLS, tools=TOOLS)
        aside = await self.respond(results_of(asked)[:1], previous_response_id=asked.id)
        late = await self.respond(results_of(asked)[1:], previous_response_id=aside.id)
        self.assertEqual((aside.output_text, late.output_text), ("result of weather", "result of time"))

    async def test_instructions_carry_forward(self):
        first = await self.respond("one", instructions="be brief")
        second = await self.respond("two", previous_response_id=first.id)
        third = await self.respond("three", previous_response_id=second.id)
        other = await self.respond("four", previous_response_id=third.id, instructions="be kind")
        last = await self.respond("five", previous_response_id=other.id)
        got = [one.instructions for one in (first, second, third, other, last)]
        self.assertEqual(got, ["be brief", "be brief", "be brief", "be kind", "be kind"])
        kept = await self.api.responses.retrieve(third.id)
        self.assertEqual(kept.instructions, "be brief")

    async def test_an_unknown_previous_response_is_not_found(self):
        for id in ("resp_" + "0" * 32, "nonsense"):
            for more in ({}, {"stream": True}):
                call = self.respond("x", previous_response_id=id, **more)
                await self.refused(NotFoundError, "previous_response_id", call, status_code=404)

    async def test_a_previous_response_has_to_have_ended(self):
        response = await self.respond("/silent", background=True)
        call = self.respond("x", previous_response_id=response.id)
        await self.refused(BadRequestError, "previous_response_id", call)
        await self.api.responses.cancel(response.id)
        answer = await self.respond("x", previous_response_id=response.id)
        self.assertEqual(answer.output_text, "x")

    @unittest.skipIf(IN_FRONT, "models are not told of results whose calls were cut off")
    async def test_truncation_does_not_part_results_from_their_calls(self):
        calls = [
            {"type": "function_call", "call_id": f"call_{n}", "name": "weather", "arguments": "{}"} for n in range(150)
        ]
        results = [{"type": "function_call_output", "call_id": f"call_{n}", "output": f"r{n}"} for n in range(150)]
        given = [{"role": "user", "content": "x"}, *calls, *results]
        whole = await self.respond(given)
        self.assertEqual(whole.output_text, "\n".join(f"r{n}" for n in range(150)))
        cut = await self.respond(given, truncation="auto")
        self.assertEqual((cut.truncation, cut.output_text), ("auto", whole.output_text))
        # All of it is kept.
        kept = [item async for item in self.api.responses.input_items.list(cut.id, limit=100)]
        self.assertEqual(len(kept), len(given))

    async def test_items_are_referred_to(self):
        response = await self.respond("hello")
        message = response.output[-1]
        given = [{"type": "item_reference", "id": message.id}, {"role": "user", "content": "again"}]
        answer = await self.respond(given, previous_response_id=response.id)
        self.assertEqual(answer.output_text, "again")
        given[0]["id"] = "msg_no"
        call = self.respond(given, previous_response_id=response.id)
        await self.refused(BadRequestError, "input[0].id", call)

    async def test_reasoning_has_what_its_type_requires(self):
        response = await self.respond("hello")
        strictly(self, ResponseReasoningItem, response.output[0].to_dict())


async def _awaited(call):
    return await call


async def _text(raw):
    text = raw.text
    text = text() if callable(text) else text
    return await text if hasattr(text, "__await__") else text
