#!lua
-- Accepts a task, or tells which one its idempotency key names. The same id again is the same call made twice.
local limit, id, adapter, agent, session, input = tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local key, moment, address = ARGV[9], ARGV[10], ARGV[11]
local keyed, delivered = key ~= '', moment ~= ''
key = string.sub(key, 2)
if call('EXISTS', task_key(id)) == 1 then return answer('accepted', id, session) end
if keyed then
  local known = call('GET', known_key(adapter, key))
  local theirs = known and call('HGET', task_key(known), 'session')
  if theirs then return answer('duplicate', known, theirs) end
end
local queued = tonumber(call('HGET', META, 'queued') or 0)
if queued >= limit then return answer('full', queued) end

local n = next_number('task')
local busy = call('EXISTS', open_key(session)) == 1
local task = task_key(id)
call('HSET', task, 'n', text(n), 'adapter', adapter, 'agent', agent, 'session', session,
  'state', busy and T.waiting or T.ready, 'created', text(wall))
call('SET', input_key(id), input)
if keyed then
  call('HSET', task, 'key', key)
  call('SET', known_key(adapter, key), id)
end
if delivered then
  local delivery, lane, place = text(next_number('delivery')), 's/' .. session, next_number('place')
  call('HSET', task, 'delivery', delivery)
  call('HSET', delivery_key(delivery), 'lane', lane, 'state', D.held, 'since', text(wall), 'plugin', adapter,
    'task', id, 'session', session, 'address', address, 'moment', moment)
  call('ZADD', lane_key(lane), place, delivery)
end
call('ZADD', open_key(session), n, id)
call('ZADD', session_key(session), n, id)
call('HINCRBY', META, 'queued', 1)
if not busy then call('ZADD', READY, n, id) end
-- One message for both: the session grew, and whether there is something to claim.
call('PUBLISH', P .. ':notices', 'S' .. (busy and '0' or '1') .. session)
return { busy and 0 or 1, 'accepted', id, session }
