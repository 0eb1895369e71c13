-- Forget channels that have been quiet for longer than anything is kept, and commands that are too old.
--
-- KEYS: ... commands. ARGV: epoch, max_age (ms), the most channels to forget, the prefix of histories, how long
-- commands are kept (ms). Returns epoch and the number of channels.

redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - tonumber(ARGV[5]))
local old = redis.call('ZRANGEBYSCORE', times, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[3])
for _, channel in ipairs(old) do
    forget(channel, ARGV[4] .. channel)
end
return {epoch, #old}
