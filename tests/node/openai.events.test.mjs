// The exact events of a response stream with one message and two tool calls: openai.events.json. Ids and times are put into
// one form, so that the same one is the same everywhere. PLUGWAY_SNAPSHOT=write writes the file anew.
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import { all, client, model } from './openai.client.mjs';

const file = new URL('openai.events.json', import.meta.url);

// Every id becomes its kind and number; every time that stands for a moment is 0.
function normalised(events) {
  const ids = new Map();
  const counts = {};
  const named = (id) => {
    if (!ids.has(id)) {
      const kind = id.split('_')[0];
      counts[kind] = (counts[kind] ?? 0) + 1;
      ids.set(id, `${kind}_${counts[kind]}`);
    }
    return ids.get(id);
  };
  const plain = (name, value) => {
    if (['created_at', 'completed_at'].includes(name) && Number.isInteger(value)) return 0;
    if (name === 'model' && value === model) return 'echo';
    return /^(resp|rs|msg|fc|call)_[0-9a-zA-Z_]+$/.test(value) && typeof value === 'string' ? named(value) : value;
  };
  const sorted = (value) =>
    value && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value;
  return JSON.parse(JSON.stringify(events, (name, value) => sorted(plain(name, value))));
}

test('a response stream with a message and two calls has these events', async () => {
  const tool = (name) => ({ type: 'function', name, parameters: { type: 'object', properties: {} }, strict: false });
  const stream = await client.responses.create({
    model,
    input: '/call weather {"city":"Rome"}\nclock {"zone": "CET"}',
    tools: [tool('weather'), tool('clock')],
    instructions: 'be kind',
    metadata: { purpose: 'snapshot' },
    stream: true,
  });
  const events = normalised(await all(stream));
  if (process.env.PLUGWAY_SNAPSHOT === 'write') await writeFile(file, `${JSON.stringify(events, null, 1)}\n`);
  const expected = JSON.parse(await readFile(file, 'utf8'));
  assert.deepEqual(
    events.map((event) => [event.sequence_number, event.type]),
    expected.map((event) => [event.sequence_number, event.type]),
  );
  assert.deepEqual(events, expected);
});
