// What the tests of the OpenAI API share: the official client before the gateway under test, and how its tasks fare.
//
// PLUGWAY_URL   base of the gateway, as http://127.0.0.1:8080
// PLUGWAY_KEY   one of its keys
// PLUGWAY_MODEL the model that is the echo agent, in the end; "echo" if unset
// PLUGWAY_CIRCLE set if that is behind chat completions of another gateway, which show less: no tools of the agent's own, and
//               a failure only after it was asked for again
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import OpenAI from 'openai';

export const url = needed('PLUGWAY_URL').replace(/\/$/, '');
export const key = needed('PLUGWAY_KEY');
export const model = process.env.PLUGWAY_MODEL ?? 'echo';

function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}: PLUGWAY_URL is the gateway's address, PLUGWAY_KEY one of its auth.keys`);
  return value;
}

export const circle = Boolean(process.env.PLUGWAY_CIRCLE);

export const client = connect();
const operator = connect({ baseURL: url });

// Without retries, so that a test sees what came first.
export function connect(options = {}) {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 30_000, ...options });
}

// The state of the task behind a chat completion or a response.
export async function taskState(id) {
  const task = await operator.get(`/tasks/task_${id.replace(/^[a-z]+[-_]/, '')}`);
  return task.state;
}

// Asks again until the answer is the expected one; after the deadline the last answer fails the test.
export async function eventually(ask, expected, milliseconds = 5_000) {
  const until = performance.now() + milliseconds;
  let last;
  do {
    last = await ask();
    if (last === expected) return;
    await pause(20);
  } while (performance.now() < until);
  assert.equal(last, expected, `within ${milliseconds} ms`);
}

export async function all(iterable) {
  const list = [];
  for await (const one of iterable) list.push(one);
  return list;
}

// The error that a call ends with.
export async function refused(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  assert.fail(`it was answered: ${JSON.stringify(value)?.slice(0, 300)}`);
}
