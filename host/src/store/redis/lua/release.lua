#!lua flags=allow-oom
-- Gives a task back unfinished.
local id, token = ARGV[3], ARGV[4]
local found = call('HMGET', task_key(id), 'state', 'token', 'n')
if found[1] ~= T.running or found[2] ~= token then return answer('lost') end
call('ZREM', RUNNING, id)
call('HINCRBY', META, 'queued', 1)
make_ready(id, found[3])
return answer('held')
