-- The beginning of every script.
--
-- The epoch is one life of the sequences. A server that has lost its memory begins a new one; a mark in `last` tells
-- whether a server that evicts keys has evicted that one. So does every other run: after a restart, a restored dump or
-- a failover, a server cannot know which of the last events were acknowledged and are gone. Commands are kept: hubs
-- that have not heard them obey them before their clients start anew.

local state, last, floor, size, times = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local refreshed = KEYS[#KEYS]
local epoch, before, newest = unpack(redis.call('HMGET', state, 'epoch', 'run', 'seq'))
-- A replication id is of one run as a primary: the run id stays when a primary is demoted, loses events, and returns.
local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
    or string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
-- Another program may have written here. Lua writes numbers with up to 14 digits.
local is_sound = string.match(epoch or '', '^[0-9a-z]+$') and #epoch < 33
    and string.match(newest or '', '^%d+$') and #newest < 15
if not is_sound or before ~= run or redis.call('HEXISTS', last, '') == 0 then
    epoch = ARGV[1]
    redis.call('DEL', state, last, floor, size, times, refreshed)
    redis.call('HSET', last, '', 0)
    redis.call('HSET', state, 'epoch', epoch, 'seq', 0, 'forgotten', 0, 'total', 0, 'run', run)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function resize(channel, bytes)
    local before = tonumber(redis.call('HGET', size, channel) or 0)
    redis.call('HSET', size, channel, bytes)
    redis.call('HINCRBY', state, 'total', bytes - before)
end

-- Drop a history's oldest events until it fits the limits.
local function trim(channel, history, max_events, max_bytes, max_age)
    local bytes = tonumber(redis.call('HGET', size, channel) or 0)
    local count = redis.call('XLEN', history)
    local dropped
    while count > 0 do
        local oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', 1)[1]
        -- Another program's entry has neither a time nor a payload.
        if count <= max_events and bytes <= max_bytes and (tonumber(oldest[2][2]) or 0) > now - max_age then
            break
        end
        redis.call('XDEL', history, oldest[1])
        dropped = oldest[1]
        bytes = math.max(0, bytes - #(oldest[2][4] or ''))
        count = count - 1
    end
    if dropped then
        redis.call('HSET', floor, channel, string.match(dropped, '^%d+'))
        resize(channel, bytes)
    end
end

-- Drop a whole history and everything else about the channel.
local function forget(channel, history)
    local newest = tonumber(redis.call('HGET', last, channel) or 0)
    if newest > tonumber(redis.call('HGET', state, 'forgotten')) then
        redis.call('HSET', state, 'forgotten', newest)
    end
    resize(channel, 0)
    redis.call('DEL', history)
    redis.call('HDEL', last, channel)
    redis.call('HDEL', floor, channel)
    redis.call('HDEL', size, channel)
    redis.call('HDEL', refreshed, channel)
    redis.call('ZREM', times, channel)
end

-- Tell whether there is a history of this epoch; one of an earlier epoch may have outlived it. An error says that
-- another program has put something else there.
local function is_kept(channel, history)
    local length = redis.pcall('XLEN', history)
    return type(length) == 'number' and length > 0 and redis.call('HEXISTS', last, channel) == 1
end

-- Tell whether everything after a cursor is still there.
local function covers(channel, history, cursor)
    local newest = redis.call('HGET', last, channel)
    if not newest then
        return cursor >= tonumber(redis.call('HGET', state, 'forgotten'))
    end
    if cursor >= tonumber(newest) then
        return true
    end
    -- A history expires, or is evicted, as a whole.
    return is_kept(channel, history) and cursor >= tonumber(redis.call('HGET', floor, channel) or 0)
end
