// A gateway of one's own before a model server that a test writes: from PLUGWAY_BIN and PLUGWAY_PLUGINS, on ports and in
// directories of their own.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

const { PLUGWAY_BIN: bin, PLUGWAY_PLUGINS: plugins } = process.env;
export const skip = !bin || !plugins ? 'set PLUGWAY_BIN and PLUGWAY_PLUGINS' : false;
export const key = 'a-key-of-tests-of-their-own';

// `answer` is told the body of each request to the model server, and gives a status of a refusal, or a text.
export async function start(agent, answer, settings = '') {
  const server = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const said = await answer(JSON.parse(Buffer.concat(parts).toString()));
    if (typeof said === 'number') {
      response.writeHead(said, { 'content-type': 'application/json' });
      return response.end(JSON.stringify({ error: { message: 'not now', type: 'rate_limit_error' } }));
    }
    const chunk = (delta, finish_reason) =>
      `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(`${chunk({ role: 'assistant', content: said }, null)}${chunk({}, 'stop')}data: [DONE]\n\n`);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const directory = await mkdtemp(join(tmpdir(), 'plugway-node-'));
  const config = join(directory, 'plugway.toml');
  const base_url = `http://127.0.0.1:${server.address().port}/v1`;
  await writeFile(
    config,
    `[auth]\nkeys = ["${key}"]\n${settings}\n[agents.${agent}]\nkind = "openai"\nbase_url = "${base_url}"\nmodel = "any"\n`,
  );
  const args = ['--listen', '127.0.0.1:0', '--data-dir', join(directory, 'data'), '--plugins-dir', plugins];
  const gateway = spawn(bin, ['serve', ...args, '--config', config], { stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = () => gateway.kill('SIGKILL');
  process.once('exit', kill);
  let log = '';
  gateway.stderr.on('data', (data) => (log += data));
  const address = await new Promise((found, failed) => {
    createInterface(gateway.stdout).on('line', (line) => {
      log += `${line}\n`;
      const match = /^listening on (http\S+)/.exec(line);
      if (match) found(match[1]);
    });
    gateway.once('exit', () => failed(new Error(`the gateway ended:\n${log}`)));
  });
  for (const until = Date.now() + 30_000; ; await pause(50)) {
    const ready = await fetch(new URL('/ready', address)).catch(() => null);
    if (ready?.ok) break;
    assert.ok(Date.now() < until, `the gateway is not ready:\n${log}`);
  }
  const stop = async () => {
    if (gateway.exitCode === null) {
      kill();
      await once(gateway, 'exit');
    }
    process.off('exit', kill);
    server.closeAllConnections();
    server.close();
    await rm(directory, { recursive: true, force: true });
  };
  return { base: `${address}/v1`, stop };
}
