#!lua
-- Stores an entry if it has the version that is asked for (empty: whatever is there) and the owner has room.
local owner, key, value, wanted, ttl, quota = ARGV[3], ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local entry = entry_key(owner, key)
local found = call('HMGET', entry, 'version', 'expires')
local present = '0'
if found[1] and not (found[2] and tonumber(found[2]) <= wall) then present = found[1] end
if wanted ~= '' and wanted ~= present then return answer('conflict', present) end
local old = found[1] and #key + call('HSTRLEN', entry, 'value') or 0
local needed = #key + #value - old
local function used() return tonumber(call('HGET', P .. ':usage', owner) or 0) end
if needed > 0 and used() + needed > quota then
  -- What has expired is as good as absent, so it must not count. The key itself is reckoned with already.
  local most = 500
  local removed = forget_expired(owner, most, key)
  if used() + needed > quota then
    return answer(removed >= most - 1 and 'again' or 'quota', text(used()), text(needed))
  end
end
local version = text(next_number('kv'))
call('HSET', entry, 'version', version, 'value', value)
call('ZADD', P .. ':vk:' .. owner, 0, key)
local expiries = P .. ':vx:' .. owner
if ttl then
  call('HSET', entry, 'expires', text(wall + ttl))
  call('ZADD', expiries, wall + ttl, key)
  keep_index(expiries, P .. ':expiring', owner)
elseif found[2] then
  call('HDEL', entry, 'expires')
  call('ZREM', expiries, key)
  keep_index(expiries, P .. ':expiring', owner)
end
add_usage(owner, needed)
return answer('stored', version)
