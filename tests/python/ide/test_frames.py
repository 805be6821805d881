"""A scripted IDE before an agent runtime: the frames both ways, and every error."""

import asyncio
import json
import time
import unittest

from session import DONE, PATHS, SILENCE, TOOL_SECONDS, Suite, error, new_session, said
from websockets.exceptions import InvalidStatus


def call(name, arguments):
    return {
        "type": "tool_call",
        "call_id": f"call_{name}",
        "tool_name": name,
        "arguments": arguments,
        "requires_approval": False,
        "is_final": True,
    }


class Frames(Suite):
    async def test_a_session_from_the_message_to_the_end_at_both_paths(self):
        for path in PATHS:
            session = new_session()
            ide = await self.connect(session, path)
            await ide.ask("/say let me see", '/tool read_file {"path": "a.txt", "range": null}', "/done")
            # What is null in a frame is left out; what is null among a tool's arguments is not.
            expected = [*said("let me see"), call("read_file", {"path": "a.txt", "range": None}), DONE]
            self.assertEqual(await ide.turn(), expected)
            await ide.send({"type": "tool_result", "call_id": "call_read_file", "result": "one line"})
            self.assertEqual(await ide.turn(), [*said("call_read_file: one line"), DONE])
            await ide.send({"type": "tool_result", "call_id": "call_x", "error": "no such file"})
            self.assertEqual(await ide.turn(), [*said("call_x: no such file"), DONE])
            await ide.send({"type": "switch_agent", "agent_type": "coder", "content": "write", "reason": "code"})
            metadata = {"from_agent": "orchestrator", "to_agent": "coder", "reason": "code"}
            switched = {"type": "agent_switched", "content": "now coder", "metadata": metadata}
            self.assertEqual(await ide.turn(), [switched, DONE])
            await ide.send({"type": "hitl_decision", "call_id": "call_read_file", "decision": "approve"})
            self.assertEqual(await ide.turn(), [*said("approve"), DONE])
            self.assertEqual({one["session_id"] for one in await self.asked(session)}, {session})

    async def test_frames_reach_the_runtime_as_they_are(self):
        session = new_session()
        ide = await self.connect(session)
        frames = [
            {"content": "first", "type": "user_message", "extra": {"b": None, "a": [1, 2.5]}},
            {"type": "tool_result", "call_id": "c1", "result": {"lines": ["ä", None]}, "error": None},
            {"type": "switch_agent", "agent_type": "ask", "content": "", "reason": None, "more": True},
            {
                "type": "hitl_decision",
                "call_id": "c1",
                "decision": "edit",
                "modified_arguments": {"path": None},
                "feedback": "there",
            },
        ]
        for frame in frames:
            await ide.send(frame)
        for _ in frames:
            await ide.turn()
        self.assertEqual([one["message"] for one in await self.asked(session)], frames)

    async def test_the_runtimes_frames_arrive_as_they_are(self):
        ide = await self.connect(new_session())
        frame = '{"type": "session_info", "zeta": 1.50, "alpha": {"b": null}, "big": 12345678901234567890123, "s": "\\u00e4"}'
        await ide.ask("/text " + json.dumps(f"data: {frame}\n\n"), "/done")
        self.assertEqual(await ide.text(), frame)
        self.assertEqual(await ide.frame(), DONE)

    async def test_an_end_that_is_no_frame_is_told_in_the_gateways_words(self):
        ide = await self.connect(new_session())
        ends = [r'/text "data: [DONE]\n\n"', r'/text "event: done\ndata: {\"status\": \"completed\"}\n\n"', "/wait 0"]
        for end in ends:
            await ide.ask("/say so", end)
        await ide.ask("/done")
        for _ in ends:
            self.assertEqual(await ide.turn(), [*said("so"), {**DONE, "metadata": {"finish_reason": "stop"}}])
        self.assertEqual(await ide.turn(), [DONE])

    async def test_a_runtime_that_says_nothing_is_an_error(self):
        ide = await self.connect(new_session())
        await ide.ask("/silent")
        self.assertEqual(await ide.turn(), [error(f"Streaming error: nothing heard from the agent for {SILENCE}")])

    async def test_a_tool_that_takes_long_blocks_nobody(self):
        slow, other = await self.connect(new_session()), await self.connect(new_session())
        await slow.ask('/tool build {"all": true}', "/done")
        self.assertEqual(await slow.turn(), [call("build", {"all": True}), DONE])
        until = time.monotonic() + TOOL_SECONDS
        turns = 0
        while turns == 0 or time.monotonic() < until:
            # In the same session as well as in another one.
            for ide in (slow, other):
                await ide.ask("meanwhile")
                self.assertEqual(await ide.turn(), [*said("meanwhile"), DONE])
            turns += 1
            await asyncio.sleep(0.2)
        await slow.send({"type": "tool_result", "call_id": "call_build", "result": "built"})
        self.assertEqual(await slow.turn(), [*said("call_build: built"), DONE])


class Errors(Suite):
    async def test_every_fault_has_its_sentence_and_the_connection_stays_open(self):
        ide = await self.connect(new_session())
        faults = [
            ({"type": "x"}, "Unknown message type: x"),
            ("hello", "Invalid JSON message: expected value at line 1 column 1"),
            ("", "Invalid JSON message: EOF while parsing a value at line 1 column 0"),
            ("[]", "Invalid JSON message: the frame must be a JSON object"),
            (b"\0\xff", "Invalid JSON message: the frame is binary, and must be text"),
            ({}, "Invalid JSON message: type: is missing"),
            ({"type": 7}, "Invalid JSON message: type: must be a string"),
            ({"type": "user_message"}, "Invalid JSON message: content: is missing"),
            ({"type": "user_message", "content": ["a"]}, "Invalid JSON message: content: must be a string"),
            ({"type": "tool_result", "result": 1}, "Invalid JSON message: call_id: is missing"),
            ({"type": "switch_agent", "content": "a"}, "Invalid JSON message: agent_type: is missing"),
            (
                {"type": "hitl_decision", "call_id": "c", "decision": "maybe"},
                "Invalid JSON message: decision: must be one of approve, edit, reject",
            ),
            (
                '{"type":"user_message","content":"a","x":' + "[" * 64 + "]" * 64 + "}",
                "Invalid JSON message: the frame is nested deeper than 64",
            ),
        ]
        for frame, content in faults:
            await ide.send(frame)
            self.assertEqual(await ide.frame(), error(content))
        for status in (500, 400, 401):
            await ide.ask(f"/status {status} broken")
            self.assertEqual(await ide.turn(), [error(f"Agent error: {status}")])
        await ide.ask("/say so far", "/cut")
        *before, last = await ide.turn()
        self.assertEqual(before, said("so far"))
        self.assertRegex(last["content"], "^Streaming error: .+")
        await ide.ask("/error out of ideas", "/done")
        oops = {"type": "error", "error": "out of ideas", "is_final": True}
        self.assertEqual(await ide.turn(), [oops, DONE])
        await ide.ask("still here")
        self.assertEqual(await ide.turn(), [*said("still here"), DONE])

    async def test_without_a_key_nobody_comes_in(self):
        for path in PATHS:
            for key in (None, "not-one-of-its-keys"):
                with self.assertRaises(InvalidStatus) as refused:
                    await self.connect(new_session(), path, key=key)
                self.assertEqual(refused.exception.response.status_code, 401)


if __name__ == "__main__":
    unittest.main()
