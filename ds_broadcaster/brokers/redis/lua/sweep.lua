-- Forget channels to which nothing was sent for as long as anything is kept.
--
-- ARGV: epoch, max_age (ms), how many at the most, the prefix of histories. Returns epoch, how many there were.

local old = redis.call('ZRANGEBYSCORE', times, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[3])
for _, channel in ipairs(old) do
    forget(channel, ARGV[4] .. channel)
end
return {epoch, #old}
