"""Chat completions, whole and streamed."""

import asyncio
import json

import openai
from gateway import IN_FRONT, MODEL, THOUGHT, WEATHER, both, strictly, unique
from openai import APIError, BadRequestError, InternalServerError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

TOOLS = [{"type": "function", "function": {"name": name, "parameters": WEATHER}} for name in ("weather", "time")]
CALLS = '/call weather {"city":"Rome"}\ntime {"city":"Bern"}'


class City(BaseModel):
    city: str
    people: int


class weather(BaseModel):
    city: str


@both
class Chat:
    async def chunks(self, text, **more):
        """The chunks of a stream, from the wire, and what ends it."""
        create = self.api.chat.completions.with_streaming_response.create
        messages = [{"role": "user", "content": text}]
        events = await self.wire(create(model=MODEL, messages=messages, stream=True, **more))
        self.assertEqual({name for name, _ in events}, {None}, "a frame of a chat stream has no event name")
        self.assertEqual(events[-1][1], "[DONE]")
        return [json.loads(data) for _, data in events[:-1]]

    async def test_create(self):
        completion = await self.chat("hello there world")
        strictly(self, ChatCompletion, completion.to_dict())
        self.assertRegex(completion.id, r"^chatcmpl-[0-9a-f]{32}$")
        self.assertEqual((completion.object, completion.model), ("chat.completion", MODEL))
        [choice] = completion.choices
        self.assertEqual((choice.index, choice.finish_reason, choice.logprobs), (0, "stop", None))
        self.assertEqual((choice.message.role, choice.message.content), ("assistant", "hello there world"))
        self.assertIsNone(choice.message.tool_calls)
        self.assertEqual(choice.message.reasoning_content, THOUGHT)
        usage = completion.usage
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (3, 3, 6))
        self.assertEqual(usage.prompt_tokens_details.cached_tokens, 0)
        self.assertEqual(usage.completion_tokens_details.reasoning_tokens, 0)
        self.assertRegex(completion._request_id, r"^req_[0-9a-f]{32}$")

    async def test_two_completions_have_two_ids(self):
        one, other = await self.chat("same"), await self.chat("same")
        self.assertNotEqual(one.id, other.id)

    async def test_stream(self):
        stream = await self.chat("/words 5", stream=True)
        chunks = [chunk async for chunk in stream]
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        self.assertRegex(chunks[0].id, r"^chatcmpl-[0-9a-f]{32}$")
        self.assertEqual({chunk.model for chunk in chunks}, {MODEL})
        self.assertEqual([len(chunk.choices) for chunk in chunks], [1] * len(chunks))
        choices = [chunk.choices[0] for chunk in chunks]
        self.assertEqual([choice.delta.role for choice in choices], ["assistant"] + [None] * (len(chunks) - 1))
        said = [choice.delta.content for choice in choices if choice.delta.content]
        self.assertEqual(said, ["w1 ", "w2 ", "w3 ", "w4 ", "w5"])
        thought = [choice.delta.reasoning_content for choice in choices if hasattr(choice.delta, "reasoning_content")]
        self.assertEqual("".join(thought), THOUGHT)
        self.assertEqual([choice.finish_reason for choice in choices], [None] * (len(chunks) - 1) + ["stop"])
        self.assertEqual([chunk.usage for chunk in chunks], [None] * len(chunks))

    async def test_every_chunk_has_what_its_type_requires(self):
        for text in ("hello there", CALLS):
            chunks = await self.chunks(text, tools=TOOLS, stream_options={"include_usage": True})
            self.assertGreater(len(chunks), 4)
            for chunk in chunks:
                strictly(self, ChatCompletionChunk, chunk)
                for choice in chunk["choices"]:
                    self.assertIn("finish_reason", choice)

    async def test_usage_comes_last_when_it_is_asked_for(self):
        chunks = await self.chunks("one two three", stream_options={"include_usage": True})
        self.assertEqual([chunk["usage"] for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual(chunks[-1]["choices"], [])
        usage = strictly(self, CompletionUsage, chunks[-1]["usage"])
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (3, 3, 6))
        for chunk in await self.chunks("one", stream_options={"include_usage": False}):
            self.assertNotEqual(chunk["choices"], [])

    async def test_stream_helper(self):
        messages = [{"role": "user", "content": "hello there world"}]
        options = {"include_usage": True}
        kinds, deltas = [], []
        async with self.api.chat.completions.stream(model=MODEL, messages=messages, stream_options=options) as stream:
            async for event in stream:
                kinds.append(event.type)
                if event.type == "content.delta":
                    deltas.append((event.delta, event.snapshot))
                if event.type == "content.done":
                    self.assertEqual(event.content, "hello there world")
            completion = await stream.get_final_completion()
        deltas = [delta for delta in deltas if delta[0]]
        self.assertEqual(
            deltas, [("hello ", "hello "), ("there ", "hello there "), ("world", "hello there world")]
        )
        self.assertEqual(kinds.count("content.done"), 1)
        self.assertEqual(completion.choices[0].message.content, "hello there world")
        self.assertEqual((completion.choices[0].finish_reason, completion.usage.total_tokens), ("stop", 6))

    async def test_tools_round_trip(self):
        asked = {"role": "user", "content": CALLS}
        completion = await self.api.chat.completions.create(model=MODEL, messages=[asked], tools=TOOLS)
        strictly(self, ChatCompletion, completion.to_dict())
        [choice] = completion.choices
        self.assertEqual(choice.finish_reason, "tool_calls")
        self.assertEqual(choice.message.content, "calling weather and time")
        calls = choice.message.tool_calls
        self.assertEqual([call.type for call in calls], ["function", "function"])
        self.assertEqual(
            [(call.function.name, call.function.arguments) for call in calls],
            [("weather", '{"city":"Rome"}'), ("time", '{"city":"Bern"}')],
        )
        self.assertEqual(len({call.id for call in calls}), 2)

        results = [
            {"role": "tool", "tool_call_id": call.id, "content": f"result of {call.function.name}"} for call in calls
        ]
        messages = [asked, choice.message, *results]
        answer = await self.api.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
        self.assertEqual(answer.choices[0].message.content, "result of weather\nresult of time")
        self.assertEqual(answer.choices[0].finish_reason, "stop")

        said = {"role": "user", "content": "thank you"}
        again = await self.api.chat.completions.create(
            model=MODEL, messages=[*messages, answer.choices[0].message, said], tools=TOOLS
        )
        self.assertEqual(again.choices[0].message.content, "thank you")

    async def test_streamed_tools_round_trip(self):
        chunks = await self.chunks(CALLS, tools=TOOLS)
        deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
        self.assertEqual({delta["index"] for delta in deltas}, {0, 1})
        calls = {0: "", 1: ""}
        for index in calls:
            own = [delta for delta in deltas if delta["index"] == index]
            self.assertEqual((own[0]["type"], own[0]["function"]["name"]), ("function", ["weather", "time"][index]))
            self.assertTrue(own[0]["id"])
            for delta in own[1:]:
                self.assertFalse({"id", "type"} & delta.keys())
            calls[index] = "".join(delta["function"]["arguments"] for delta in own)
        self.assertEqual(calls, {0: '{"city":"Rome"}', 1: '{"city":"Bern"}'})
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "tool_calls")

        messages = [{"role": "user", "content": CALLS}]
        done = []
        async with self.api.chat.completions.stream(model=MODEL, messages=messages, tools=TOOLS) as stream:
            async for event in stream:
                if event.type == "tool_calls.function.arguments.done":
                    done.append((event.index, event.name, event.arguments))
            completion = await stream.get_final_completion()
        self.assertEqual(done, [(0, "weather", '{"city":"Rome"}'), (1, "time", '{"city":"Bern"}')])
        [choice] = completion.choices
        self.assertEqual(choice.finish_reason, "tool_calls")
        message = choice.message
        results = [{"role": "tool", "tool_call_id": call.id, "content": call.id} for call in message.tool_calls]
        said = {"role": "assistant", "content": message.content, "tool_calls": [
            {"id": call.id, "type": "function",
             "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]}
        stream = await self.api.chat.completions.create(
            model=MODEL, messages=[*messages, said, *results], tools=TOOLS, stream=True
        )
        answer = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        self.assertEqual(answer, "\n".join(call.id for call in message.tool_calls))

    async def test_the_agents_own_tools_are_none_of_the_clients(self):
        completion = await self.chat('/tool search {"q":1}', tools=TOOLS)
        self.assertIsNone(completion.choices[0].message.tool_calls)
        self.assertEqual(completion.choices[0].message.content, "done")
        self.assertEqual(completion.choices[0].finish_reason, "stop")
        for chunk in await self.chunks('/tool search {"q":1}', tools=TOOLS):
            self.assertNotIn("tool_calls", chunk["choices"][0]["delta"])

    async def test_parse_reads_the_answer(self):
        messages = [{"role": "user", "content": '{"city":"Rome","people":3}'}]
        parsed = await self.api.chat.completions.parse(model=MODEL, messages=messages, response_format=City)
        self.assertEqual(parsed.choices[0].message.parsed, City(city="Rome", people=3))
        async with self.api.chat.completions.stream(model=MODEL, messages=messages, response_format=City) as stream:
            final = await stream.get_final_completion()
        self.assertEqual(final.choices[0].message.parsed, City(city="Rome", people=3))

    async def test_parse_reads_the_arguments_of_calls(self):
        messages = [{"role": "user", "content": '/call weather {"city":"Rome"}'}]
        tools = [openai.pydantic_function_tool(weather)]
        parsed = await self.api.chat.completions.parse(model=MODEL, messages=messages, tools=tools)
        [call] = parsed.choices[0].message.tool_calls
        self.assertEqual(call.function.parsed_arguments, weather(city="Rome"))

    async def test_parts_of_a_message(self):
        parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
        completion = await self.chat(parts)
        self.assertEqual(completion.choices[0].message.content, "look")

    async def test_system_messages_are_not_the_question(self):
        messages = [
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "second"},
        ]
        completion = await self.api.chat.completions.create(model=MODEL, messages=messages)
        self.assertEqual(completion.choices[0].message.content, "second")

    async def in_order(self, session, other):
        """A turn waits for the one before it in its session, and one of another session does not."""
        ended = []

        async def turn(name, more):
            await self.chat("quick", **more)
            ended.append(name)

        slow = await self.chat("/sleep 1500ms", stream=True, **session)
        chunks = aiter(slow)
        # It is accepted and runs.
        await anext(chunks)
        turns = [asyncio.create_task(turn("next", session)), asyncio.create_task(turn("elsewhere", other))]
        async for _ in chunks:
            pass
        ended.append("slow")
        await asyncio.gather(*turns)
        self.assertEqual(sorted(ended), ["elsewhere", "next", "slow"])
        self.assertEqual(ended[0], "elsewhere")
        self.assertLess(ended.index("slow"), ended.index("next"))

    async def test_turns_of_a_session_run_in_order(self):
        await self.in_order({"metadata": {"session": unique("s")}}, {"metadata": {"session": unique("s")}})

    async def test_open_webuis_chat_is_a_session(self):
        session, other = ({"extra_headers": {"X-OpenWebUI-Chat-Id": unique("chat")}} for _ in range(2))
        await self.in_order(session, other)

    async def test_a_failing_agent_is_an_internal_server_error(self):
        await self.refused(InternalServerError, None, self.chat("/fail at once"), code="agent_error", status_code=502)

    async def test_an_agent_that_fails_before_it_has_said_anything(self):
        if IN_FRONT:
            # It is asked again, and the stream begins meanwhile: its last frame tells.
            with self.assertRaises(APIError) as caught:
                async for chunk in await self.chat("/fail at once", stream=True):
                    self.assertFalse(chunk.choices[0].delta.content)
            self.assertEqual((caught.exception.code, caught.exception.type), ("agent_error", "agent_error"))
        else:
            call = self.chat("/fail at once", stream=True)
            await self.refused(InternalServerError, None, call, code="agent_error", status_code=502)

    async def test_what_the_agent_does_not_understand_is_a_bad_request(self):
        await self.refused(BadRequestError, None, self.chat("/words 0"), code="invalid_input")
        await self.refused(BadRequestError, None, self.chat("/words 0", stream=True), code="invalid_input")

    async def test_harmless_parameters_are_accepted(self):
        completion = await self.chat(
            "fine",
            n=1, temperature=0.5, top_p=0.9, max_tokens=50, max_completion_tokens=50, stop=["x"], seed=7, user="me",
            presence_penalty=0.1, frequency_penalty=0.1, logit_bias={"50": 1}, logprobs=False, modalities=["text"],
            parallel_tool_calls=True, reasoning_effort="low", service_tier="auto", store=False, verbosity="low",
            prompt_cache_key="k", safety_identifier="s", metadata={"a": "b"}, response_format={"type": "text"},
            extra_body={"num_ctx": 4096, "chat_template_kwargs": {"x": True}, "keep_alive": None},
        )
        self.assertEqual(completion.choices[0].message.content, "fine")

    async def test_what_is_not_possible_is_refused_by_name(self):
        cases = [
            ("n", {"n": 2}),
            ("logprobs", {"logprobs": True}),
            ("top_logprobs", {"top_logprobs": 3}),
            ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
            ("modalities", {"modalities": ["text", "audio"]}),
            ("functions", {"functions": [{"name": "f"}]}),
            ("temperature", {"temperature": 3}),
            ("top_p", {"extra_body": {"top_p": "high"}}),
            ("max_tokens", {"max_tokens": 0}),
            ("max_completion_tokens", {"max_completion_tokens": -1}),
            ("stream_options", {"stream_options": {"include_usage": True}}),
            ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
            ("response_format.type", {"response_format": {"type": "poem"}}),
            ("tools[0].type", {"tools": [{"type": "magic"}]}),
            ("tools[0].function.name", {"tools": [{"type": "function", "function": {"name": "no spaces"}}]}),
            ("tool_choice", {"tool_choice": "required"}),
            ("metadata.a", {"metadata": {"a": 1}}),
            ("stream", {"extra_body": {"stream": "yes"}}),
        ]
        for param, given in cases:
            with self.subTest(param):
                await self.refused(
                    BadRequestError, param, self.chat("x", **given), type="invalid_request_error", status_code=400
                )

    async def test_messages_that_make_no_sense_are_refused_by_name(self):
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        user = {"role": "user", "content": "x"}
        audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
        cases = [
            ("messages", []),
            ("messages[0].role", [{"role": "wizard", "content": "x"}]),
            ("messages[0].role", [{"content": "x"}]),
            ("messages[0].content", [{"role": "user", "content": 5}]),
            ("messages[1].content", [user, {"role": "user"}]),
            ("messages[0].content[0].type", [{"role": "user", "content": [audio]}]),
            ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text"}]}]),
            ("messages[1].tool_call_id", [user, {"role": "tool", "content": "x", "tool_call_id": "call_9"}]),
            ("messages[2].role", [user, {"role": "assistant", "tool_calls": [call]}, user]),
            ("messages", [user, {"role": "assistant", "tool_calls": [call]}]),
        ]
        for param, messages in cases:
            with self.subTest(param=param, messages=messages):
                made = self.api.chat.completions.create(model=MODEL, messages=messages)
                await self.refused(BadRequestError, param, made, type="invalid_request_error")

    async def test_an_unknown_model_is_not_found(self):
        messages = [{"role": "user", "content": "x"}]
        for more in ({}, {"stream": True}):
            call = self.api.chat.completions.create(model="nobody", messages=messages, **more)
            await self.refused(openai.NotFoundError, "model", call, code="model_not_found")

