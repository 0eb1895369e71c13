-- Give a command the next sequence, keep it for a minute, and tell the subscribers.
--
-- The key does not expire: a server that evicts what expires, such as histories, would evict it first.
--
-- KEYS: ... history, commands. ARGV: epoch, channel, command, "kill" or another verb, kept (ms), topic. Returns epoch,
-- sequence.

local history, commands, channel = KEYS[6], KEYS[7], ARGV[2]
local seq = redis.call('HINCRBY', state, 'seq', 1)
if ARGV[4] == 'kill' then
    resize(channel, 0)
    redis.call('DEL', history)
    redis.call('HSET', last, channel, seq)
    redis.call('HSET', floor, channel, seq)
    redis.call('ZADD', times, now, channel)
end
redis.call('ZREMRANGEBYSCORE', commands, '-inf', now - tonumber(ARGV[5]))
redis.call('ZADD', commands, now, epoch .. ' ' .. seq .. ' ' .. ARGV[3])
redis.call('PUBLISH', ARGV[6], epoch .. ' ' .. seq .. ' c' .. ARGV[3])
return {epoch, seq}
