-- Return what the processes hold, or their users on a channel.
--
-- KEYS: ... processes. ARGV: epoch, what stands before and after the process in its key, "keys" or "all", then the
-- processes to leave out. Returns epoch, then each process's name and its content.

local found = {epoch}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], now, '+inf')) do
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
