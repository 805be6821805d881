// An IDE in a terminal: npm install ws, then node chat.mjs SESSION. A connection that is lost is gone on with.

import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import WebSocket from 'ws';

const { PLUGWAY_URL = 'ws://127.0.0.1:8080', PLUGWAY_KEY } = process.env;
const session = process.argv[2] ?? `session-${Date.now()}`;
const tools = { read_file: ({ path }) => readFile(path, 'utf8') };
let socket, cursor = '';

async function send(frame) {
  while (socket.readyState !== WebSocket.OPEN) await pause(100);
  socket.send(JSON.stringify(frame));
}

async function heard(frame) {
  cursor = frame.cursor ?? cursor;
  if (frame.token) process.stdout.write(frame.token);
  if (frame.type === 'error') console.error(frame.content ?? frame.error);
  if (frame.type === 'done') process.stdout.write('\n> ');
  if (frame.type === 'tool_call') {
    // Sent twice it is one turn: the frame's cursor is its own.
    const result = { type: 'tool_result', call_id: frame.call_id, idempotency_key: frame.cursor };
    try {
      await send({ ...result, result: await tools[frame.tool_name](frame.arguments) });
    } catch (error) {
      await send({ ...result, error: String(error) });
    }
  }
}

function connect() {
  const headers = PLUGWAY_KEY ? { authorization: `Bearer ${PLUGWAY_KEY}` } : {};
  socket = new WebSocket(`${PLUGWAY_URL}/ws/${session}?cursors=true&after=${cursor}`, { headers });
  socket.on('message', (text) => heard(JSON.parse(text)));
  socket.on('error', (error) => console.error(error.message));
  socket.on('close', () => setTimeout(connect, 1000));
}

connect();
createInterface({ input: process.stdin }).on('line', (content) => send({ type: 'user_message', content }));
