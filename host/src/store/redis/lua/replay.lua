#!lua flags=allow-oom
-- Makes a dead letter due again.
local id = ARGV[3]
local delivery = delivery_key(id)
local found = call('HMGET', delivery, 'state', 'lane')
local lane = found[2]
if found[1] ~= D.dead then return answer('none') end
local first, state = head(lane)
call('HSET', delivery, 'state', D.waiting, 'since', text(wall), 'attempts', 0)
call('HDEL', delivery, 'settled', 'error')
call('ZREM', P .. ':dead', id)
call('ZREM', P .. ':settled', id)
call('HINCRBY', META, 'deliveries', 1)
if is_webhook_lane(lane) then
  call('ZADD', lane_key(lane), steady, id)
  take_place(lane, first, state)
else
  call('ZADD', lane_key(lane), next_number('place'), id)
  advance(lane)
end
return answer('replayed')
