// Bodies that no client should send, to both endpoints that take one: `node openai.fuzz.mjs` with PLUGWAY_URL and
// PLUGWAY_KEY. First every field with every wrong kind of value, then shapes that parsers fear, then random damage for
// PLUGWAY_FUZZ_SECONDS (10), from PLUGWAY_FUZZ_SEED (1). A fault is a 400 that names the field (404 for the model, 413 for
// what is too large); nothing is a 5xx, and no instance of a plugin traps. PLUGWAY_FUZZ_LOG names the gateway's log, if it
// can be read.
import { readFile } from 'node:fs/promises';
import { key, model, url } from './openai.client.mjs';

const seconds = Number(process.env.PLUGWAY_FUZZ_SECONDS ?? 10);
const seed = Number(process.env.PLUGWAY_FUZZ_SEED ?? 1);
const AT_ONCE = 16;

const schema = { type: 'object', properties: { city: { type: 'string' } } };
const bases = {
  'chat/completions': {
    model,
    messages: [
      { role: 'system', content: 'kind' },
      { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'image_url', image_url: { url: 'data:,', detail: 'low' } }] },
      {
        role: 'assistant',
        content: 'b',
        tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', tool_call_id: 'c', content: 'd' },
      { role: 'user', content: 'x', name: 'ann' },
    ],
    tools: [{ type: 'function', function: { name: 'f', description: 'e', parameters: schema, strict: false } }],
    tool_choice: { type: 'function', function: { name: 'f' } },
    response_format: { type: 'json_schema', json_schema: { name: 's', schema } },
    stream: true,
    stream_options: { include_usage: true },
    metadata: { a: 'b' },
    n: 1,
    stop: ['end'],
    temperature: 1,
    top_p: 1,
    frequency_penalty: 0,
    presence_penalty: 0,
    max_tokens: 10,
    max_completion_tokens: 10,
    seed: 1,
    parallel_tool_calls: true,
    reasoning_effort: 'low',
    user: 'u',
    logit_bias: {},
    logprobs: false,
    top_logprobs: 0,
    modalities: ['text'],
    store: false,
  },
  responses: {
    model,
    input: [
      { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'a' }, { type: 'input_image', image_url: 'data:,', detail: 'low' }] },
      { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
      { type: 'function_call_output', call_id: 'c', output: 'd' },
      { type: 'reasoning', id: 'rs_1', summary: [{ type: 'summary_text', text: 't' }] },
      { role: 'user', content: 'x' },
    ],
    instructions: 'kind',
    tools: [{ type: 'function', name: 'f', description: 'e', parameters: schema, strict: false }],
    tool_choice: { type: 'function', name: 'f' },
    text: { format: { type: 'json_schema', name: 's', schema }, verbosity: 'low' },
    reasoning: { effort: 'low', summary: 'auto' },
    metadata: { a: 'b' },
    truncation: 'auto',
    include: [],
    temperature: 1,
    top_p: 1,
    max_output_tokens: 10,
    max_tool_calls: 3,
    parallel_tool_calls: true,
    top_logprobs: 0,
    store: false,
    background: false,
    stream: false,
    user: 'u',
    safety_identifier: 's',
    prompt_cache_key: 'k',
    service_tier: 'auto',
  },
};

// Below these a value may be of any kind: it is the agent's business, or nobody's.
const OPAQUE = [/(^|\.)parameters\./, /(^|\.)schema\./, /^input\[3\]\.summary/];
// These may be left out, or be null.
const NEEDED = [
  /^messages$/, /^messages\[\d\]\.role$/, /^messages\[[014]\]\.content$/, /\.text$/, /\]\.type$/, /\.tool_call_id$/, /^input$/,
  /\.url$/, /\.image_url$/, /\.call_id$/, /\.name$/, /\.arguments$/, /\.output$/, /^tool_choice\.(type|function)$/, /\.json_schema$/,
  /^text\.format\.schema$/, /^messages\[2\]\.tool_calls\[0\]/, /^tools\[0\]\.function$/, /format\.type$/,
];
// Nulls that are as good as nothing, though the names match the above.
const SPARED = [/^input\[[04]\]\.type$/, /^messages\[4\]\.name$/, /^input\[1\]\.id$/, /\.tool_calls\[0\]\.type$/];

// Every place of a document, as the API names it.
function* places(value, path = '', steps = []) {
  if (path) yield { path, steps, value };
  if (Array.isArray(value)) {
    for (const [at, one] of value.entries()) yield* places(one, `${path}[${at}]`, [...steps, at]);
  } else if (value && typeof value === 'object') {
    for (const [name, one] of Object.entries(value)) yield* places(one, path ? `${path}.${name}` : name, [...steps, name]);
  }
}

const ABSENT = Symbol('absent');
function changed(document, steps, value) {
  const copy = structuredClone(document);
  let at = copy;
  for (const step of steps.slice(0, -1)) at = at[step];
  const last = steps.at(-1);
  if (value !== ABSENT) at[last] = value;
  else if (Array.isArray(at)) at.splice(last, 1);
  else delete at[last];
  return copy;
}

const kindOf = (value) => (value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value);
// Kinds that a field takes besides the one that it has.
function alsoTakes(path, kind) {
  if (/\.content$/.test(path)) return ['string', 'array'].includes(kind);
  if (/^(stop|input|\S*\.output)$/.test(path)) return ['string', 'array'].includes(kind);
  // A picture's address may stand alone.
  if (path === 'tool_choice' || /^messages\S*\.image_url$/.test(path)) return kind === 'string';
  return false;
}
const wrong = [true, -7.5, 'wrong', ['wrong'], { wrong: 1 }];

const faults = [];
let sent = 0;
const statuses = {};

async function post(endpoint, body, headers = {}) {
  sent += 1;
  const response = await fetch(`${url}/v1/${endpoint}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' || ArrayBuffer.isView(body) ? body : JSON.stringify(body),
    signal: AbortSignal.timeout(30_000),
  });
  const text = await response.text();
  statuses[response.status] = (statuses[response.status] ?? 0) + 1;
  let error = null;
  try {
    error = JSON.parse(text).error ?? null;
  } catch {
    error = null;
  }
  // A response or a stream that ended badly is an answer too.
  if (response.status === 200) error = null;
  return { status: response.status, text, error };
}

function fault(what, endpoint, body, answer) {
  const shown = ArrayBuffer.isView(body) ? Buffer.from(body).toString('latin1') : typeof body === 'string' ? body : JSON.stringify(body);
  faults.push(`${endpoint}: ${what}\n  sent ${shown.slice(0, 300)}\n  got  ${answer.status} ${answer.text.slice(0, 300)}`);
}

// What is true of every answer, whatever was sent. `named`: a 400 has to name the field.
function check(endpoint, body, answer, { named = true, allowed = [200, 400, 404, 413] } = {}) {
  const { status, error } = answer;
  if (!allowed.includes(status)) return fault(`status ${status}`, endpoint, body, answer);
  if (status === 200) return;
  if (!error || typeof error.message !== 'string' || error.type !== 'invalid_request_error') {
    return fault('no error of the API', endpoint, body, answer);
  }
  if (status === 400 && named && !error.param) fault('400 that names no field', endpoint, body, answer);
  if (status === 404 && !['model', 'previous_response_id', 'conversation'].includes(error.param)) {
    fault('404 of something else', endpoint, body, answer);
  }
}

const related = (param, path) => param === path || param?.startsWith(path) || path.startsWith(param ?? '?');

async function each(jobs, atOnce = AT_ONCE) {
  const queue = jobs[Symbol.iterator]();
  const worker = async () => {
    for (const job of queue) await job().catch((error) => faults.push(`no answer: ${error.stack}`));
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

// Every field, with every wrong kind of value.
function* kinds() {
  for (const [endpoint, base] of Object.entries(bases)) {
    yield async () => {
      const answer = await post(endpoint, base);
      if (answer.status !== 200) fault('the body to start from is refused', endpoint, base, answer);
    };
    for (const { path, steps, value } of places(base)) {
      if (OPAQUE.some((opaque) => opaque.test(path))) continue;
      for (const other of wrong) {
        if (kindOf(other) === kindOf(value) && kindOf(value) !== 'array') continue;
        if (alsoTakes(path, kindOf(other)) || (kindOf(value) === 'array' && kindOf(other) === 'array')) continue;
        const body = changed(base, steps, other);
        yield async () => {
          const answer = await post(endpoint, body);
          check(endpoint, body, answer);
          if (answer.status !== 400) fault(`${path} took a ${kindOf(other)}`, endpoint, body, answer);
          else if (!related(answer.error?.param, path)) fault(`param is not ${path}`, endpoint, body, answer);
        };
      }
      const isNeeded = NEEDED.some((needed) => needed.test(path)) && !SPARED.some((spared) => spared.test(path));
      for (const nothing of [null, ABSENT]) {
        if (typeof steps.at(-1) === 'number') continue;
        const body = changed(base, steps, nothing);
        yield async () => {
          const answer = await post(endpoint, body);
          check(endpoint, body, answer);
          if (isNeeded && answer.status !== 400) fault(`${path} may be missing`, endpoint, body, answer);
          const isText = nothing === null && path === 'metadata.a';
          if (answer.status === 400 && !isNeeded && !isText && !/stream|tool|messages|input/.test(path)) {
            fault(`${path} has to be there`, endpoint, body, answer);
          }
        };
      }
    }
  }
}

const nested = (depth) => '['.repeat(depth) + ']'.repeat(depth);

// Shapes that parsers fear.
function* shapes() {
  const plain = {
    'chat/completions': { model, messages: [{ role: 'user', content: 'x' }] },
    responses: { model, input: 'x' },
  };
  const exactly = (endpoint, body, status, headers) => async () => {
    const answer = await post(endpoint, body, headers);
    check(endpoint, body, answer, { named: false });
    if (answer.status !== status) fault(`not ${status}`, endpoint, body, answer);
  };
  for (const [endpoint, base] of Object.entries(plain)) {
    const json = JSON.stringify(base);
    const withField = (field) => `${json.slice(0, -1)},${field}}`;
    for (const body of [
      '', ' ', 'null', 'true', '0', '"text"', '[]', '[{}]', '{', '{"', '}', 'not json', json.slice(0, -1), `${json}x`, `${json}${json}`,
      `\ufeff${json}`, '{"model":}', "{'model':'echo'}", nested(200), nested(100_000), '{"a":'.repeat(50_000),
      withField('"temperature":NaN'), withField('"temperature":1e999'), withField('"seed":-'), withField('"user":"\\ud800"'),
      withField('"user":"\\x00"'), withField('"user":"a\nb"'), withField(`"metadata":${nested(5000)}`),
    ]) {
      yield exactly(endpoint, body, 400);
    }
    for (const bytes of [[0xff, 0xfe], [0x7b, 0x22, 0xc3, 0x28, 0x22, 0x3a, 0x31, 0x7d], [0x00], [0x1f, 0x8b, 0x08]]) {
      yield exactly(endpoint, Uint8Array.from(bytes), 400);
    }
    yield exactly(endpoint, Buffer.from(json.replace('"x"', '"\xff"'), 'latin1'), 400);
    yield exactly(endpoint, '{}', 400);
    // Fields whose numbers no machine holds.
    for (const field of [
      '"temperature":1e308', '"temperature":-1e308', '"top_p":1e18', '"n":1e30', '"n":0', '"n":-1', '"n":18446744073709551616',
      '"max_tokens":-2', '"max_tokens":1.5', '"max_completion_tokens":99999999999999999999999', '"max_output_tokens":1e20',
      '"max_output_tokens":-5', '"max_tool_calls":1.5', '"seed":1e300', '"top_logprobs":99999999999999999999', '"top_logprobs":20',
    ]) {
      const [, name] = /"(\w+)"/.exec(field);
      const known = endpoint === 'responses' ? !/^(n)$/.test(name) : !/^(max_output_tokens|max_tool_calls)$/.test(name);
      const body = withField(field);
      yield async () => {
        const answer = await post(endpoint, body);
        check(endpoint, body, answer);
        if (known && (answer.status !== 400 || answer.error?.param !== name)) fault(`${field} is taken`, endpoint, body, answer);
        if (!known && answer.status !== 200) fault('a field of nobody matters', endpoint, body, answer);
      };
    }
    // Strange texts are texts.
    for (const text of ['\u0000', '\u202e', '\ud83d\ude00', 'é'.repeat(1000), ' ', '\r\n', 'data: [DONE]\n\n', '/x\u0000y']) {
      for (const stream of [false, true]) {
        const body = endpoint === 'responses' ? { model, input: text, stream } : { model, messages: [{ role: 'user', content: text }], stream };
        yield exactly(endpoint, body, 200);
      }
    }
    // Nesting that a parser takes once, and that is put into documents with other depths.
    for (let depth = 100; depth <= 128; depth++) {
      const parameters = `{"a":${nested(depth)}}`;
      const tool =
        endpoint === 'responses'
          ? `"tools":[{"type":"function","name":"f","parameters":${parameters}}]`
          : `"tools":[{"type":"function","function":{"name":"f","parameters":${parameters}}}]`;
      for (const field of [tool, `"logit_bias":${parameters}`, `"unknown":${nested(depth)}`, `"metadata":${parameters}`]) {
        yield async () => {
          const body = withField(field);
          const answer = await post(endpoint, body);
          check(endpoint, body, answer, { named: false });
          if (endpoint !== 'responses' || answer.status !== 200) return;
          // What was taken can be read again.
          const { id } = JSON.parse(answer.text);
          const found = await fetch(`${url}/v1/responses/${id}`, { headers: { authorization: `Bearer ${key}` } });
          const text = await found.text();
          if (found.status !== 200) fault(`nested ${depth} deep: stored, and not read again`, endpoint, body, { status: found.status, text });
        };
      }
    }
    yield exactly(endpoint, { ...base, model: 'm'.repeat(100_000) }, 404);
    yield exactly(endpoint, { ...base, model: '../../etc' }, 404);
    yield exactly(endpoint, { ...base, user: 'u'.repeat(11 << 20) }, 413);
    // Within the body's limit, and over that of a task.
    const large = 'l'.repeat(3 << 20);
    const over = endpoint === 'responses' ? { model, input: large } : { model, messages: [{ role: 'user', content: large }] };
    yield async () => {
      const answer = await post(endpoint, over);
      check(endpoint, over, answer, { allowed: [400, 413] });
    };
    yield exactly(endpoint, { ...base, metadata: Object.fromEntries(Array.from({ length: 17 }, (_, n) => [`k${n}`, 'v'])) }, 400);
    yield exactly(endpoint, { ...base, metadata: { ['k'.repeat(65)]: 'v' } }, 400);
    yield exactly(endpoint, { ...base, metadata: { k: 'v'.repeat(513) } }, 400);
    yield exactly(endpoint, { ...base, metadata: { session: 's'.repeat(257) } }, 400);
    yield exactly(endpoint, base, 400, { 'idempotency-key': 'k'.repeat(256) });
    yield exactly(endpoint, base, 400, { 'x-openwebui-chat-id': 'k'.repeat(257) });
  }
  for (const conversation of ['', 'a/b', 'c'.repeat(201), '\u0000', { id: 5 }, {}, [], 5]) {
    yield exactly('responses', { model, input: 'x', conversation }, 400);
  }
  yield exactly('responses', { model, input: 'x', conversation: 'conv_unknown' }, 404);
  for (const id of ['resp_', 'x', '\u0000', 'r'.repeat(10_000)]) {
    yield exactly('responses', { model, input: 'x', previous_response_id: id }, 404);
  }
}

// Bodies that take a parser many times their size. They come last, one by one: what falls over here takes the rest along.
function* dense() {
  const plain = {
    'chat/completions': { model, messages: [{ role: 'user', content: 'x' }] },
    responses: { model, input: 'x' },
  };
  for (const [endpoint, base] of Object.entries(plain)) {
    const json = JSON.stringify(base);
    const list = (value, size) => `[${`${value},`.repeat(size / (value.length + 1))}0]`;
    for (const value of ['0', '[]', '{"":0}', '""']) {
      for (const size of [1 << 20, 4 << 20, 9 << 20]) {
        for (const name of ['unknown', 'tools', 'stop', 'include']) {
          const body = `${json.slice(0, -1)},"${name}":${list(value, size)}}`;
          yield async () => check(endpoint, body, await post(endpoint, body), { named: false });
        }
      }
    }
    const names = Array.from({ length: 400_000 }, (_, n) => `"k${n}":0`).join();
    const many = `${json.slice(0, -1)},${names}}`;
    yield async () => check(endpoint, many, await post(endpoint, many), { named: false });
    for (const megabytes of [3, 6, 9]) {
      const image = `data:image/png;base64,${'A'.repeat(megabytes << 20)}`;
      const content =
        endpoint === 'responses'
          ? [{ type: 'input_text', text: 'x' }, { type: 'input_image', image_url: image }]
          : [{ type: 'text', text: 'x' }, { type: 'image_url', image_url: { url: image } }];
      const body = { model, [endpoint === 'responses' ? 'input' : 'messages']: [{ role: 'user', content }] };
      yield async () => check(endpoint, body, await post(endpoint, body), { allowed: [400, 413] });
    }
  }
}

function random(state) {
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

// Random damage: of documents, then of their bytes.
function* damage() {
  const pick = random(seed);
  const one = (list) => list[pick(list.length)];
  const values = [
    ABSENT, null, true, false, 0, -1, 1.5, 1e308, 2 ** 53, '', 'x', '\u0000', 'user', 'tool', 'function', 'system', 'assistant',
    [], {}, [[]], [null], [{}], { type: 'text' }, { type: 'function' }, { role: 'user', content: 'x' },
    { type: 'item_reference', id: 'x' }, { type: 'function_call_output', call_id: 'c', output: [] }, 'k'.repeat(5000),
    Array(300).fill({ role: 'user', content: 'x' }),
  ];
  const until = performance.now() + seconds * 1000;
  while (performance.now() < until) {
    const [endpoint, base] = one(Object.entries(bases));
    let body = structuredClone(base);
    for (let times = 1 + pick(4); times > 0; times--) {
      const all = [...places(body)];
      if (all.length === 0) break;
      const { steps, value } = one(all);
      const other = pick(4) === 0 ? structuredClone(one(all).value) : one(values);
      // What is large is another matter: see `dense`.
      if (JSON.stringify(body).length > 100_000) break;
      body = changed(body, steps, pick(5) === 0 && Array.isArray(value) ? [...value, ...value] : other);
    }
    if (pick(4) > 0) {
      yield async () => check(endpoint, body, await post(endpoint, body));
      continue;
    }
    const bytes = Buffer.from(JSON.stringify(body));
    for (let times = 1 + pick(3); times > 0; times--) bytes[pick(bytes.length)] = pick(256);
    yield async () => check(endpoint, bytes, await post(endpoint, bytes), { named: false });
  }
}

// Failures of plugins, as the metrics count them.
async function failures() {
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${key}` } });
  const lines = (await response.text()).split('\n');
  return lines.filter((line) => line.startsWith('plugway_plugin_failures_total{')).sort().join('\n');
}

const before = await failures();
const logged = async () => (process.env.PLUGWAY_FUZZ_LOG ? (await readFile(process.env.PLUGWAY_FUZZ_LOG, 'utf8')).length : 0);
const logBefore = await logged();
await each(kinds());
await each(shapes());
await each(damage());
await each(dense(), 1);
const now = await failures();
if (now !== before) faults.push(`plugins failed:\n${now}`);
if (process.env.PLUGWAY_FUZZ_LOG) {
  const log = (await readFile(process.env.PLUGWAY_FUZZ_LOG, 'utf8')).slice(logBefore);
  const bad = log.split('\n').filter((line) => /\btrap|panick| ERROR /i.test(line));
  if (bad.length) faults.push(`the log has ${bad.length} lines of traps and errors:\n${bad.slice(0, 10).join('\n')}`);
}
console.log(`${sent} requests, seed ${seed}, answers ${JSON.stringify(statuses)}`);
for (const one of faults.slice(0, Number(process.env.PLUGWAY_FUZZ_SHOW ?? 40))) console.error(one);
if (faults.length) console.error(`${faults.length} faults`);
process.exitCode = faults.length ? 1 : 0;
