-- What the scripts that look at histories share.

local prefix = string.sub(state, 1, -6)

-- What is known of a channel, nil for one without events.
local function known(channel)
    local text = redis.call('HGET', channels, channel)
    if not text then
        return nil
    end
    local last, floor, bytes, count, at, renewed, refreshed, names = struct.unpack('<dddddddd', text)
    return {last = last, floor = floor, bytes = bytes, count = count, at = at, renewed = renewed,
        refreshed = refreshed, names = names, container = string.sub(text, 65)}
end

local function note(channel, it)
    redis.call('HSET', channels, channel, struct.pack('<dddddddd', it.last, it.floor, it.bytes, it.count, it.at,
        it.renewed, it.refreshed, it.names) .. it.container)
end

-- Begin a channel's history, or begin it anew, after all that it had.
local function begin(channel, it)
    redis.call('DEL', prefix .. 'h:' .. channel, prefix .. 'w:' .. channel)
    if not it then
        return {last = 0, floor = forgotten, bytes = 0, count = 0, at = now, renewed = 0, refreshed = 0, names = 0,
            container = ''}
    end
    total = math.max(0, total - it.bytes)
    it.floor, it.bytes, it.count, it.renewed, it.names, it.container = it.last, 0, 0, 0, 0, ''
    return it
end

-- Drop a whole history and everything else about the channel.
local function forget(channel, it)
    forgotten = math.max(forgotten, it.last)
    begin(channel, it)
    redis.call('HDEL', channels, channel)
    redis.call('ZREM', times, channel)
end

-- Drop a history's oldest events until it fits the limits; tell whether any was dropped.
local function trim(channel, it, max_events, max_bytes, max_age)
    local history, before, most = prefix .. 'h:' .. channel, it.floor, 1
    local fits, oldest
    repeat
        local dropped
        oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', math.max(most, math.min(it.count - max_events, 50)))
        for _, entry in ipairs(oldest) do
            -- Another program's entry has neither a time nor a payload.
            fits = it.count <= max_events and it.bytes <= max_bytes and (tonumber(entry[2][2]) or 0) > now - max_age
            if fits then
                break
            end
            dropped = entry[1]
            local size = #(entry[2][4] or '')
            it.count, it.bytes, total = math.max(0, it.count - 1), math.max(0, it.bytes - size), math.max(0, total - size)
        end
        if dropped then
            it.floor = tonumber(string.match(dropped, '^%d+'))
            redis.call('XTRIM', history, 'MINID', it.floor + 1)
        end
        most = 8
    until fits or #oldest == 0
    if #oldest == 0 then
        it.count, it.bytes, total = 0, 0, math.max(0, total - it.bytes)
    end
    return it.floor ~= before
end
