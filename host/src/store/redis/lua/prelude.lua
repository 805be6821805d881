-- What all scripts share. KEYS[1] is `{prefix}`: every key begins with it, so that all are in one slot of a cluster.
-- ARGV[1] and ARGV[2] are the wall clock and the steady time in milliseconds; empty, Redis' own time is both.
local P, call = KEYS[1], redis.call
local wall, steady = tonumber(ARGV[1]), tonumber(ARGV[2])
if not wall then
  local now = call('TIME')
  wall = now[1] * 1000 + math.floor(now[2] / 1000)
  steady = wall
end
local META, READY, RUNNING = P .. ':meta', P .. ':ready', P .. ':running'
local T = { waiting = '0', ready = '1', running = '2', completed = '3', failed = '4', cancelled = '5' }
local D = { held = '0', waiting = '1', ready = '2', leased = '3', done = '4', dead = '5' }
local START, END = 0, 1
local tasks_woken, deliveries_woken = false, false

local function task_key(id) return P .. ':t:' .. id end
local function input_key(id) return P .. ':i:' .. id end
local function end_key(id) return P .. ':e:' .. id end
local function log_key(id) return P .. ':l:' .. id end
local function open_key(session) return P .. ':so:' .. session end
local function session_key(session) return P .. ':s:' .. session end
local function completed_key(session) return P .. ':sc:' .. session end
local function known_key(adapter, key) return P .. ':k:' .. #adapter .. ':' .. adapter .. ':' .. key end
local function delivery_key(id) return P .. ':d:' .. id end
local function body_key(id) return P .. ':b:' .. id end
local function lane_key(lane) return P .. ':lane:' .. lane end
local function sent_key(owner, key) return P .. ':w:' .. #owner .. ':' .. owner .. ':' .. key end
local function entry_key(owner, key) return P .. ':v:' .. #owner .. ':' .. owner .. ':' .. key end
local function pace_key(owner, key) return P .. ':pace:' .. #owner .. ':' .. owner .. ':' .. key end
local function pause_key(owner, key) return P .. ':pause:' .. #owner .. ':' .. owner .. ':' .. key end

-- A whole number as text.
local function text(number) return string.format('%.0f', number) end

-- The next number of a counter. Counters begin with the time, so that no number comes back when Redis has lost its data.
local function next_number(name)
  local n = call('HINCRBY', META, name, 1)
  if n == 1 then
    local now = call('TIME')
    n = now[1] * 1000 + math.floor(now[2] / 1000)
    call('HSET', META, name, text(n))
  end
  return n
end

-- Keeps the score of a set's name in an index that of the set's first member.
local function keep_index(set, index, name)
  local first = call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if first[1] then call('ZADD', index, first[2], name) else call('ZREM', index, name) end
end

-- Says when a delivery is due, or that it is not any more. Each plugin and each origin of webhooks has a set of its
-- own, so that those left out of a claim cost nothing.
local function set_due(id, at)
  local whose = call('HMGET', delivery_key(id), 'plugin', 'origin')
  local set, index, name
  if whose[1] then
    name, set, index = whose[1], P .. ':dp:' .. whose[1], P .. ':plugins'
  else
    name, set, index = whose[2] or '', P .. ':do:' .. (whose[2] or ''), P .. ':origins'
    if at then call('ZADD', P .. ':dw', at, id) else call('ZREM', P .. ':dw', id) end
  end
  if at then call('ZADD', set, at, id) else call('ZREM', set, id) end
  keep_index(set, index, name)
end

-- The first open delivery of a lane, its state and its place.
local function head(lane)
  while true do
    local first = call('ZRANGE', lane_key(lane), 0, 0, 'WITHSCORES')
    if not first[1] then return nil end
    local state = call('HGET', delivery_key(first[1]), 'state')
    if state then return first[1], state, tonumber(first[2]) end
    call('ZREM', lane_key(lane), first[1])
  end
end

local function is_webhook_lane(lane) return string.sub(lane, 1, 2) == 'w/' end

-- Lets the lane's first delivery go if it waits.
local function advance(lane)
  local id, state, place = head(lane)
  if state == D.waiting then
    call('HSET', delivery_key(id), 'state', D.ready)
    set_due(id, is_webhook_lane(lane) and math.max(place, steady) or steady)
    deliveries_woken = true
  end
end

-- Lets a webhook take its place in its lane, which may be before the one that was first until then.
local function take_place(lane, first, state)
  if state == D.ready and head(lane) ~= first then
    call('HSET', delivery_key(first), 'state', D.waiting)
    set_due(first, nil)
  end
  advance(lane)
end

-- Makes a task's delivery due if this is its moment, or its moment has passed.
local function reached(id, moment)
  local found = call('HMGET', delivery_key(id), 'state', 'moment', 'lane')
  if found[1] == D.held and tonumber(found[2]) <= moment then
    call('HSET', delivery_key(id), 'state', D.waiting, 'since', text(wall))
    call('HINCRBY', META, 'deliveries', 1)
    advance(found[3])
  end
end

-- Makes a task claimable.
local function make_ready(id, n)
  call('HSET', task_key(id), 'state', T.ready)
  call('ZADD', READY, n, id)
  tasks_woken = true
end

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

-- Removes a kv entry and returns its bytes.
local function forget_entry(owner, key)
  local bytes = call('HSTRLEN', entry_key(owner, key), 'value')
  if call('UNLINK', entry_key(owner, key)) == 0 then bytes = -#key end
  call('ZREM', P .. ':vk:' .. owner, key)
  if call('ZREM', P .. ':vx:' .. owner, key) == 1 then keep_index(P .. ':vx:' .. owner, P .. ':expiring', owner) end
  return #key + bytes
end

-- Counts an owner's bytes.
local function add_usage(owner, bytes)
  if bytes ~= 0 and call('HINCRBY', P .. ':usage', owner, bytes) <= 0 then call('HDEL', P .. ':usage', owner) end
end

-- Removes up to so many expired entries of an owner; returns how many, and their bytes. One key may be kept.
local function forget_expired(owner, most, except)
  local keys = call('ZRANGE', P .. ':vx:' .. owner, '-inf', wall, 'BYSCORE', 'LIMIT', 0, most)
  local freed, count = 0, 0
  for _, key in ipairs(keys) do
    if key ~= except then
      freed = freed + forget_entry(owner, key)
      count = count + 1
    end
  end
  add_usage(owner, -freed)
  return count, freed
end

-- What a script answers: who was woken (1: tasks, 2: deliveries), then its own words. Other nodes hear of it here.
local function answer(...)
  local woken = (tasks_woken and 1 or 0) + (deliveries_woken and 2 or 0)
  if woken > 0 then call('PUBLISH', P .. ':notices', 'W' .. woken) end
  return { woken, ... }
end
