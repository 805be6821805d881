// A scripted IDE before an agent runtime, with the package `ws`: `node --test ide.test.mjs` with PLUGWAY_URL and PLUGWAY_KEY.
// The gateway and the runtime behind it are those of tests/python/ide/gateway.toml.
//
// PLUGWAY_TOOL_SECONDS  how long a tool takes that takes long; 60 if unset
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import WebSocket from 'ws';

const url = needed('PLUGWAY_URL').replace(/\/$/, '').replace('http', 'ws');
const key = needed('PLUGWAY_KEY');
const toolSeconds = Number(process.env.PLUGWAY_TOOL_SECONDS ?? 60);
const deadline = 30_000;
const done = { type: 'done', is_final: true };
const paths = ['/ws', '/api/v1/ws'];

function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}: PLUGWAY_URL is the gateway's address, PLUGWAY_KEY one of its auth.keys`);
  return value;
}

class Ide {
  constructor(session, { path = paths[0], query = '' } = {}) {
    this.socket = new WebSocket(`${url}${path}/${session}${query}`, { headers: { authorization: `Bearer ${key}` } });
    this.frames = [];
    this.socket.on('message', (data, binary) => this.frames.push(binary ? data : JSON.parse(data)));
    this.socket.on('error', (error) => (this.error = error));
  }

  static async connect(t, session, options) {
    const ide = new Ide(session, options);
    t.after(() => ide.socket.terminate());
    await once(ide.socket, 'open', { signal: AbortSignal.timeout(deadline) });
    return ide;
  }

  send(frame) {
    const raw = typeof frame === 'string' || Buffer.isBuffer(frame);
    this.socket.send(raw ? frame : JSON.stringify(frame));
  }

  ask(...lines) {
    this.send({ type: 'user_message', role: 'user', content: lines.join('\n') });
  }

  async frame() {
    for (const until = Date.now() + deadline; this.frames.length === 0; await pause(2)) {
      assert.ok(Date.now() < until && !this.error, `no frame came: ${this.error ?? 'too late'}`);
    }
    return this.frames.shift();
  }

  // All frames up to the one that ends the turn.
  async turn() {
    const frames = [await this.frame()];
    while (!ends(frames.at(-1))) frames.push(await this.frame());
    return frames;
  }
}

const ends = (frame) =>
  frame.type === 'done' || (frame.type === 'error' && /^(Agent|Streaming) error: /.test(frame.content ?? ''));
const error = (content) => ({ type: 'error', content });
const said = (text) => [
  ...text.split(/(?<= )/).map((token) => ({ type: 'assistant_message', token, is_final: false })),
  { type: 'assistant_message', content: text, is_final: true },
];
const call = (tool_name, args) => ({
  type: 'tool_call',
  call_id: `call_${tool_name}`,
  tool_name,
  arguments: args,
  requires_approval: false,
  is_final: true,
});

for (const path of paths) {
  test(`a session from the message to the end at ${path}`, async (t) => {
    const ide = await Ide.connect(t, randomUUID(), { path });
    ide.ask('/say let me see', '/tool read_file {"path": "a.txt", "range": null}', '/done');
    // What is null in a frame is left out; what is null among a tool's arguments is not.
    const read = call('read_file', { path: 'a.txt', range: null });
    assert.deepEqual(await ide.turn(), [...said('let me see'), read, done]);
    ide.send({ type: 'tool_result', call_id: 'call_read_file', result: 'one line' });
    assert.deepEqual(await ide.turn(), [...said('call_read_file: one line'), done]);
    ide.send({ type: 'switch_agent', agent_type: 'coder', content: 'write', reason: 'code' });
    const metadata = { from_agent: 'orchestrator', to_agent: 'coder', reason: 'code' };
    assert.deepEqual(await ide.turn(), [{ type: 'agent_switched', content: 'now coder', metadata }, done]);
    ide.send({ type: 'hitl_decision', call_id: 'call_read_file', decision: 'reject', feedback: 'not that' });
    assert.deepEqual(await ide.turn(), [...said('reject'), done]);
  });

  test(`without a key nobody comes in at ${path}`, async () => {
    const socket = new WebSocket(`${url}${path}/${randomUUID()}`);
    socket.on('error', () => {});
    const [, response] = await once(socket, 'unexpected-response', { signal: AbortSignal.timeout(deadline) });
    assert.equal(response.statusCode, 401);
    socket.terminate();
  });
}

test('every fault has its sentence, and the connection stays open', async (t) => {
  const ide = await Ide.connect(t, randomUUID());
  const faults = [
    [{ type: 'x' }, 'Unknown message type: x'],
    ['hello', 'Invalid JSON message: expected value at line 1 column 1'],
    [Buffer.from([0, 255]), 'Invalid JSON message: the frame is binary, and must be text'],
    [{ type: 'user_message' }, 'Invalid JSON message: content: is missing'],
    [{ type: 'tool_result', result: 1 }, 'Invalid JSON message: call_id: is missing'],
  ];
  for (const [frame, content] of faults) {
    ide.send(frame);
    assert.deepEqual(await ide.frame(), error(content));
  }
  ide.ask('/status 500 broken');
  assert.deepEqual(await ide.turn(), [error('Agent error: 500')]);
  ide.ask('/say so far', '/cut');
  const frames = await ide.turn();
  assert.match(frames.pop().content, /^Streaming error: ./);
  assert.deepEqual(frames, said('so far'));
  ide.ask('still here');
  assert.deepEqual(await ide.turn(), [...said('still here'), done]);
});

test('a connection goes on where another one broke off, and sees what it did not begin', async (t) => {
  const session = randomUUID();
  const first = await Ide.connect(t, session, { query: '?cursors=true' });
  first.ask(`/say ${'word '.repeat(20)}end`, '/wait 0.5', '/say more', '/done');
  const before = [await first.frame(), await first.frame()];
  first.socket.terminate();
  const { cursor } = before.at(-1);
  const second = await Ide.connect(t, session, { query: `?cursors=true&after=${cursor}` });
  const frames = [...before, ...(await second.turn())].map(({ cursor, ...frame }) => frame);
  assert.deepEqual(frames, [...said(`${'word '.repeat(20)}end`), ...said('more'), done]);
});

test('a tool that takes long blocks nobody', async (t) => {
  const slow = await Ide.connect(t, randomUUID());
  const other = await Ide.connect(t, randomUUID());
  slow.ask('/tool build {"all": true}', '/done');
  assert.deepEqual(await slow.turn(), [call('build', { all: true }), done]);
  const until = Date.now() + toolSeconds * 1000;
  do {
    for (const ide of [slow, other]) {
      ide.ask('meanwhile');
      assert.deepEqual(await ide.turn(), [...said('meanwhile'), done]);
    }
    await pause(200);
  } while (Date.now() < until);
  slow.send({ type: 'tool_result', call_id: 'call_build', result: 'built' });
  assert.deepEqual(await slow.turn(), [...said('call_build: built'), done]);
});
