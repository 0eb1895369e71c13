-- Give events the next sequences, keep them, and tell the subscribers.
--
-- ARGV: epoch, four doubles (max_events, max_bytes, max_age in ms, max_total_bytes) with the prefix of topics, then for
-- each event its channel, its payload, "t" if it is transient or "r" for a refresh or an event of its kind, followed by
-- "=" and what it replaces or by nothing, and the tab that it leaves out or nothing. Returns epoch, the newest sequence.
--
-- Each channel is looked at once, and what is known of it is written once, after all events.

local max_events, max_bytes, max_age, max_total = struct.unpack('<dddd', ARGV[2])
local topics = string.sub(ARGV[2], 33)
-- Clients never see the excess: see locate.lua.
local most_events = max_events + math.floor(max_events / 4)
local lifetime = math.floor(1.1 * max_age) + 60000
local looked_at, R = {}, string.byte('r')
local written = string.format('%d', now)
local before, count = seq, (#ARGV - 2) / 4

-- Lua puts no more than some thousands on its stack.
local MOST = 1000

-- The names that the events of a channel have, where there are several.
local names_of = {}
if count > 1 then
    for at = 3, #ARGV, 4 do
        local name = string.match(ARGV[at + 2], '^r?=(.+)$')
        if name then
            local names = names_of[ARGV[at]] or {}
            names_of[ARGV[at]], names[#names + 1] = names, name
        end
    end
end

-- The earlier events of a name, as text; nil or false for none.
local function whole(channel, it, name)
    local text = it.wholes[name]
    if text == nil and it.names > 0 then
        return redis.call('HGET', prefix .. 'w:' .. channel, name)
    end
    return text
end

-- Have the texts of many names at hand.
local function read_wholes(channel, it)
    local names = it.names > 0 and names_of[channel] or {}
    for first = 1, #names > 1 and #names or 0, MOST do
        local last = math.min(first + MOST - 1, #names)
        local texts = redis.call('HMGET', prefix .. 'w:' .. channel, unpack(names, first, last))
        for index = first, last do
            it.wholes[names[index]] = texts[index - first + 1]
        end
    end
end

-- Have a name's text written after all events.
local function set_whole(it, name, text)
    local set = it.set
    it.wholes[name], set[#set + 1], set[#set + 2] = text, name, text
end

local function write_wholes(channel, it)
    local wholes, is_first, set = prefix .. 'w:' .. channel, it.names == 0, it.set
    for first = 1, #set, 2 * MOST do
        it.names = it.names + redis.call('HSET', wholes, unpack(set, first, math.min(first + 2 * MOST - 1, #set)))
    end
    for name in pairs(it.gone or {}) do
        if it.wholes[name] == false then
            it.names = it.names - redis.call('HDEL', wholes, name)
        end
    end
    if is_first and it.names > 0 then
        redis.call('PEXPIRE', wholes, lifetime)
    end
end

-- Forget the names of events that are no longer in the history.
local function forget_dropped(channel, it)
    local wholes, gone = prefix .. 'w:' .. channel, {}
    local function unless_dropped(older)
        return tonumber(older) <= it.floor and '' or nil
    end
    local entries = redis.call('HGETALL', wholes)
    it.names = #entries / 2
    for index = 1, #entries, 2 do
        local text = entries[index + 1]
        local only = string.match(text, '^(%d+) [^;]*;$')
        local kept = only and (tonumber(only) <= it.floor and '' or text) or string.gsub(text, '(%d+) [^;]*;', unless_dropped)
        if kept == '' then
            gone[#gone + 1] = entries[index]
        elseif kept ~= text then
            redis.call('HSET', wholes, entries[index], kept)
        end
    end
    for first = 1, #gone, MOST do
        it.names = it.names - redis.call('HDEL', wholes, unpack(gone, first, math.min(first + MOST - 1, #gone)))
    end
end

-- Note what an event replaces, and take what it makes superfluous out of the history. See Wholes in compaction.py.
local function compact(channel, it, id, size, replaces, tab)
    if not replaces then
        if it.names > 0 or #it.set > 0 then
            local refresh = whole(channel, it, 'r:')
            redis.call('DEL', prefix .. 'w:' .. channel)
            it.names, it.wholes, it.set, it.gone = 0, {}, {}, nil
            if refresh then
                set_whole(it, 'r:', refresh)
            end
        end
        it.container = ''
        return
    end
    local kind = string.sub(replaces, 1, 2)
    if kind ~= 's:' and kind ~= 'r:' then
        if it.container ~= '' and it.container ~= replaces then
            it.gone = it.gone or {}
            it.wholes[it.container], it.gone[it.container] = false, true
        end
        it.container = kind == 'c:' and replaces or ''
    end
    if replaces == '' then
        return
    end
    local kept = ''
    for older, its_size, its_tab in string.gmatch(whole(channel, it, replaces) or '', '(%d+) (%d+) ([^;]*);') do
        if tab ~= '' and tab ~= its_tab then
            kept = kept .. older .. ' ' .. its_size .. ' ' .. its_tab .. ';'
        elseif redis.call('XDEL', prefix .. 'h:' .. channel, older .. '-0') == 1 then
            its_size = tonumber(its_size)
            it.count, it.bytes, total = it.count - 1, it.bytes - its_size, total - its_size
        end
    end
    it.is_long = it.is_long or #kept > 4096
    set_whole(it, replaces, kept .. id .. ' ' .. size .. ' ' .. tab .. ';')
end

-- Keep an event in a channel's history. `id` is its sequence as text.
local function keep(channel, id, sequence, payload, spec, tab)
    local history = prefix .. 'h:' .. channel
    local it = looked_at[channel] or known(channel)
    if not it then
        save()  -- A full server refuses this, and deletes what it is told to.
    elseif not it.wholes then
        it.wholes, it.set, it.gone = {}, {}, nil
        read_wholes(channel, it)
    end
    local added = it and redis.pcall('XADD', history, 'NOMKSTREAM', id, 't', written, 'p', payload)
    if type(added) ~= 'string' then
        if added and string.find(added.err, 'OOM', 1, true) then
            return added
        end
        -- The history is new, or was evicted, or another program has added an entry with a higher id.
        it = begin(channel, it)
        it.wholes, it.set, it.gone = {}, {}, nil
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
end

-- Write what is known of a channel, and drop what is over its limits.
local function write(channel, it)
    write_wholes(channel, it)
    if now - it.renewed >= max_age / 10 then
        it.renewed = now
        -- All events of a script have one time; fractions of a millisecond keep their order.
        redis.call('ZADD', times, now + it.last % 1000 / 1000, channel)
        redis.call('PEXPIRE', prefix .. 'h:' .. channel, lifetime)
        if it.names > 0 then
            redis.call('PEXPIRE', prefix .. 'w:' .. channel, lifetime)
        end
        trim(channel, it, max_events, max_bytes, max_age)
    elseif it.count > most_events or it.bytes > max_bytes then
        trim(channel, it, max_events, max_bytes, max_age)
    end
    if it.names > 2 * it.count + 16 or it.is_long then
        forget_dropped(channel, it)
    end
    note(channel, it)
end

-- Over the cap, the channels that have been quiet for longest lose their history.
local function drop_quiet(newest)
    local moved = 0
    while total > max_total do
        local quiet, since = unpack(redis.call('ZRANGE', times, 0, 0, 'WITHSCORES'))
        local its = quiet and quiet ~= '' and (looked_at[quiet] or known(quiet))
        if its and its.at > tonumber(since) and moved < 100 then
            moved = moved + 1
            redis.call('ZADD', times, its.at + its.last % 1000 / 1000, quiet)
        elseif not its or quiet == newest then
            break
        else
            forget(quiet, its)
            looked_at[quiet] = nil
        end
    end
end

local newest
local heads = {}
for number = 1, count do
    local at = 4 * number - 1
    local id = string.format('%d', before + number)
    heads[number] = id
    if ARGV[at + 2] ~= 't' then
        newest = ARGV[at]
        local refused = keep(newest, id, before + number, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
        if refused then
            return refused
        end
    end
end
seq = before + count
for channel, it in pairs(looked_at) do
    write(channel, it)
end
if newest then
    drop_quiet(newest)
end
-- After this, no sequence is given twice.
save()
for number = 1, count do
    local at = 4 * number - 1
    redis.call('PUBLISH', topics .. ARGV[at], epoch .. ' ' .. heads[number] .. ' e' .. ARGV[at + 1])
end
return {epoch, seq}
