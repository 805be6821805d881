#!lua flags=allow-oom
-- uses tasks
-- Adds events of one run of one task: a sequence number, whether it is the `started`, and a text for each. Those that
-- are there already are passed over; those of a run that is not the present one, or has another token (empty: any), are
-- dropped. It goes on when Redis is out of memory: no task could end otherwise, and `cap` bounds what it adds.
local id, attempt, cap, token = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local found = call('HMGET', task_key(id), 'state', 'attempt', 'session', 'token')
if found[1] ~= T.running or found[2] ~= attempt then return answer('dropped') end
if token ~= '' and found[4] ~= token then return answer('dropped') end
local log, told = log_key(id), {}
for i = 7, #ARGV, 3 do
  local seq, started, event = ARGV[i], ARGV[i + 1] == '1', ARGV[i + 2]
  local added = redis.pcall('XADD', log, 'MAXLEN', '~', cap, attempt .. '-' .. seq, 'e', event)
  if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then
    return added
  end
  if started then call('XTRIM', log, 'MINID', attempt .. '-0') end
  told[#told + 1] = seq
  told[#told + 1] = event
end
publish(id, attempt, found[3], told)
return answer('added')
