#!lua flags=no-writes
-- What is left of a rate: how many grants would be given at once, how long until one would be, and until all would be.
local owner, key, count, per = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local times = call('LRANGE', pace_key(owner, key), -count, -1)
local pause = steady + math.max(call('PTTL', pause_key(owner, key)), 0)
local used, last = 0, tonumber(times[#times] or 0)
for _, at in ipairs(times) do
  if tonumber(at) + per > steady then used = used + 1 end
end
local window = #times == count and tonumber(times[1]) + per or 0
local free = math.max(steady, last, window, pause)
local reset = math.max(free, used > 0 and last + per or 0)
return answer(text(free > steady and 0 or count - used), text(free - steady), text(reset - steady))
