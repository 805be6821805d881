#!lua flags=allow-oom
-- uses outbox claims
-- Takes deliveries that are due. Calls are numbered and noted as those of `claim` are. ARGV from 8: whether webhooks are left out, places of an origin (empty: any number),
-- how many plugins are left out and their names, then origins with the places that each has.
local limit, lease, node, number, heard = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], tonumber(ARGV[7])
local no_webhooks, per_origin = ARGV[8] == '1', tonumber(ARGV[9])
local left_out, places, at = {}, {}, 11
for _ = 1, tonumber(ARGV[10]) do
  left_out[ARGV[at]] = true
  at = at + 1
end
while ARGV[at] do
  places[ARGV[at]] = tonumber(ARGV[at + 1])
  at = at + 2
end

local note = P .. ':taken:' .. node
local late = is_late(note, number, heard, function(id, token)
  local found = call('HMGET', delivery_key(id), 'state', 'token')
  if found[1] == D.leased and found[2] == token then
    call('HSET', delivery_key(id), 'state', D.ready)
    set_due(id, steady)
    deliveries_woken = true
  end
end)
if late then return answer('', {}) end

local found, later = {}, nil
local function earlier(a, b)
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2] < b[2]
end
local function take(set, most)
  if most <= 0 then return end
  local due = call('ZRANGE', set, '-inf', steady, 'BYSCORE', 'LIMIT', 0, text(most), 'WITHSCORES')
  for i = 1, #due, 2 do found[#found + 1] = { tonumber(due[i + 1]), due[i] } end
end
local function look_ahead(set)
  local first = call('ZRANGE', set, '(' .. text(steady), '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  if first[1] and (not later or tonumber(first[2]) < later) then later = tonumber(first[2]) end
end

for _, plugin in ipairs(call('ZRANGE', P .. ':plugins', 0, -1)) do
  if not left_out[plugin] then
    take(P .. ':dp:' .. plugin, limit)
    look_ahead(P .. ':dp:' .. plugin)
  end
end
if not no_webhooks then
  -- Origins in the order of their first webhook. Once there is enough, one that begins later than all of it adds
  -- nothing. Those without a place are passed over; there are as many of them as origins with something under way.
  local from, cut, last = 0, nil, #found
  local more = limit > 0
  while more do
    local origins = call('ZRANGE', P .. ':origins', '-inf', steady, 'BYSCORE', 'LIMIT', from, 64, 'WITHSCORES')
    from, more = from + 64, #origins == 128
    for i = 1, #origins, 2 do
      if cut and tonumber(origins[i + 1]) > cut then
        more = false
        break
      end
      take(P .. ':do:' .. origins[i], math.min(limit, places[origins[i]] or per_origin or limit))
      if #found - last >= limit then
        table.sort(found, earlier)
        for n = #found, limit + 1, -1 do found[n] = nil end
        cut, last = found[limit][1], 0
      end
    end
  end
  look_ahead(P .. ':dw')
end
table.sort(found, earlier)

local deliveries, taken = {}, {}
for i = 1, math.min(limit, #found) do
  local id = found[i][2]
  local delivery = delivery_key(id)
  local state = call('HMGET', delivery, 'state', 'key', 'lane')
  if state[1] then
    if state[1] == D.leased then call('HINCRBY', delivery, 'attempts', 1) end
    call('HSET', delivery, 'state', D.leased)
    local token = next_token(call('HGET', delivery, 'token'))
    call('HSET', delivery, 'token', token)
    taken[#taken + 1] = id
    taken[#taken + 1] = token
    if state[2] then call('ZADD', lane_key(state[3]), 0, id) end
    set_due(id, steady + lease)
    deliveries[#deliveries + 1] = { id, call('HGETALL', delivery) }
  else
    set_due(id, nil)
  end
end
note_taken(note, number, taken, lease)
if deliveries[1] and (not later or steady + lease < later) then later = steady + lease end
return answer(later and text(math.max(later - steady, 0)) or '', deliveries)
