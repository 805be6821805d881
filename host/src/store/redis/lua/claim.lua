#!lua
-- Takes tasks: those whose lease ran out, and those that wait for nothing but a worker, the first accepted first.
local limit, lease = tonumber(ARGV[3]), tonumber(ARGV[4])
local found = {}
for _, id in ipairs(call('ZRANGE', RUNNING, '-inf', steady, 'BYSCORE', 'LIMIT', 0, math.max(limit, 100))) do
  local n = call('HGET', task_key(id), 'n')
  if n then found[#found + 1] = { tonumber(n), id, true } else call('ZREM', RUNNING, id) end
end
if limit > 0 then
  local ready = call('ZRANGE', READY, 0, limit - 1, 'WITHSCORES')
  for i = 1, #ready, 2 do found[#found + 1] = { tonumber(ready[i + 1]), ready[i], false } end
end
table.sort(found, function(a, b) return a[1] < b[1] end)

local claims = {}
for i = 1, math.min(limit, #found) do
  local id, died = found[i][2], found[i][3]
  local task = task_key(id)
  call('ZREM', READY, id)
  -- Redis may have thrown the task away (maxmemory-policy): then there is nothing to run.
  if call('EXISTS', task) == 1 then
    call('HINCRBY', task, 'attempt', 1)
    call('HINCRBY', task, 'token', 1)
    if died then call('HINCRBY', task, 'deaths', 1) else call('HINCRBY', META, 'queued', -1) end
    call('HSET', task, 'state', T.running, 'started', text(wall))
    call('ZADD', RUNNING, steady + lease, id)
    local delivery = call('HGET', task, 'delivery')
    if delivery then reached(delivery, START) end
    claims[#claims + 1] = { id, call('HGETALL', task) }
  elseif not died then
    call('HINCRBY', META, 'queued', -1)
  end
end
local next_lease = call('ZRANGE', RUNNING, 0, 0, 'WITHSCORES')
local next_due = next_lease[1] and text(math.max(tonumber(next_lease[2]) - steady, 0)) or ''
return answer(next_due, claims)
