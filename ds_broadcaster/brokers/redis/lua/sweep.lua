-- Forget channels that have been quiet for longer than anything is kept.
--
-- ARGV: epoch, max_age (ms), the most channels to forget, the prefix of histories. Returns epoch and their number.

local old = redis.call('ZRANGEBYSCORE', times, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[3])
for _, channel in ipairs(old) do
    forget(channel, ARGV[4] .. channel)
end
return {epoch, #old}
