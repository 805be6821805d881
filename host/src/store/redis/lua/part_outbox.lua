-- Deliveries and their lanes.

-- Says when a delivery is due, or that it is not any more. Each plugin and each origin of webhooks has a set of its
-- own, so that those left out of a claim cost nothing.
local function set_due(id, at)
  local whose = call('HMGET', delivery_key(id), 'plugin', 'origin')
  local set, index, name
  if whose[1] then
    name, set, index = whose[1], P .. ':dp:' .. whose[1], P .. ':plugins'
  else
    name, set, index = whose[2] or '', P .. ':do:' .. (whose[2] or ''), P .. ':origins'
    if at then call('ZADD', P .. ':dw', at, id) else call('ZREM', P .. ':dw', id) end
  end
  if at then call('ZADD', set, at, id) else call('ZREM', set, id) end
  keep_index(set, index, name)
end

-- The first open delivery of a lane, its state and its place.
local function head(lane)
  while true do
    local first = call('ZRANGE', lane_key(lane), 0, 0, 'WITHSCORES')
    if not first[1] then return nil end
    local state = call('HGET', delivery_key(first[1]), 'state')
    if state then return first[1], state, tonumber(first[2]) end
    call('ZREM', lane_key(lane), first[1])
  end
end

local function is_webhook_lane(lane) return string.sub(lane, 1, 2) == 'w/' end

-- Lets the lane's first delivery go if it waits.
local function advance(lane)
  local id, state, place = head(lane)
  if state == D.waiting then
    call('HSET', delivery_key(id), 'state', D.ready)
    set_due(id, is_webhook_lane(lane) and math.max(place, steady) or steady)
    deliveries_woken = true
  end
end

-- Lets a webhook take its place in its lane, which may be before the one that was first until then.
local function take_place(lane, first, state)
  if state == D.ready and head(lane) ~= first then
    call('HSET', delivery_key(first), 'state', D.waiting)
    set_due(first, nil)
  end
  advance(lane)
end

-- Makes a task's delivery due if this is its moment, or its moment has passed.
local function reached(id, moment)
  local found = call('HMGET', delivery_key(id), 'state', 'moment', 'lane')
  if found[1] == D.held and tonumber(found[2]) <= moment then
    call('HSET', delivery_key(id), 'state', D.waiting, 'since', text(wall))
    call('HINCRBY', META, 'deliveries', 1)
    advance(found[3])
  end
end
