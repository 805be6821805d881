// What an agent is told of a request, and of the turns before it: seen by a model server behind the gateway.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import OpenAI from 'openai';
import { key, skip, start } from './openai.gateway.mjs';

describe('an agent', { skip }, () => {
  const model = 'recorder';
  const seen = [];
  let gateway, client, hold;

  before(async () => {
    gateway = await start(model, async (body) => {
      seen.push(body);
      await hold;
      return `answer ${seen.length}`;
    });
    client = new OpenAI({ baseURL: gateway.base, apiKey: key, maxRetries: 0 });
  });
  after(() => gateway?.stop());

  const respond = (input, more = {}) => client.responses.create({ model, input, ...more });
  const told = () => seen.at(-1).messages.map((message) => [message.role, message.content]);

  test('is told all messages of a chat, the parts as they are', async () => {
    const parts = [
      { type: 'text', text: 'what is this' },
      { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA', detail: 'low' } },
      { type: 'file', file: { file_id: 'file_1' } },
    ];
    const messages = [
      { role: 'system', content: 'be kind' },
      { role: 'developer', content: 'be brief' },
      { role: 'user', content: 'first' },
      { role: 'assistant', content: 'second' },
      { role: 'user', content: parts },
    ];
    await client.chat.completions.create({ model, messages });
    assert.deepEqual(told(), [
      ['system', 'be kind\n\nbe brief'],
      ['user', 'first'],
      ['assistant', 'second'],
      ['user', parts],
    ]);
  });

  test('gets the sampling, the format, and the tools with their choice', async () => {
    const parameters = { type: 'object', properties: {} };
    const tools = [{ type: 'function', function: { name: 'f', description: 'd', parameters, strict: true } }];
    const tool_choice = { type: 'function', function: { name: 'f' } };
    const format = { type: 'json_schema', json_schema: { name: 's', schema: parameters, strict: true } };
    const sampling = { temperature: 0.5, top_p: 0.25, seed: 7, parallel_tool_calls: false };
    await client.chat.completions.create({
      model, tools, tool_choice, response_format: format, stop: ['x'], ...sampling, messages: [{ role: 'user', content: 'x' }],
    });
    const chat = seen.at(-1);
    await respond('x', {
      ...sampling,
      tools: [{ type: 'function', ...tools[0].function }],
      tool_choice: { type: 'function', name: 'f' },
      text: { format: { type: 'json_schema', ...format.json_schema } },
      max_output_tokens: 5,
    });
    const response = seen.at(-1);
    for (const body of [chat, response]) {
      assert.deepEqual(body.tools, tools);
      assert.deepEqual(body.tool_choice, tool_choice);
      assert.deepEqual(body.response_format, format);
      for (const [name, value] of Object.entries(sampling)) assert.equal(body[name], value, name);
    }
    assert.deepEqual(chat.stop, ['x']);
    assert.equal(response.max_completion_tokens, 5);
  });

  test('is told the turns before, and their instructions', async () => {
    const first = await respond('one', { instructions: 'be kind' });
    const second = await respond('two', { previous_response_id: first.id });
    assert.deepEqual(told(), [['system', 'be kind'], ['user', 'one'], ['assistant', first.output_text], ['user', 'two']]);
    await respond('three', { previous_response_id: second.id, instructions: 'be brief' });
    assert.deepEqual(told(), [
      ['system', 'be brief'], ['user', 'one'], ['assistant', first.output_text],
      ['user', 'two'], ['assistant', second.output_text], ['user', 'three'],
    ]);
    // Both go on from the first; neither knows of the other.
    await respond('other', { previous_response_id: first.id });
    assert.deepEqual(told().slice(-3), [['user', 'one'], ['assistant', first.output_text], ['user', 'other']]);
  });

  test('is told the last hundred messages where the rest may be left out', async () => {
    const input = Array.from({ length: 150 }, (_, n) => ({ role: n % 2 ? 'assistant' : 'user', content: `m${n}` }));
    input.push({ role: 'user', content: 'now' });
    await respond(input, { truncation: 'auto' });
    assert.equal(told().length, 100);
    assert.deepEqual(told().at(-1), ['user', 'now']);
    await respond(input);
    assert.equal(told().length, 151);
  });

  test('is told all items of a conversation, though turns come at once', async () => {
    const { id } = await client.conversations.create({ items: [{ type: 'message', role: 'user', content: 'before all' }] });
    const zero = await respond('zero', { conversation: id });
    await client.conversations.items.create(id, { items: [{ type: 'message', role: 'user', content: 'between' }] });
    let go;
    hold = new Promise((resolve) => (go = resolve));
    const count = seen.length;
    const first = respond('first', { conversation: id });
    for (; seen.length === count; ) await new Promise(setImmediate);
    // They join the line one after the other, while the first is under way.
    const second = respond('second', { conversation: id });
    await pause(300);
    const third = respond('third', { conversation: id });
    await pause(300);
    go();
    hold = undefined;
    const turns = [];
    for (const [asked, answer] of [['zero', zero], ['first', await first], ['second', await second], ['third', await third]]) {
      turns.push(['user', asked], ['assistant', answer.output_text]);
    }
    const expected = [['user', 'before all'], ...turns.slice(0, 2), ['user', 'between'], ...turns.slice(2)];
    assert.deepEqual(told(), expected.slice(0, -1));
    await respond('last', { conversation: id });
    assert.deepEqual(told(), [...expected, ['user', 'last']]);
  });
});
