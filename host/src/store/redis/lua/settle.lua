#!lua flags=allow-oom
-- Says what a try came to: `done`, `retry` after a while, or `dead`.
local id, token, outcome, failure, after, counts = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1'
local delivery = delivery_key(id)
local found = call('HMGET', delivery, 'state', 'token', 'lane', 'key')
local lane, keyed = found[3], found[4]
if found[1] ~= D.leased or found[2] ~= token then return answer('lost') end
if outcome == 'retry' then
  if counts then call('HINCRBY', delivery, 'attempts', 1) end
  call('HSET', delivery, 'state', keyed and D.waiting or D.ready, 'error', failure)
  if keyed then
    set_due(id, nil)
    call('ZADD', lane_key(lane), steady + after, id)
    advance(lane)
  else
    set_due(id, steady + after)
    deliveries_woken = true
  end
  return answer('held')
end
set_due(id, nil)
call('ZREM', lane_key(lane), id)
call('HINCRBY', META, 'deliveries', -1)
if outcome == 'dead' then
  call('HINCRBY', delivery, 'attempts', 1)
  call('HSET', delivery, 'state', D.dead, 'settled', text(wall), 'error', failure)
  call('ZADD', P .. ':dead', wall, id)
  call('ZADD', P .. ':settled', wall, id)
elseif keyed then
  call('HSET', delivery, 'state', D.done, 'settled', text(wall))
  call('HDEL', delivery, 'error', 'url', 'origin', 'lane', 'attempts')
  call('UNLINK', body_key(id))
  call('ZADD', P .. ':settled', wall, id)
else
  call('UNLINK', delivery)
end
advance(lane)
return answer('held')
