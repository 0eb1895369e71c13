-- Return the newest commands, newest first.
--
-- KEYS: ... commands. ARGV: epoch, their age (ms). Returns epoch, the time (ms), and the commands as they are kept.

local found, position = {epoch, now}, -1
while true do
    local each = redis.call('ZRANGE', KEYS[6], position, position)[1]
    if not each or tonumber(string.match(each, '^%d+ (%d+)')) < now - tonumber(ARGV[2]) then
        return found
    end
    table.insert(found, each)
    position = position - 1
end
