-- Give a command the next sequence, keep it for a minute, and tell the subscribers.
--
-- The key does not expire: a server that evicts what expires, such as histories, would evict it first.
--
-- KEYS: ... commands. ARGV: epoch, channel, command, "kill" or another verb, kept (ms), topic. Returns epoch, sequence.

local commands, channel = KEYS[4], ARGV[2]
seq = seq + 1
save()
if ARGV[4] == 'kill' then
    local it = begin(channel, known(channel))
    it.last, it.floor, it.at = seq, seq, now
    note(channel, it)
    redis.call('ZADD', times, now, channel)
    save()
end
redis.call('ZREMRANGEBYSCORE', commands, '-inf', now - tonumber(ARGV[5]))
redis.call('ZADD', commands, now, epoch .. ' ' .. seq .. ' ' .. ARGV[3])
redis.call('PUBLISH', ARGV[6], epoch .. ' ' .. seq .. ' c' .. ARGV[3])
return {epoch, seq}
