#!lua flags=allow-oom
-- Ends a task that no worker has, or notes on a running one that it is to be stopped.
local id, reason, data = ARGV[3], ARGV[4], ARGV[5]
local found = call('HMGET', task_key(id), 'state', 'n', 'session', 'delivery', 'attempt', 'agent')
local state = found[1]
if not state then return answer('unknown') end
if state == T.running then
  call('HSETNX', task_key(id), 'cancel', reason)
  call('PUBLISH', P .. ':notices', 'C' .. id .. call('HGET', task_key(id), 'cancel'))
  return answer('running')
end
if state ~= T.waiting and state ~= T.ready then return answer('ended') end
call('ZREM', READY, id)
call('HINCRBY', META, 'queued', -1)
local attempt, now = text(tonumber(found[5] or 0) + 1), text(wall)
local event = now .. ' 9 cancelled' .. data
end_task(id, found[2], found[3], found[4], T.cancelled, now, attempt, '1', event, #data)
return answer('cancelled', found[6], found[3], attempt, now)
