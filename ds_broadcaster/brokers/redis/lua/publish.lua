-- Give an event the next sequence, keep it, and tell whoever has subscribed.
--
-- KEYS: ... history. ARGV: epoch, channel, payload, max_events, max_bytes, max_age (ms), topic, max_total_bytes, the
-- prefix of histories. Returns epoch, sequence.

local history, channel, payload, max_age = KEYS[6], ARGV[2], ARGV[3], tonumber(ARGV[6])
local seq = redis.call('HINCRBY', state, 'seq', 1)
if not is_kept(channel, history) then
    redis.call('DEL', history)
    resize(channel, 0)
    redis.call('HSET', floor, channel, redis.call('HGET', last, channel) or redis.call('HGET', state, 'forgotten'))
end
redis.call('XADD', history, seq .. '-0', 't', now, 'p', payload)
redis.call('HSET', last, channel, seq)
redis.call('HINCRBY', size, channel, #payload)
local total = redis.call('HINCRBY', state, 'total', #payload)
redis.call('ZADD', times, now, channel)
trim(channel, history, tonumber(ARGV[4]), tonumber(ARGV[5]), max_age)
-- Over the cap, those channels lose their history to which nothing was sent for the longest time.
while total > tonumber(ARGV[8]) do
    local quiet = redis.call('ZRANGE', times, 0, 0)[1]
    if quiet == channel then
        break
    end
    forget(quiet, ARGV[9] .. quiet)
    total = tonumber(redis.call('HGET', state, 'total'))
end
redis.call('PEXPIRE', history, max_age + 60000)
redis.call('PUBLISH', ARGV[7], epoch .. ' ' .. seq .. ' e' .. payload)
return {epoch, seq}
