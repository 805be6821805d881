// Vercel's AI SDK with its OpenAI provider: the other client that many programs are written with. By default it refers to the
// items of earlier responses by their ids, without previous_response_id.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAI } from '@ai-sdk/openai';
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import { key, model, url } from './openai.client.mjs';

const provider = createOpenAI({ baseURL: `${url}/v1`, apiKey: key });
const options = { default: {}, 'without store': { providerOptions: { openai: { store: false } } } };
const apis = { responses: provider.responses(model), chat: provider.chat(model) };

function weather(asked = []) {
  const parameters = jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'] });
  const execute = async ({ city }) => {
    asked.push(city);
    return `sunny in ${city}`;
  };
  return tool({ description: 'tells the weather', inputSchema: parameters, execute });
}

for (const [api, language] of Object.entries(apis)) {
  for (const [name, option] of Object.entries(options)) {
    test(`${api}, ${name}: turns go on from each other`, async () => {
      const ask = (messages) => generateText({ model: language, messages, maxRetries: 0, ...option });
      const messages = [{ role: 'user', content: 'hello' }];
      for (const words of ['again', 'and again']) {
        const { response } = await ask(messages);
        messages.push(...response.messages, { role: 'user', content: words });
      }
      assert.equal((await ask(messages)).text, 'and again');
    });

    test(`${api}, ${name}: tools are called and their results come back`, async () => {
      const asked = [];
      const prompt = '/call weather {"city":"Rome"}';
      const tools = { weather: weather(asked) };
      const result = await generateText({ model: language, prompt, tools, stopWhen: stepCountIs(3), maxRetries: 0, ...option });
      assert.deepEqual(asked, ['Rome']);
      assert.equal(result.steps.length, 2);
      assert.match(result.text, /sunny in Rome/);
      const streamed = streamText({ model: language, prompt, tools, stopWhen: stepCountIs(3), maxRetries: 0, ...option });
      assert.match(await streamed.text, /sunny in Rome/);
      assert.deepEqual(asked, ['Rome', 'Rome']);
    });
  }

  test(`${api}: a stream brings all words, and what they took`, async () => {
    const streamed = streamText({ model: language, prompt: '/words 40', maxRetries: 0 });
    let text = '';
    for await (const piece of streamed.textStream) text += piece;
    assert.equal(text, Array.from({ length: 40 }, (_, at) => `w${at + 1}`).join(' '));
    assert.equal(await streamed.finishReason, 'stop');
  });

  test(`${api}: an object of a schema`, async () => {
    const schema = jsonSchema({ type: 'object', properties: { a: { type: 'number' } }, required: ['a'] });
    const { object } = await generateObject({ model: language, schema, prompt: '{"a":1}', maxRetries: 0 });
    assert.deepEqual(object, { a: 1 });
  });

  test(`${api}: errors have their status`, async () => {
    const unknown = api === 'chat' ? provider.chat('none') : provider.responses('none');
    await assert.rejects(generateText({ model: unknown, prompt: 'x', maxRetries: 0 }), { statusCode: 404 });
  });
}
