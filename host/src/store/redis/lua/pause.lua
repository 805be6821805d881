#!lua
-- Pauses a rate, unless it is paused for longer already.
local owner, key, length = ARGV[3], ARGV[4], tonumber(ARGV[5])
if length > call('PTTL', pause_key(owner, key)) then call('SET', pause_key(owner, key), '', 'PX', text(length)) end
return answer()
