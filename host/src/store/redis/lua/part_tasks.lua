-- The end of a task, and telling of its events. Needs part_outbox.

-- Tells those who watch a task of its events: attempt, session, and a sequence number and a text for each.
local function publish(id, attempt, session, events)
  local parts = { attempt, ' ', #session, ' ', session }
  for i = 1, #events, 2 do
    parts[#parts + 1] = events[i] .. ' ' .. #events[i + 1] .. ' '
    parts[#parts + 1] = events[i + 1]
  end
  call('PUBLISH', P .. ':task:' .. id, table.concat(parts))
end

-- Ends a task: its delivery's moment has come, and the next turn's. `event` is the terminal event as the log keeps it,
-- `bytes` the length of its data.
local function end_task(id, n, session, delivery, state, ended_ms, attempt, seq, event, bytes)
  local task = task_key(id)
  call('HSET', task, 'state', state, 'ended', ended_ms, 'end_attempt', attempt, 'end_seq', seq,
    'size', call('STRLEN', input_key(id)) + bytes)
  call('SET', end_key(id), event)
  call('ZREM', open_key(session), id)
  if state == T.completed then call('ZADD', completed_key(session), n, id) end
  call('ZADD', P .. ':ended', wall, id)
  call('ZADD', P .. ':logs', wall, id)
  if delivery then reached(delivery, END) end
  local first = call('ZRANGE', open_key(session), 0, 0, 'WITHSCORES')
  if first[1] and call('HGET', task_key(first[1]), 'state') == T.waiting then make_ready(first[1], first[2]) end
  publish(id, attempt, session, { seq, event })
end
