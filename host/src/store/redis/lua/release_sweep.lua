#!lua flags=allow-oom
-- Gives the lease of the sweep back, or keeps it for so many milliseconds.
local node, length = ARGV[3], ARGV[4]
local lease = P .. ':sweeper'
if call('GET', lease) ~= node then return answer() end
if length == '' then call('UNLINK', lease) else call('PEXPIRE', lease, length) end
return answer()
