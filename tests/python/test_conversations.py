"""Conversations: their items, and the turns that are taken in them."""

import asyncio

import openai
from gateway import THOUGHT, WEATHER, both, strictly, texts, unique
from openai import BadRequestError, NotFoundError
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem, ConversationItemList

TOOLS = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
UNKNOWN = "conv_" + "0" * 32


def said(text, role="user"):
    return {"type": "message", "role": role, "content": text}


class InConversation:
    async def items(self, conversation_id, **more):
        return [item async for item in self.api.conversations.items.list(conversation_id, order="asc", **more)]

    def check_turns(self, items, expected):
        """The items are whole turns, one behind the other: what was said, the thought, the answer."""
        kinds = [item.type for item in items]
        self.assertEqual(kinds, ["message", "reasoning", "message"] * len(expected))
        turns = [(items[at], items[at + 1], items[at + 2]) for at in range(0, len(items), 3)]
        for asked, thought, answer in turns:
            self.assertEqual((asked.role, answer.role), ("user", "assistant"))
            self.assertEqual(thought.summary[0].text, THOUGHT)
            self.assertEqual(answer.content[0].text, asked.content[0].text)
        self.assertEqual(sorted(asked.content[0].text for asked, _, _ in turns), sorted(expected))
        self.assertEqual(len({item.id for item in items}), len(items))


@both
class Conversations(InConversation):
    async def test_a_conversation_from_its_making_to_its_end(self):
        made = await self.api.conversations.create(metadata={"topic": "demo"})
        strictly(self, Conversation, made.to_dict())
        self.assertRegex(made.id, r"^conv_[0-9a-f]{32}$")
        self.assertEqual((made.object, made.metadata), ("conversation", {"topic": "demo"}))
        self.assertEqual(await self.api.conversations.retrieve(made.id), made)

        changed = await self.api.conversations.update(made.id, metadata={"topic": "other", "a": "b"})
        strictly(self, Conversation, changed.to_dict())
        self.assertEqual((changed.id, changed.created_at), (made.id, made.created_at))
        self.assertEqual(changed.metadata, {"topic": "other", "a": "b"})
        self.assertEqual(await self.api.conversations.retrieve(made.id), changed)

        deleted = await self.api.conversations.delete(made.id)
        strictly(self, ConversationDeletedResource, deleted.to_dict())
        self.assertEqual((deleted.id, deleted.deleted), (made.id, True))
        for call in self.calls_on(made.id):
            await self.refused(NotFoundError, "conversation", call)

    def calls_on(self, id):
        conversations = self.api.conversations
        return (
            conversations.retrieve(id),
            conversations.update(id, metadata={}),
            conversations.delete(id),
            conversations.items.list(id),
            conversations.items.create(id, items=[said("x")]),
            conversations.items.retrieve("msg_1", conversation_id=id),
            conversations.items.delete("msg_1", conversation_id=id),
            self.respond("x", conversation=id),
        )

    async def test_unknown_conversations_are_not_found(self):
        for call in self.calls_on(UNKNOWN):
            await self.refused(NotFoundError, "conversation", call, type="invalid_request_error")

    async def test_what_makes_no_sense_is_refused_by_name(self):
        conversations = self.api.conversations
        made = await conversations.create()
        self.assertEqual(made.metadata, {})
        cases = [
            ("metadata.a", conversations.create(metadata={"a": 1})),
            ("metadata", conversations.update(made.id, metadata={f"k{n}": "v" for n in range(17)})),
            ("items", conversations.create(items=[said(f"{n}") for n in range(21)])),
            ("items", conversations.items.create(made.id, items=[])),
            ("items[0].type", conversations.items.create(made.id, items=[{"type": "magic"}])),
            ("items[0].role", conversations.create(items=[said("x", "wizard")])),
            ("after", conversations.items.list(made.id, after="msg_no")),
            ("limit", conversations.items.list(made.id, limit=0)),
        ]
        for param, call in cases:
            with self.subTest(param):
                await self.refused(BadRequestError, param, call, type="invalid_request_error")
        self.assertEqual(await self.items(made.id), [])

    async def test_items_of_the_beginning(self):
        made = await self.api.conversations.create(items=[said("one"), said("two", "assistant")])
        items = await self.items(made.id)
        self.assertEqual(texts(items), [("user", "one"), ("assistant", "two")])
        for item in items:
            strictly(self, ConversationItem, item.to_dict())

    async def test_items_are_added_found_and_removed(self):
        items = self.api.conversations.items
        made = await self.api.conversations.create(items=[said("one")])
        given = [
            said("two"),
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
            said("three", "assistant"),
        ]
        added = await items.create(made.id, items=given)
        strictly(self, ConversationItemList, added.to_dict())
        self.assertEqual([item.type for item in added.data], [item["type"] for item in given])
        self.assertEqual((added.first_id, added.last_id), (added.data[0].id, added.data[-1].id))
        for item in added.data:
            found = await items.retrieve(item.id, conversation_id=made.id)
            strictly(self, ConversationItem, found.to_dict())
            self.assertEqual(found, item)
        after = await items.delete(added.data[0].id, conversation_id=made.id)
        strictly(self, Conversation, after.to_dict())
        self.assertEqual(after, made)
        for call in (items.retrieve, items.delete):
            await self.refused(NotFoundError, "item_id", call(added.data[0].id, conversation_id=made.id))
        left = await self.items(made.id)
        self.assertEqual([item.id for item in left[1:]], [item.id for item in added.data[1:]])
        self.assertEqual(texts(left), [("user", "one"), ("assistant", "three")])

    async def test_items_in_pages(self):
        items = self.api.conversations.items
        made = await self.api.conversations.create(items=[said(f"{n}") for n in range(5)])
        for order, expected in (("asc", "01234"), ("desc", "43210"), (openai.omit, "43210")):
            listed = [item async for item in items.list(made.id, order=order, limit=2)]
            self.assertEqual("".join(item.content[0].text for item in listed), expected)
        page = await items.list(made.id, order="asc", limit=2)
        self.assertEqual((len(page.data), page.has_more, page.last_id), (2, True, page.data[1].id))
        rest = await items.list(made.id, order="asc", after=page.last_id)
        self.assertEqual(([item.content[0].text for item in rest.data], rest.has_more), (["2", "3", "4"], False))

    async def test_items_that_are_added_at_once_are_all_there(self):
        made = await self.api.conversations.create()
        await asyncio.gather(*(self.added(made.id, n) for n in range(8)))
        listed = await self.items(made.id)
        self.assertEqual(sorted(item.content[0].text for item in listed), [str(n) for n in range(8)])

    async def added(self, id, n):
        return await self.api.conversations.items.create(id, items=[said(str(n))])

    async def test_items_that_are_removed_at_once_are_all_gone(self):
        made = await self.api.conversations.create(items=[said(str(n)) for n in range(16)])
        listed = await self.items(made.id)

        async def removed(item):
            await self.api.conversations.items.delete(item.id, conversation_id=made.id)

        await asyncio.gather(*(removed(item) for item in listed[:8]))
        left = await self.items(made.id)
        self.assertEqual([item.content[0].text for item in left], [str(n) for n in range(8, 16)])


@both
class Turns(InConversation):
    async def test_a_turn_by_id(self):
        made = await self.api.conversations.create(items=[said("before")])
        for conversation in (made.id, {"id": made.id}):
            response = await self.respond("hello there", conversation=conversation)
            self.assertEqual((response.output_text, response.conversation.id), ("hello there", made.id))
        items = await self.items(made.id)
        self.assertEqual(items[0].content[0].text, "before")
        self.check_turns(items[1:], ["hello there"] * 2)
        for item in items:
            strictly(self, ConversationItem, item.to_dict())
        self.assertEqual([item.id for item in items[5:]], [item.id for item in response.output])
        kept = await self.api.responses.retrieve(response.id)
        self.assertEqual(kept.conversation.id, made.id)

    async def test_a_turn_by_name(self):
        name = unique("my chat")
        for text in ("one", "two"):
            response = await self.respond(text, conversation=name)
            self.assertEqual((response.output_text, response.conversation.id), (text, name))
        made = await self.api.conversations.retrieve(name)
        strictly(self, Conversation, made.to_dict())
        self.assertEqual(made.id, name)
        items = await self.items(name)
        self.check_turns(items, ["one", "two"])
        self.assertEqual(texts(items)[0], ("user", "one"))

    async def test_a_streamed_turn(self):
        made = await self.api.conversations.create()
        stream = await self.respond("/words 2", conversation=made.id, stream=True)
        events = [event async for event in stream]
        self.assertEqual(events[-1].response.output_text, "w1 w2")
        self.assertEqual(events[0].response.conversation.id, made.id)
        self.assertEqual(texts(await self.items(made.id)), [("user", "/words 2"), ("assistant", "w1 w2")])

    async def test_a_turn_in_the_background(self):
        made = await self.api.conversations.create()
        first = await self.respond("/sleep 500ms", conversation=made.id, background=True)
        second = await self.respond("after it", conversation=made.id, background=True)
        await self.ended(second.id)
        self.assertEqual((await self.api.responses.retrieve(first.id)).status, "completed")
        items = await self.items(made.id)
        self.assertEqual(texts(items), [
            ("user", "/sleep 500ms"), ("assistant", "slept"), ("user", "after it"), ("assistant", "after it"),
        ])

    async def test_a_cancelled_turn_does_not_hold_up_the_next(self):
        made = await self.api.conversations.create()
        silent = await self.respond("/silent", conversation=made.id, background=True)
        await self.until(silent.id, "in_progress")
        after = await self.respond("after it", conversation=made.id, background=True)
        await self.api.responses.cancel(silent.id)
        self.assertEqual((await self.ended(after.id)).output_text, "after it")
        self.assertEqual(texts(await self.items(made.id))[-1], ("assistant", "after it"))

    async def test_a_deleted_turn_does_not_hold_up_the_next(self):
        made = await self.api.conversations.create()
        silent = await self.respond("/silent", conversation=made.id, background=True)
        await self.api.responses.delete(silent.id)
        self.assertEqual((await self.respond("after it", conversation=made.id)).output_text, "after it")
        self.assertEqual(texts(await self.items(made.id))[-1], ("assistant", "after it"))

    async def test_a_failed_turn_leaves_nothing_that_would_be_said_twice(self):
        made = await self.api.conversations.create()
        call = self.respond("/fail no luck", conversation=made.id)
        await self.refused(openai.InternalServerError, None, call, code="agent_error")
        self.assertEqual((await self.respond("after it", conversation=made.id)).output_text, "after it")
        self.assertEqual(texts(await self.items(made.id)), [
            ("user", "after it"), ("assistant", "after it"),
        ])

    async def test_tools_round_trip(self):
        made = await self.api.conversations.create()
        asked = await self.respond('/call weather {"city":"Rome"}', conversation=made.id, tools=TOOLS)
        [call] = [item for item in asked.output if item.type == "function_call"]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        answer = await self.respond([result], conversation=made.id, tools=TOOLS)
        self.assertEqual(answer.output_text, "sunny")
        items = await self.items(made.id)
        kinds = ["message", "reasoning", "message", "function_call", "function_call_output", "reasoning", "message"]
        self.assertEqual([item.type for item in items], kinds)
        for item in items:
            strictly(self, ConversationItem, item.to_dict())
        result["call_id"] = "call_no"
        await self.refused(BadRequestError, "input[0].call_id", self.respond([result], conversation=made.id))
        self.assertEqual(len(await self.items(made.id)), len(kinds))

    async def test_not_together_with_a_previous_response(self):
        made = await self.api.conversations.create()
        response = await self.respond("hello")
        for conversation in (made.id, {"id": made.id}, unique("name")):
            call = self.respond("x", conversation=conversation, previous_response_id=response.id)
            await self.refused(BadRequestError, "previous_response_id", call, type="invalid_request_error")
        self.assertEqual(await self.items(made.id), [])

    async def test_names_that_make_no_sense(self):
        for conversation, param in (("a/b", "conversation"), ("x" * 201, "conversation"), ({}, "conversation.id")):
            await self.refused(BadRequestError, param, self.respond("x", conversation=conversation))
        await self.refused(BadRequestError, "store", self.respond("x", conversation=unique("c"), store=False))

    async def taken(self, given, conversation, **more):
        return await self.respond(given, conversation=conversation, **more)

    async def test_turns_at_once_neither_interleave_nor_get_lost(self):
        made = await self.api.conversations.create()
        expected = [f"turn number {n}" for n in range(8)]
        answers = await asyncio.gather(*(self.taken(text, made.id) for text in expected))
        self.assertEqual([answer.output_text for answer in answers], expected)
        self.check_turns(await self.items(made.id), expected)

    async def test_turns_at_once_in_a_new_conversation_by_name(self):
        name = unique("at once")
        expected = [f"turn number {n}" for n in range(6)]
        answers = await asyncio.gather(*(self.taken(text, name) for text in expected))
        self.assertEqual([answer.output_text for answer in answers], expected)
        self.check_turns(await self.items(name), expected)

    async def test_turns_at_once_of_every_kind(self):
        made = await self.api.conversations.create()
        # Some that the next one's history has to be known for, and some in the background.
        given = [[said("system", "system"), said(f"turn {n}")] if n % 2 else f"turn {n}" for n in range(6)]
        answers = await asyncio.gather(
            *(self.taken(one, made.id, background=n > 3) for n, one in enumerate(given))
        )
        for n, answer in enumerate(answers):
            self.assertEqual((await self.ended(answer.id)).output_text, f"turn {n}")
        items = [item for item in await self.items(made.id) if item.type != "message" or item.role != "system"]
        self.check_turns(items, [f"turn {n}" for n in range(6)])

    async def test_items_that_are_added_between_turns(self):
        made = await self.api.conversations.create()
        await self.respond("one", conversation=made.id)
        await self.api.conversations.items.create(made.id, items=[said("aside", "assistant")])
        await self.respond("two", conversation=made.id)
        expected = [("user", "one"), ("assistant", "one"), ("assistant", "aside"), ("user", "two"), ("assistant", "two")]
        self.assertEqual(texts(await self.items(made.id)), expected)

    async def test_a_repeated_request_is_one_turn(self):
        made = await self.api.conversations.create()
        key = {"Idempotency-Key": unique("key")}
        one = await self.respond("hello", conversation=made.id, extra_headers=key)
        other = await self.respond("hello", conversation=made.id, extra_headers=key)
        self.assertEqual(one.id, other.id)
        self.check_turns(await self.items(made.id), ["hello"])
        await self.respond("next", conversation=made.id)
        self.check_turns(await self.items(made.id), ["hello", "next"])

    async def test_a_deleted_response_leaves_its_items(self):
        made = await self.api.conversations.create()
        response = await self.respond("hello", conversation=made.id)
        self.check_turns(await self.items(made.id), ["hello"])
        await self.api.responses.delete(response.id)
        self.check_turns(await self.items(made.id), ["hello"])

    async def test_deleting_a_conversation_leaves_its_responses(self):
        made = await self.api.conversations.create()
        response = await self.respond("hello", conversation=made.id)
        await self.api.conversations.delete(made.id)
        self.assertEqual((await self.api.responses.retrieve(response.id)).output_text, "hello")
        await self.refused(NotFoundError, "conversation", self.respond("x", conversation=made.id))

    async def test_a_conversation_that_goes_while_a_turn_runs(self):
        made = await self.api.conversations.create()
        response = await self.respond("/sleep 500ms", conversation=made.id, background=True)
        await self.until(response.id, "in_progress")
        await self.api.conversations.delete(made.id)
        self.assertEqual((await self.ended(response.id)).output_text, "slept")
        await self.refused(NotFoundError, "conversation", self.api.conversations.retrieve(made.id))
