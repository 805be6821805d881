// An agent that calls a tool of ours: npm install openai, then node tools.mjs.

import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: `${process.env.PLUGWAY_URL ?? 'http://127.0.0.1:8080'}/v1`,
  apiKey: process.env.PLUGWAY_KEY ?? 'none is needed on a loopback address',
});
const tools = [{
  type: 'function',
  name: 'weather',
  description: 'The weather of a city',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
}];
const weather = ({ city }) => `sunny in ${city}`;

const model = process.argv[2] ?? 'echo';
// The echo agent calls what it is told to call; a model decides by itself.
const input = model === 'echo' ? '/call weather {"city": "Rome"}' : 'What is the weather in Rome?';
let response = await client.responses.create({ model, tools, input });
for (;;) {
  const calls = response.output.filter((item) => item.type === 'function_call');
  if (calls.length === 0) break;
  const results = calls.map((call) => ({
    type: 'function_call_output', call_id: call.call_id, output: weather(JSON.parse(call.arguments)),
  }));
  response = await client.responses.create({ model, tools, input: results, previous_response_id: response.id });
}
console.log(response.output_text);
