"""What the Redis broker does on the server, each in one atomic step.

The keys, in one slot of a cluster because of the braces in the prefix:

    {p}:state         epoch, seq (the newest sequence), forgotten (the newest event of all histories that are gone)
    {p}:last          channel -> its newest sequence
    {p}:floor         channel -> the newest sequence that its history no longer holds
    {p}:size          channel -> the bytes in its history
    {p}:times         channels by the time of their newest event
    {p}:commands      commands of the last minute, by their sequence
    {p}:processes     the processes that serve streams, by the end of their lease
    {p}:r:<process>   what one of them has: channel -> its users
    {p}:h:<channel>   the history: a stream whose ids are the sequences, with time and payload

Every script takes the first five keys and a fresh epoch as its first argument.
"""

# The epoch. A server that has lost its memory begins a new one; `last` holds a mark that shares its fate with the
# rest, for a server that evicts what it likes.
_BEGIN = """
local state, last, floor, size, times = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch = redis.call('HGET', state, 'epoch')
if not epoch or redis.call('HEXISTS', last, '') == 0 then
    epoch = ARGV[1]
    redis.call('DEL', last, floor, size, times)
    redis.call('HSET', last, '', 0)
    redis.call('HSET', state, 'epoch', epoch, 'seq', 0, 'forgotten', 0)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Drop what is over the limits from the beginning of a history.
local function trim(channel, history, max_events, max_bytes, max_age)
    local bytes = tonumber(redis.call('HGET', size, channel) or 0)
    local count = redis.call('XLEN', history)
    while count > 0 do
        local oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', 1)[1]
        if count <= max_events and bytes <= max_bytes and tonumber(oldest[2][2]) > now - max_age then
            break
        end
        redis.call('XDEL', history, oldest[1])
        redis.call('HSET', floor, channel, string.match(oldest[1], '^%d+'))
        bytes = bytes - #oldest[2][4]
        count = count - 1
    end
    redis.call('HSET', size, channel, bytes)
end

-- Tell whether everything behind a cursor is still there.
local function covers(channel, history, cursor)
    local newest = redis.call('HGET', last, channel)
    if not newest then
        return cursor >= tonumber(redis.call('HGET', state, 'forgotten'))
    end
    if cursor >= tonumber(newest) then
        return true
    end
    -- The history expires, or is evicted, as a whole.
    return redis.call('XLEN', history) > 0 and cursor >= tonumber(redis.call('HGET', floor, channel) or 0)
end
"""

# KEYS: ... history. ARGV: epoch, channel, payload, max_events, max_bytes, max_age (ms), topic. Returns epoch, sequence.
PUBLISH = (
    _BEGIN
    + """
local history, channel, payload, max_age = KEYS[6], ARGV[2], ARGV[3], tonumber(ARGV[6])
local seq = redis.call('HINCRBY', state, 'seq', 1)
if redis.call('XLEN', history) == 0 then
    redis.call('DEL', history)
    redis.call('HSET', size, channel, 0)
    redis.call('HSET', floor, channel, redis.call('HGET', last, channel) or redis.call('HGET', state, 'forgotten'))
end
redis.call('XADD', history, seq .. '-0', 't', now, 'p', payload)
redis.call('HSET', last, channel, seq)
redis.call('HINCRBY', size, channel, #payload)
redis.call('ZADD', times, now, channel)
trim(channel, history, tonumber(ARGV[4]), tonumber(ARGV[5]), max_age)
redis.call('PEXPIRE', history, max_age + 60000)
redis.call('PUBLISH', ARGV[7], epoch .. ' ' .. seq .. ' e' .. payload)
return {epoch, seq}
"""
)

# KEYS: ... history, commands. ARGV: epoch, channel, command, "kill" or "", kept (ms), topic. Returns epoch, sequence.
COMMAND = (
    _BEGIN
    + """
local history, commands, channel = KEYS[6], KEYS[7], ARGV[2]
local seq = redis.call('HINCRBY', state, 'seq', 1)
if ARGV[4] == 'kill' then
    redis.call('DEL', history)
    redis.call('HSET', last, channel, seq)
    redis.call('HSET', floor, channel, seq)
    redis.call('HSET', size, channel, 0)
    redis.call('ZADD', times, now, channel)
end
while true do
    local oldest = redis.call('ZRANGE', commands, 0, 0)[1]
    if not oldest or tonumber(string.match(oldest, '^%d+ (%d+)')) > now - tonumber(ARGV[5]) then
        break
    end
    redis.call('ZREM', commands, oldest)
end
redis.call('ZADD', commands, seq, seq .. ' ' .. now .. ' ' .. ARGV[3])
redis.call('PEXPIRE', commands, tonumber(ARGV[5]) * 2)
redis.call('PUBLISH', ARGV[6], epoch .. ' ' .. seq .. ' c' .. ARGV[3])
return {epoch, seq}
"""
)

# KEYS: ... a history for each channel. ARGV: epoch, the client's epoch and sequence, max_age (ms), the channels.
# Returns epoch, newest sequence, and for each channel whether it covers the client's cursor.
LOCATE = (
    _BEGIN
    + """
local seq = tonumber(redis.call('HGET', state, 'seq'))
local found = {epoch, seq}
local cursor = tonumber(ARGV[3])
for position = 5, #ARGV do
    local channel, history = ARGV[position], KEYS[position + 1]
    local covered = ARGV[2] == epoch and cursor <= seq
    if covered and redis.call('XLEN', history) > 0 then
        trim(channel, history, math.huge, math.huge, tonumber(ARGV[4]))
    end
    found[position - 2] = covered and covers(channel, history, cursor) and 1 or 0
end
return found
"""
)

# KEYS: ... history. ARGV: epoch, channel, cursor, max_age (ms). Returns epoch, whether it is covered, and the events.
READ = (
    _BEGIN
    + """
local history, channel, cursor = KEYS[6], ARGV[2], tonumber(ARGV[3])
if redis.call('XLEN', history) > 0 then
    trim(channel, history, math.huge, math.huge, tonumber(ARGV[4]))
end
if not covers(channel, history, cursor) then
    return {epoch, 0}
end
return {epoch, 1, redis.call('XRANGE', history, '(' .. cursor .. '-0', '+')}
"""
)

# KEYS: ... processes, a process's share. ARGV: epoch, process, lease (ms), the prefixes of topics and of shares, then
# channels, each with its users or "".
# Returns epoch, whether the share was still there (one that has expired has to be written as a whole), and the
# milliseconds until the next lease ends.
SHARE = (
    _BEGIN
    + """
local processes, share = KEYS[6], KEYS[7]
local was_there = redis.call('EXISTS', share)
-- A process that died says no more; what it had is gone for everybody else.
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', now)) do
    for _, channel in ipairs(redis.call('HKEYS', ARGV[5] .. dead)) do
        redis.call('PUBLISH', ARGV[4] .. channel, epoch .. ' 0 r' .. dead)
    end
    redis.call('DEL', ARGV[5] .. dead)
    redis.call('ZREM', processes, dead)
end
redis.call('ZADD', processes, now + ARGV[3], ARGV[2])
redis.call('HSET', share, '', '')
for position = 6, #ARGV, 2 do
    redis.call('PUBLISH', ARGV[4] .. ARGV[position], epoch .. ' 0 r' .. ARGV[2])
    if ARGV[position + 1] == '' then
        redis.call('HDEL', share, ARGV[position])
    else
        redis.call('HSET', share, ARGV[position], ARGV[position + 1])
    end
end
redis.call('PEXPIRE', share, ARGV[3] * 5)
return {epoch, was_there, math.ceil(redis.call('ZRANGE', processes, 0, 0, 'WITHSCORES')[2] - now)}
"""
)

# KEYS: ... processes. ARGV: epoch, the prefix of shares, a channel or "", then the processes not to ask.
# Returns epoch, and what each process has on the channel, or the names of all its channels.
ROSTER = (
    _BEGIN
    + """
local found = {epoch}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[6], now, '+inf')) do
    local is_asked = true
    for position = 4, #ARGV do
        is_asked = is_asked and ARGV[position] ~= process
    end
    if is_asked then
        if ARGV[3] == '' then
            found[#found + 1] = redis.call('HKEYS', ARGV[2] .. process)
        else
            found[#found + 1] = redis.call('HGET', ARGV[2] .. process, ARGV[3]) or ''
        end
    end
end
return found
"""
)

# ARGV: epoch, max_age (ms), how many at the most, the prefix of histories. Forgets channels that nothing was sent to.
SWEEP = (
    _BEGIN
    + """
local old = redis.call('ZRANGEBYSCORE', times, '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, ARGV[3])
for _, channel in ipairs(old) do
    local newest = tonumber(redis.call('HGET', last, channel) or 0)
    if newest > tonumber(redis.call('HGET', state, 'forgotten')) then
        redis.call('HSET', state, 'forgotten', newest)
    end
    redis.call('DEL', ARGV[4] .. channel)
    redis.call('HDEL', last, channel)
    redis.call('HDEL', floor, channel)
    redis.call('HDEL', size, channel)
    redis.call('ZREM', times, channel)
end
return {epoch, #old}
"""
)
