-- Return a channel's events after a cursor.
--
-- ARGV: epoch, channel, cursor, max_events, max_age (ms). Returns epoch, whether it is covered, and the events.

local channel, cursor = ARGV[2], tonumber(ARGV[3])
local it = known(channel)
local is_there = is_kept(channel, it)
if is_there and trim(channel, it, tonumber(ARGV[4]), math.huge, tonumber(ARGV[5])) then
    note(channel, it)
    save()
end
if not covers(channel, it, cursor) then
    return {epoch, 0}
end
return {epoch, 1, is_there and redis.call('XRANGE', prefix .. 'h:' .. channel, '(' .. cursor .. '-0', '+') or {}}
