-- Calls that claim. Each node numbers its own, and notes in Redis what the last one took. If the answer to that did not
-- arrive (`heard` is the last one that did), nobody does that work, and it goes back.

-- Whether a call comes late, behind the next one. If not, `give_back(id, token)` gets what nobody has heard of.
local function is_late(note, number, heard, give_back)
  local last = tonumber(call('HGET', note, 'call') or 0)
  if tonumber(number) <= last then return true end
  if last > heard then
    local taken = call('HGETALL', note)
    for i = 1, #taken, 2 do
      if taken[i] ~= 'call' then give_back(taken[i], taken[i + 1]) end
    end
  end
  return false
end

-- Notes what a call has taken: ids and tokens, one behind the other.
local function note_taken(note, number, taken, lease)
  call('DEL', note)
  call('HSET', note, 'call', number)
  for i = 1, #taken, 2 do call('HSET', note, taken[i], taken[i + 1]) end
  call('PEXPIRE', note, text(math.max(math.min(lease, 86400000), 60000)))
end

