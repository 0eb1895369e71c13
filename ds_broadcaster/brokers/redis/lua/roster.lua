-- Return what the processes hold, or who is on a channel with them.
--
-- KEYS: ... processes. ARGV: epoch, the prefix of what is asked for, what follows the process in its key, "keys" or
-- "all", then the processes not to ask. Returns epoch, then for each process its name and what it has.

local found = {epoch}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], now, '+inf')) do
    local is_asked = true
    for position = 5, #ARGV do
        is_asked = is_asked and ARGV[position] ~= process
    end
    if is_asked then
        local key = ARGV[2] .. process .. ARGV[3]
        found[#found + 1] = process
        found[#found + 1] = redis.call(ARGV[4] == 'keys' and 'HKEYS' or 'HGETALL', key)
    end
end
return found
