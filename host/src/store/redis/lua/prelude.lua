-- What all scripts begin with. KEYS[1] is `{prefix}`: every key begins with it, so that all are in one slot of a cluster.
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

-- A token of a lease: greater than the last one, and than any that was ever given, though Redis may have gone back to an
-- earlier state of its data.
local function next_token(last)
  local now = call('TIME')
  return text(math.max(tonumber(last or 0) + 1, now[1] * 1000000 + now[2]))
end

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

-- Makes a task claimable.
local function make_ready(id, n)
  call('HSET', task_key(id), 'state', T.ready)
  call('ZADD', READY, n, id)
  tasks_woken = true
end

-- What a script answers: who was woken (1: tasks, 2: deliveries), then its own words. Other nodes hear of it here.
local function answer(...)
  local woken = (tasks_woken and 1 or 0) + (deliveries_woken and 2 or 0)
  if woken > 0 then call('PUBLISH', P .. ':notices', 'W' .. woken) end
  return { woken, ... }
end
