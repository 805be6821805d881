#!lua
-- Takes a grant of every rate at the earliest time that fits them all, unless that is too late: a key, a count and a
-- length each. A lane keeps the times of its latest grants, also those to come, for as long as they matter.
local owner, longest = ARGV[3], tonumber(ARGV[4])
local at = steady
for i = 5, #ARGV, 3 do
  local lane, count, per = pace_key(owner, ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  call('LTRIM', lane, -count, -1)
  local last = tonumber(call('LINDEX', lane, -1) or 0)
  local window = call('LLEN', lane) == count and tonumber(call('LINDEX', lane, 0)) + per or 0
  at = math.max(at, last, window, steady + call('PTTL', pause_key(owner, ARGV[i])))
end
if at - steady > longest then return answer('') end
for i = 5, #ARGV, 3 do
  local lane, ends = pace_key(owner, ARGV[i]), at - steady + tonumber(ARGV[i + 2])
  call('RPUSH', lane, text(at))
  call('PEXPIRE', lane, text(math.max(ends, call('PTTL', lane), 1)))
end
return answer(text(at - steady))
