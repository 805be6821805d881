#!lua flags=allow-oom
-- Lengthens a lease; answers with the reason for which the task is to be stopped, if there is one.
local id, token, length = ARGV[3], ARGV[4], tonumber(ARGV[5])
local found = call('HMGET', task_key(id), 'state', 'token', 'cancel')
if found[1] ~= T.running or found[2] ~= token then return answer('lost') end
call('ZADD', RUNNING, steady + length, id)
if found[3] then return answer('held', found[3]) end
return answer('held')
