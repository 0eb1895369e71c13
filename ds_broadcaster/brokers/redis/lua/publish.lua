-- Give events the next sequences, keep them, and tell the subscribers.
--
-- KEYS: ... the history of each. ARGV: epoch, max_events, max_bytes, max_age (ms), max_total_bytes, the prefixes of
-- histories and of topics, then the channel and the payload of each. Returns epoch, the newest sequence.

local function begin(channel, history)
    redis.call('DEL', history)
    resize(channel, 0)
    redis.call('HSET', floor, channel, redis.call('HGET', last, channel) or redis.call('HGET', state, 'forgotten'))
end

local max_events, max_bytes, max_age = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local seq
for number = 6, #KEYS do
    local history, channel, payload = KEYS[number], ARGV[2 * number - 4], ARGV[2 * number - 3]
    seq = redis.call('HINCRBY', state, 'seq', 1)
    if not is_kept(channel, history) then
        begin(channel, history)
    end
    if redis.pcall('XADD', history, seq .. '-0', 't', now, 'p', payload).err then
        -- Another program has added an entry with a higher id.
        begin(channel, history)
        redis.call('XADD', history, seq .. '-0', 't', now, 'p', payload)
    end
    redis.call('HSET', last, channel, seq)
    redis.call('HINCRBY', size, channel, #payload)
    redis.call('HINCRBY', state, 'total', #payload)
    -- All events of a script have one time; fractions of a millisecond keep their order.
    redis.call('ZADD', times, now + number / 1000, channel)
    trim(channel, history, max_events, max_bytes, max_age)
    local total = tonumber(redis.call('HGET', state, 'total'))
    -- Over the cap, the channels that have been quiet for longest lose their history.
    while total > tonumber(ARGV[5]) do
        local quiet = redis.call('ZRANGE', times, 0, 0)[1]
        if quiet == channel then
            break
        end
        forget(quiet, ARGV[6] .. quiet)
        total = tonumber(redis.call('HGET', state, 'total'))
    end
    redis.call('PEXPIRE', history, max_age + 60000)
    redis.call('PUBLISH', ARGV[7] .. channel, epoch .. ' ' .. seq .. ' e' .. payload)
end
return {epoch, seq}
