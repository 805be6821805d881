#!lua flags=allow-oom
-- Ends a task by its terminal event. `unsure`: the caller does not know whether it has done so before; nobody else has
-- this token.
local id, token, unsure, state, ended_ms = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local attempt, seq, event, bytes = ARGV[8], ARGV[9], ARGV[10], tonumber(ARGV[11])
local found = call('HMGET', task_key(id), 'state', 'token', 'n', 'session', 'delivery')
if found[2] ~= token then return answer('lost') end
if found[1] ~= T.running then
  return answer(unsure == '1' and found[1] == state and 'held' or 'lost')
end
call('ZREM', RUNNING, id)
end_task(id, found[3], found[4], found[5], state, ended_ms, attempt, seq, event, bytes)
return answer('held')
