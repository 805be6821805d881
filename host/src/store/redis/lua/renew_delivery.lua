#!lua flags=allow-oom
-- Lengthens the lease of a delivery.
local id, token, length = ARGV[3], ARGV[4], tonumber(ARGV[5])
local found = call('HMGET', delivery_key(id), 'state', 'token')
if found[1] ~= D.leased or found[2] ~= token then return answer('lost') end
set_due(id, steady + length)
return answer('held')
