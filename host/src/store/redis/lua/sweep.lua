#!lua flags=allow-oom
-- Removes a portion of what is older than its retention: `what`, for how long it is kept, how many to look at, and how
-- many of the first to pass over since they have to stay. Answers how many were looked at, tasks, events and others
-- removed, and how many have to stay.
local what, keep, most, pass = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local before = wall - keep
local looked, tasks, events, others, stay = 0, 0, 0, 0, 0
local function old(set)
  return call('ZRANGE', P .. ':' .. set, '-inf', before, 'BYSCORE', 'LIMIT', pass, most)
end

if what == 'events' then
  for _, id in ipairs(old('logs')) do
    looked = looked + 1
    events = events + call('XLEN', log_key(id))
    call('UNLINK', log_key(id))
    call('ZREM', P .. ':logs', id)
  end
elseif what == 'tasks' then
  for _, id in ipairs(old('ended')) do
    looked = looked + 1
    local found = call('HMGET', task_key(id), 'session', 'adapter', 'key', 'delivery')
    local state = found[4] and call('HGET', delivery_key(found[4]), 'state')
    if state and state <= D.leased then
      stay = stay + 1
    else
      events = events + call('XLEN', log_key(id))
      call('UNLINK', task_key(id), input_key(id), end_key(id), log_key(id))
      call('ZREM', P .. ':ended', id)
      call('ZREM', P .. ':logs', id)
      if found[1] then
        call('ZREM', session_key(found[1]), id)
        call('ZREM', completed_key(found[1]), id)
      end
      if found[3] and call('GET', known_key(found[2], found[3])) == id then
        call('UNLINK', known_key(found[2], found[3]))
      end
      tasks = tasks + 1
    end
  end
elseif what == 'deliveries' then
  for _, id in ipairs(old('settled')) do
    looked = looked + 1
    local found = call('HMGET', delivery_key(id), 'owner', 'key')
    if found[2] and call('GET', sent_key(found[1], found[2])) == id then
      call('UNLINK', sent_key(found[1], found[2]))
    end
    call('UNLINK', delivery_key(id), body_key(id))
    call('ZREM', P .. ':settled', id)
    call('ZREM', P .. ':dead', id)
    others = others + 1
  end
elseif what == 'kv' then
  for _, owner in ipairs(call('ZRANGE', P .. ':expiring', '-inf', wall, 'BYSCORE', 'LIMIT', 0, most)) do
    if others < most then
      local removed = forget_expired(owner, most - others)
      others = others + removed
      looked = looked + removed
      -- An index that says otherwise than its set is put right.
      keep_index(P .. ':vx:' .. owner, P .. ':expiring', owner)
    end
  end
end
return answer(looked, tasks, events, others, stay)
