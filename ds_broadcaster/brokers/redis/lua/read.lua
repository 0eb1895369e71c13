-- Return a channel's events after a cursor.
--
-- KEYS: ... history. ARGV: epoch, channel, cursor, max_age (ms). Returns epoch, whether it is covered, and the events.

local history, channel, cursor = KEYS[6], ARGV[2], tonumber(ARGV[3])
local kept = is_kept(channel, history)
if kept then
    trim(channel, history, math.huge, math.huge, tonumber(ARGV[4]))
end
if not covers(channel, history, cursor) then
    return {epoch, 0}
end
return {epoch, 1, kept and redis.call('XRANGE', history, '(' .. cursor .. '-0', '+') or {}}
