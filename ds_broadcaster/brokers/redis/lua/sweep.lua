-- Forget channels that have been quiet for longer than anything is kept, and commands that are too old.
--
-- KEYS: ... commands. ARGV: epoch, max_age (ms), the most channels to forget, how long commands are kept (ms). Returns
-- epoch and the number of channels.

redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - tonumber(ARGV[4]))
local oldest = now - tonumber(ARGV[2])
local old = redis.call('ZRANGEBYSCORE', times, '-inf', oldest, 'LIMIT', 0, ARGV[3])
for _, channel in ipairs(old) do
    local it = known(channel)
    if not it then
        redis.call('ZREM', times, channel)
    elseif it.at > oldest then
        redis.call('ZADD', times, it.at, channel)
    else
        forget(channel, it)
    end
end
if #old > 0 then
    save()
end
return {epoch, #old}
