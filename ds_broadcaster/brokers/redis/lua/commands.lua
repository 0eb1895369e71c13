-- Return the commands that are kept.
--
-- KEYS: ... commands. ARGV: epoch. Returns epoch, the newest sequence, the time, and the commands, each with its time.

return {epoch, tonumber(redis.call('HGET', state, 'seq')), now, redis.call('ZRANGE', KEYS[6], 0, -1, 'WITHSCORES')}
