#!lua
-- Writes something small.
call('SET', P .. ':probe', text(wall))
return answer()
