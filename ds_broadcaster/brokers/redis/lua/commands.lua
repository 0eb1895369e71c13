-- Return the newest commands.
--
-- KEYS: ... commands. ARGV: epoch, their greatest age (ms). Returns epoch, the newest sequence, the time, and the
-- commands, each with its time.

local newest = redis.call('ZRANGEBYSCORE', KEYS[4], now - tonumber(ARGV[2]), '+inf', 'WITHSCORES')
return {epoch, seq, now, newest}
