-- Give events the next sequences, keep them, and tell the subscribers.
--
-- KEYS: ... the history of each. ARGV: epoch, max_events, max_bytes, max_age (ms), max_total_bytes, the prefixes of
-- histories, of topics and of wholes, then for each its channel, its payload, "t" for a transient event or "r" for a
-- refresh or an event of its kind, "=" and what it replaces or nothing, and the tab that it leaves out or nothing.
-- Returns epoch, the newest sequence.

local max_events, max_bytes, max_age = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local seq

local function begin(channel, history, wholes)
    redis.call('DEL', history, wholes)
    resize(channel, 0)
    redis.call('HSET', floor, channel, redis.call('HGET', last, channel) or redis.call('HGET', state, 'forgotten'))
end

local function forget_dropped(channel, wholes)
    local oldest = tonumber(redis.call('HGET', floor, channel) or 0)
    local entries = redis.call('HGETALL', wholes)
    for index = 1, #entries, 2 do
        if entries[index] ~= '' then
            local kept = string.gsub(entries[index + 1], '(%d+) [^;]*;', function(older)
                return tonumber(older) <= oldest and '' or nil
            end)
            if kept == '' then
                redis.call('HDEL', wholes, entries[index])
            else
                redis.call('HSET', wholes, entries[index], kept)
            end
        end
    end
end

-- Note what an event replaces, and take what it makes superfluous out of the history. See Wholes in compaction.py.
local function compact(channel, history, wholes, replaces, tab)
    if not replaces then
        local refresh = redis.call('HGET', wholes, 'r:')
        redis.call('DEL', wholes)
        if refresh then
            redis.call('HSET', wholes, 'r:', refresh)
        end
        return
    end
    local kind = string.sub(replaces, 1, 2)
    if kind ~= 's:' and kind ~= 'r:' then
        local container = redis.call('HGET', wholes, '')
        if container and container ~= replaces then
            redis.call('HDEL', wholes, '', container)
        end
        if kind == 'c:' then
            redis.call('HSET', wholes, '', replaces)
        end
    end
    if replaces == '' then
        return
    end
    local kept, freed = '', 0
    for older, its_tab in string.gmatch(redis.call('HGET', wholes, replaces) or '', '(%d+) ([^;]*);') do
        local id = older .. '-0'
        if tab ~= '' and tab ~= its_tab then
            kept = kept .. older .. ' ' .. its_tab .. ';'
        else
            local entry = redis.call('XRANGE', history, id, id)[1]
            if entry then
                redis.call('XDEL', history, id)
                freed = freed + #(entry[2][4] or '')
            end
        end
    end
    if freed > 0 then
        resize(channel, math.max(0, tonumber(redis.call('HGET', size, channel) or 0) - freed))
    end
    redis.call('HSET', wholes, replaces, kept .. seq .. ' ' .. tab .. ';')
    if redis.call('HLEN', wholes) > 2 * redis.call('XLEN', history) + 16 or #kept > 4096 then
        forget_dropped(channel, wholes)
    end
end

local function keep(channel, history, wholes, payload, is_refresh, replaces, tab)
    if not is_kept(channel, history) then
        begin(channel, history, wholes)
    end
    compact(channel, history, wholes, replaces, tab)
    if redis.pcall('XADD', history, seq .. '-0', 't', now, 'p', payload).err then
        -- Another program has added an entry with a higher id.
        begin(channel, history, wholes)
        redis.call('XADD', history, seq .. '-0', 't', now, 'p', payload)
    end
    redis.call('HSET', last, channel, seq)
    if is_refresh then
        redis.call('HSET', refreshed, channel, seq)
    end
    redis.call('HINCRBY', size, channel, #payload)
    redis.call('HINCRBY', state, 'total', #payload)
    redis.call('PEXPIRE', wholes, max_age + 60000)
end

for number = 6, #KEYS - 1 do
    local history, first = KEYS[number], 5 * number - 21
    local channel, payload, kind, replaces, tab = unpack(ARGV, first, first + 4)
    seq = redis.call('HINCRBY', state, 'seq', 1)
    if kind ~= 't' then
        replaces = replaces ~= '' and string.sub(replaces, 2) or nil
        keep(channel, history, ARGV[8] .. channel, payload, kind == 'r', replaces, tab)
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
    end
    redis.call('PUBLISH', ARGV[7] .. channel, epoch .. ' ' .. seq .. ' e' .. payload)
end
return {epoch, seq}
