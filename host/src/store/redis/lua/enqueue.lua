#!lua
-- Puts a webhook in, unless its key was used before.
local owner, key, url, origin, lane, body = ARGV[3], ARGV[4], ARGV[5], ARGV[6], 'w/' .. ARGV[3] .. '/' .. ARGV[7], ARGV[8]
local sent = sent_key(owner, key)
if call('EXISTS', sent) == 1 then return answer('known') end
local id = text(next_number('delivery'))
call('SET', sent, id)
call('HINCRBY', META, 'deliveries', 1)
local first, state = head(lane)
call('HSET', delivery_key(id), 'lane', lane, 'state', D.waiting, 'since', text(wall), 'owner', owner, 'key', key,
  'url', url, 'origin', origin)
call('SET', body_key(id), body)
call('ZADD', lane_key(lane), steady, id)
take_place(lane, first, state)
return answer('new')
