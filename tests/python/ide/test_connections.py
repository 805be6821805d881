"""Connections that share a session, that stop its turns, and that take the place of one that was cut."""

import asyncio
import random
import unittest

from session import CUTS, DONE, Suite, ends, error, new_session, said

CANCELLED = {
    "type": "done",
    "is_final": True,
    "metadata": {"finish_reason": "cancelled", "reason": "cancelled by the adapter"},
}


class Connections(Suite):
    async def test_all_connections_of_a_session_see_the_same(self):
        session = new_session()
        ides = [await self.connect(session) for _ in range(3)]
        expected = [*said("from the first"), DONE, *said("from the second"), DONE]
        await ides[0].ask("from the first")
        begun = [await ides[1].frame()]
        await ides[1].ask("from the second")
        for ide, seen in zip(ides, [[], begun, []]):
            self.assertEqual(seen + await ide.turn() + await ide.turn(), expected)

    async def test_a_new_connection_sees_what_is_new_or_all_that_there_is(self):
        session = new_session()
        ide = await self.connect(session)
        await ide.ask("old")
        await ide.turn()
        later, whole = await self.connect(session), await self.connect(session, query="?after=")
        await later.ask("new")
        self.assertEqual(await later.turn(), [*said("new"), DONE])
        self.assertEqual(await whole.turn(), [*said("old"), DONE])
        self.assertEqual(await whole.turn(), [*said("new"), DONE])

    async def test_cancel_ends_what_runs_and_what_waits(self):
        session = new_session()
        ide, other = await self.connect(session), await self.connect(session)
        await ide.ask("/say working", "/silent")
        await ide.ask("waits")
        self.assertEqual([await ide.frame(), await ide.frame()], said("working"))
        await other.send({"type": "cancel"})
        self.assertEqual(await ide.turn() + await ide.turn(), [CANCELLED, CANCELLED])
        await ide.ask("goes on")
        self.assertEqual(await ide.turn(), [*said("goes on"), DONE])
        states = [(one["message"]["content"], one["state"]) for one in await self.asked(session)]
        self.assertEqual(states[0], ("/say working\n/silent", "gone"), "the runtime hears of it")
        self.assertEqual(len(states), 2, "what waited never reached it")

    async def test_the_same_idempotency_key_is_the_same_turn(self):
        session = new_session()
        frame = {"type": "user_message", "content": "once", "idempotency_key": "k1"}
        first = await self.connect(session)
        await first.send(frame)
        first.cut()
        ide = await self.connect(session, query="?after=")
        await ide.send(frame)
        await ide.ask("twice")
        self.assertEqual(await ide.turn() + await ide.turn(), [*said("once"), DONE, *said("twice"), DONE])

    async def test_a_cursor_that_leads_nowhere_is_an_error_and_what_is_new_follows(self):
        elsewhere = await self.connect(new_session(), query="?cursors=true")
        await elsewhere.ask("hi")
        foreign = (await elsewhere.turn())[-1]["cursor"]
        for after in (foreign, "nonsense", "~~"):
            ide = await self.connect(new_session(), query=f"?after={after}")
            first = await ide.frame()
            self.assertEqual(first["type"], "error")
            self.assertRegex(first["content"], "^Streaming error: after: .+; only what is new follows$")
            await ide.ask("new")
            self.assertEqual(await ide.turn(), [*said("new"), DONE])

    async def test_without_cursors_there_are_none_and_with_them_every_frame_has_one(self):
        session = new_session()
        ide, plain = await self.connect(session, query="?cursors=true"), await self.connect(session)
        await ide.ask("/say so", "/error oops", "/done")
        frames = await ide.turn()
        await ide.send({"type": "x"})
        frames.append(await ide.frame())
        self.assertEqual(frames[-1], {**error("Unknown message type: x"), "cursor": frames[-2]["cursor"]})
        cursors = [frame.pop("cursor") for frame in frames[:-1]]
        self.assertEqual(len(set(cursors)), len(cursors))
        self.assertEqual(await plain.turn(), frames[:-1])


class Cuts(Suite):
    async def test_wherever_a_connection_is_cut_no_frame_is_lost_or_doubled(self):
        session, turns = new_session(), max(4, CUTS // 10)
        asking = asyncio.create_task(self.ask(session, turns))
        chance = random.Random(20)
        frames, cursor, cuts, ended = [], "", 0, 0
        while ended < turns:
            ide = await self.connect(session, query=f"?cursors=true&after={cursor}")
            takes = chance.randint(0, 3) if cuts < CUTS else None
            while ended < turns and takes != 0:
                frame = await ide.frame()
                cursor = frame.pop("cursor")
                frames.append(frame)
                ended += frame["type"] == "done" or ends(frame)
                takes = takes and takes - 1
            # Now and then what is on its way is lost with it.
            await asyncio.sleep(chance.choice((0, 0, 0.005)))
            ide.cut()
            cuts += 1
        await asking
        whole = await self.connect(session, query="?after=")
        self.assertEqual(frames, [frame for _ in range(turns) for frame in await whole.turn()])
        self.assertGreaterEqual(cuts, CUTS)

    async def ask(self, session, turns):
        for turn in range(turns):
            ide = await self.connect(session)
            steps = [f"/say {turn} " + " ".join("abcdefghij"), "/wait 0.02", '/tool read {"path": "a"}']
            await ide.ask(*steps, *steps, "/cut" if turn % 5 == 4 else "/done")
            await ide.socket.close()


if __name__ == "__main__":
    unittest.main()
