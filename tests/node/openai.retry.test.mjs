// What the official client does when the gateway, or the model server behind it, is too busy.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import OpenAI from 'openai';
import { key, skip, start } from './openai.gateway.mjs';

describe('a busy gateway', { skip }, () => {
  // What the model server refuses with, one after the other; then it answers.
  const answers = [];
  let gateway, base;

  before(async () => {
    gateway = await start('busy', () => answers.shift() ?? 'at last', '[workers]\ncount = 1\nqueue = 1\n');
    base = gateway.base;
  });
  after(() => gateway?.stop());

  // A client that notes the answers that it gets.
  function watched(maxRetries, seen = [], noted = () => {}) {
    const watching = async (...request) => {
      const response = await fetch(...request);
      seen.push({ status: response.status, retryAfter: response.headers.get('retry-after') });
      await noted(response);
      return response;
    };
    return new OpenAI({ baseURL: base, apiKey: key, maxRetries, fetch: watching });
  }

  test('whose queue is full is asked again after the time that it names', async () => {
    const plain = watched(0);
    const sleep = () => plain.responses.create({ model: 'echo', input: '/sleep 60s', background: true });
    const running = await sleep();
    while ((await plain.responses.retrieve(running.id)).status !== 'in_progress');
    const queued = await sleep();
    const create = (client) => client.chat.completions.create({ model: 'echo', messages: [{ role: 'user', content: 'hello' }] });
    await assert.rejects(create(plain), (error) => {
      assert.ok(error instanceof OpenAI.InternalServerError);
      assert.equal(error.status, 503);
      assert.match(error.headers.get('retry-after'), /^[1-9]\d*$/);
      assert.match(error.requestID, /^req_/);
      return true;
    });
    await assert.rejects(plain.responses.create({ model: 'echo', input: 'hello', stream: true }), { status: 503 });
    const seen = [];
    const patient = watched(2, seen, async (response) => {
      if (response.status !== 503) return;
      await plain.responses.cancel(queued.id);
      await plain.responses.cancel(running.id);
    });
    const answer = await create(patient);
    assert.equal(answer.choices[0].message.content, 'hello');
    assert.deepEqual(seen.map((one) => one.status), [503, 200]);
    assert.match(seen[0].retryAfter, /^[1-9]\d*$/);
  });

  test('hands on that its model server turned it away', async () => {
    const create = (client) => client.chat.completions.create({ model: 'busy', messages: [{ role: 'user', content: 'hello' }] });
    answers.push(...Array(10).fill(429));
    await assert.rejects(create(watched(0)), (error) => {
      assert.ok(error instanceof OpenAI.RateLimitError, error.stack);
      assert.equal(error.status, 429);
      assert.match(error.headers.get('retry-after'), /^[1-9]\d*$/);
      return true;
    });
    const seen = [];
    const answer = await create(watched(2, seen, () => void answers.splice(0)));
    assert.equal(answer.choices[0].message.content, 'at last');
    assert.deepEqual(seen.map((one) => one.status), [429, 200]);
  });
});

describe('a gateway with a limit', { skip }, () => {
  let gateway, client;

  before(async () => {
    gateway = await start('limited', () => 'an answer', '[plugins.openai.config]\nrequests_per_minute = 2\n');
    client = new OpenAI({ baseURL: gateway.base, apiKey: key, maxRetries: 0 });
  });
  after(() => gateway?.stop());

  test('tells what is left, and when one too many may come back', async () => {
    const left = (headers) => ['limit', 'remaining'].map((name) => headers.get(`x-ratelimit-${name}-requests`));
    const messages = [{ role: 'user', content: 'hello' }];
    const { response } = await client.chat.completions.create({ model: 'limited', messages }).withResponse();
    assert.deepEqual(left(response.headers), ['2', '1']);
    const streamed = await client.responses.create({ model: 'limited', input: 'hello', stream: true }).withResponse();
    for await (const event of streamed.data) assert.notEqual(event.type, 'error');
    assert.deepEqual(left(streamed.response.headers), ['2', '0']);
    await assert.rejects(client.responses.create({ model: 'limited', input: 'hello' }), (error) => {
      assert.ok(error instanceof OpenAI.RateLimitError, error.stack);
      assert.deepEqual(left(error.headers), ['2', '0']);
      const seconds = Number(error.headers.get('retry-after'));
      assert.ok(seconds > 30 && seconds <= 60, `${seconds}`);
      assert.match(error.headers.get('x-ratelimit-reset-requests'), /^(5\d(\.\d+)?s|1m0s)$/);
      return true;
    });
    assert.equal((await client.models.list()).data.length > 0, true);
  });
});
