-- Entries of the plugins' kv.

-- Removes a kv entry and returns its bytes.
local function forget_entry(owner, key)
  local bytes = call('HSTRLEN', entry_key(owner, key), 'value')
  if call('UNLINK', entry_key(owner, key)) == 0 then bytes = -#key end
  call('ZREM', P .. ':vk:' .. owner, key)
  if call('ZREM', P .. ':vx:' .. owner, key) == 1 then keep_index(P .. ':vx:' .. owner, P .. ':expiring', owner) end
  return #key + bytes
end

-- Counts an owner's bytes.
local function add_usage(owner, bytes)
  if bytes ~= 0 and call('HINCRBY', P .. ':usage', owner, bytes) <= 0 then call('HDEL', P .. ':usage', owner) end
end

-- Removes up to so many expired entries of an owner; returns how many, and their bytes. One key may be kept.
local function forget_expired(owner, most, except)
  local keys = call('ZRANGE', P .. ':vx:' .. owner, '-inf', wall, 'BYSCORE', 'LIMIT', 0, most)
  local freed, count = 0, 0
  for _, key in ipairs(keys) do
    if key ~= except then
      freed = freed + forget_entry(owner, key)
      count = count + 1
    end
  end
  add_usage(owner, -freed)
  return count, freed
end
