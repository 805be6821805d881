#!lua flags=allow-oom
-- Removes an entry.
local owner, key = ARGV[3], ARGV[4]
add_usage(owner, -forget_entry(owner, key))
return answer()
