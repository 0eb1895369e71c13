-- Give events the next sequences, keep them, and tell the subscribers.
--
-- ARGV: epoch, four doubles (max_events, max_bytes, max_age in ms, max_total_bytes) with the prefix of topics, then for
-- each event its channel, its payload, "t" if it is transient or "r" for a refresh or an event of its kind, followed by
-- "=" and what it replaces or by nothing, and the tab that it leaves out or nothing. Returns epoch, the newest sequence.

local max_events, max_bytes, max_age, max_total = struct.unpack('<dddd', ARGV[2])
local topics = string.sub(ARGV[2], 33)
-- Clients never see the excess: see locate.lua.
local most_events = max_events + math.floor(max_events / 16)
local lifetime = math.floor(1.1 * max_age) + 60000
local looked_at, moved, R = {}, 0, string.byte('r')
local written = string.format('%d', now)

local function forget_dropped(it, wholes)
    local entries = redis.call('HGETALL', wholes)
    it.names = #entries / 2
    for index = 1, #entries, 2 do
        local kept = string.gsub(entries[index + 1], '(%d+) %d+ [^;]*;', function(older)
            return tonumber(older) <= it.floor and '' or nil
        end)
        if kept == '' then
            it.names = it.names - redis.call('HDEL', wholes, entries[index])
        elseif kept ~= entries[index + 1] then
            redis.call('HSET', wholes, entries[index], kept)
        end
    end
end

-- Note what an event replaces, and take what it makes superfluous out of the history. See Wholes in compaction.py.
local function compact(channel, it, id, size, replaces, tab)
    local wholes = prefix .. 'w:' .. channel
    if not replaces then
        if it.names > 0 then
            local refresh = redis.call('HGET', wholes, 'r:')
            redis.call('DEL', wholes)
            it.names = 0
            if refresh then
                it.names = redis.call('HSET', wholes, 'r:', refresh)
                redis.call('PEXPIRE', wholes, lifetime)
            end
        end
        it.container = ''
        return
    end
    local kind = string.sub(replaces, 1, 2)
    if kind ~= 's:' and kind ~= 'r:' then
        if it.container ~= '' and it.container ~= replaces then
            it.names = it.names - redis.call('HDEL', wholes, it.container)
        end
        it.container = kind == 'c:' and replaces or ''
    end
    if replaces == '' then
        return
    end
    local kept = ''
    local before = it.names > 0 and redis.call('HGET', wholes, replaces)
    for older, its_size, its_tab in string.gmatch(before or '', '(%d+) (%d+) ([^;]*);') do
        if tab ~= '' and tab ~= its_tab then
            kept = kept .. older .. ' ' .. its_size .. ' ' .. its_tab .. ';'
        elseif redis.call('XDEL', prefix .. 'h:' .. channel, older .. '-0') == 1 then
            its_size = tonumber(its_size)
            it.count, it.bytes, total = it.count - 1, it.bytes - its_size, total - its_size
        end
    end
    local is_first = it.names == 0
    it.names = it.names + redis.call('HSET', wholes, replaces, kept .. id .. ' ' .. size .. ' ' .. tab .. ';')
    if is_first then
        redis.call('PEXPIRE', wholes, lifetime)
    elseif it.names > 2 * it.count + 16 or #kept > 4096 then
        forget_dropped(it, wholes)
    end
end

-- Keep an event in a channel's history. `id` is its sequence as text.
local function keep(channel, id, sequence, payload, spec, tab)
    local history = prefix .. 'h:' .. channel
    local it = looked_at[channel] or known(channel)
    if not it then
        save()  -- A full server refuses this, and deletes what it is told to.
    end
    local added = it and redis.pcall('XADD', history, 'NOMKSTREAM', id, 't', written, 'p', payload)
    if type(added) ~= 'string' then
        if added and string.find(added.err, 'OOM', 1, true) then
            return added
        end
        -- The history is new, or was evicted, or another program has added an entry with a higher id.
        it = begin(channel, it)
        redis.call('XADD', history, id, 't', written, 'p', payload)
    end
    looked_at[channel] = it
    it.last, it.at = sequence, now
    it.count, it.bytes, total = it.count + 1, it.bytes + #payload, total + #payload
    local first = string.byte(spec)
    if first == R then
        it.refreshed = sequence
        spec = string.sub(spec, 2)
    end
    compact(channel, it, id, #payload, spec ~= '' and string.sub(spec, 2), tab)
    if now - it.renewed >= max_age / 10 then
        it.renewed = now
        -- All events of a script have one time; fractions of a millisecond keep their order.
        redis.call('ZADD', times, now + sequence % 1000 / 1000, channel)
        redis.call('PEXPIRE', history, lifetime)
        if it.names > 0 then
            redis.call('PEXPIRE', prefix .. 'w:' .. channel, lifetime)
        end
        trim(channel, it, max_events, max_bytes, max_age)
    elseif it.count > most_events or it.bytes > max_bytes then
        trim(channel, it, max_events, max_bytes, max_age)
    end
    -- Over the cap, the channels that have been quiet for longest lose their history.
    while total > max_total do
        local quiet, since = unpack(redis.call('ZRANGE', times, 0, 0, 'WITHSCORES'))
        local its = quiet and quiet ~= '' and (looked_at[quiet] or known(quiet))
        if its and its.at > tonumber(since) and moved < 100 then
            moved = moved + 1
            redis.call('ZADD', times, its.at + its.last % 1000 / 1000, quiet)
        elseif not its or quiet == channel then
            break
        else
            forget(quiet, its)
            looked_at[quiet] = nil
        end
    end
end

local before, count = seq, (#ARGV - 2) / 4
seq = seq + count
local heads = {}
for number = 1, count do
    local at = 4 * number - 1
    local id = string.format('%d', before + number)
    heads[number] = id
    if ARGV[at + 2] ~= 't' then
        local refused = keep(ARGV[at], id, before + number, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
        if refused then
            return refused
        end
    end
end
for channel, it in pairs(looked_at) do
    note(channel, it)
end
-- After this, no sequence is given twice.
save()
for number = 1, count do
    local at = 4 * number - 1
    redis.call('PUBLISH', topics .. ARGV[at], epoch .. ' ' .. heads[number] .. ' e' .. ARGV[at + 1])
end
return {epoch, seq}
