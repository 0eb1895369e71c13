-- Store a process's changes, renew its lease, and remove the processes whose lease has ended.
--
-- KEYS: ... processes, presence, owed. ARGV: epoch, process, lease (ms), the prefixes of topics, of holdings and of
-- users, the epoch that the process heard of last or nothing, then for each channel its name, its connections, the number
-- of users that follow, and for each a user, what is kept of them (see scripts.py), and whether their join was told
-- before. -1 in place of the connections removes a channel or a user. Returns epoch, whether joins and leaves are told,
-- whether the process was known, the milliseconds until the next lease ends; the joins, the leaves, and the users who
-- are away or back, each as channel, user, channel, user ...; and channel, user, time ... for users who have been there
-- for longer than told.

local processes, presence, owed = KEYS[4], KEYS[5], KEYS[6]
local me, topics, holdings, people, known = ARGV[2], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

-- In a new epoch the memory, or its newest part, is gone where a process is there from before: it says so, or its lease
-- outlived the epoch. All processes then tell everything again, and for a lease joins and leaves wait for that.
local is_lost = known ~= '' and known ~= epoch
if redis.call('HGET', presence, 'epoch') ~= epoch then
    redis.call('HSET', presence, 'epoch', epoch, 'settles', 0)
    is_lost = is_lost or redis.call('ZCOUNT', processes, '(' .. now, '+inf') > 0
end
local settles = tonumber(redis.call('HGET', presence, 'settles'))
if is_lost and settles == 0 then
    settles = now + ARGV[3]
    redis.call('HSET', presence, 'settles', settles)
end

local alive = redis.call('ZRANGE', processes, 0, -1)

-- Whether a user is on a channel in any process, whether not away in any, and since when.
local function look(channel, user)
    local is_on, is_here, earliest = false, false, nil
    for _, process in ipairs(alive) do
        local entry = redis.call('HGET', people .. process .. ':' .. channel, user)
        if entry then
            local since, away = string.match(entry, '^%S+ (%d+) (%d)')
            is_on = true
            is_here = is_here or away ~= '1'
            if since and since ~= '0' and (not earliest or tonumber(since) < tonumber(earliest)) then
                earliest = since
            end
        end
    end
    return is_on, is_here, earliest
end

local function pair_of(channel, user)
    return #channel .. ':' .. channel .. user
end

-- What a process told in another epoch is no longer sure. It is about to tell everything.
local told_to = redis.call('HGET', holdings .. me, '')
if told_to and told_to ~= epoch then
    for _, channel in ipairs(redis.call('HKEYS', holdings .. me)) do
        local mine = people .. me .. ':' .. channel
        local users = redis.call('HKEYS', mine)
        redis.call('DEL', mine)
        for _, user in ipairs(users) do
            if not look(channel, user) then
                redis.call('SREM', owed, pair_of(channel, user))
            end
        end
    end
    redis.call('DEL', holdings .. me)
end

-- The users on channels that this call may change, and whether the cluster was told that they are online.
local pairs_seen, told, were_here, since = {}, {}, {}, {}
local function note(channel, user)
    local pair = pair_of(channel, user)
    if told[pair] == nil then
        local is_on, is_here, earliest = look(channel, user)
        pairs_seen[#pairs_seen + 1] = {pair, channel, user}
        told[pair] = is_on ~= (redis.call('SISMEMBER', owed, pair) == 1)
        were_here[pair], since[pair] = is_here, earliest
    end
    return pair
end

local function changed(channel, process)
    redis.call('PUBLISH', topics .. channel, epoch .. ' 0 r' .. process)
end

local is_settled = settles <= now
if is_settled then
    for _, pair in ipairs(redis.call('SMEMBERS', owed)) do
        local length, rest = string.match(pair, '^(%d+):(.*)$')
        note(string.sub(rest, 1, length), string.sub(rest, length + 1))
    end
end

local dead = {}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', now)) do
    if process ~= me then
        dead[#dead + 1] = process
        for _, channel in ipairs(redis.call('HKEYS', holdings .. process)) do
            for _, user in ipairs(redis.call('HKEYS', people .. process .. ':' .. channel)) do
                note(channel, user)
            end
        end
    end
end
for _, process in ipairs(dead) do
    redis.call('ZREM', processes, process)
    for _, channel in ipairs(redis.call('HKEYS', holdings .. process)) do
        if redis.call('DEL', people .. process .. ':' .. channel) == 1 then
            changed(channel, process)
        end
    end
    redis.call('DEL', holdings .. process)
end

redis.call('ZADD', processes, now + ARGV[3], me)
redis.call('HSET', holdings .. me, '', epoch)
local position, longer = 8, {}
while position <= #ARGV do
    local channel, connections, count = ARGV[position], tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2])
    local mine = people .. me .. ':' .. channel
    local is_news = false
    for index = position + 3, position + 2 + 3 * count, 3 do
        local user, entry = ARGV[index], ARGV[index + 1]
        local pair = note(channel, user)
        told[pair] = told[pair] or ARGV[index + 2] == '1'
        if entry == '-1' then
            is_news = redis.call('HDEL', mine, user) == 1 or is_news
        else
            local number, joined_at, rest = string.match(entry, '^(%S+) (%d+) (.*)$')
            local earliest = since[pair]
            if earliest and tonumber(earliest) < tonumber(joined_at) then
                entry = number .. ' ' .. earliest .. ' ' .. rest
                longer[#longer + 1] = channel
                longer[#longer + 1] = user
                longer[#longer + 1] = earliest
            end
            redis.call('HSET', mine, user, entry)
            is_news = true
        end
    end
    if connections == -1 and redis.call('EXISTS', mine) == 0 then
        redis.call('HDEL', holdings .. me, channel)
    else
        redis.call('HSET', holdings .. me, channel, math.max(connections, 0))
    end
    if is_news then
        changed(channel, me)
    end
    position = position + 3 + 3 * count
end

alive = redis.call('ZRANGE', processes, 0, -1)
local joined, left, away, back = {}, {}, {}, {}
local function tell(list, channel, user)
    list[#list + 1] = channel
    list[#list + 1] = user
end
for _, seen in ipairs(pairs_seen) do
    local pair, channel, user = seen[1], seen[2], seen[3]
    local is_online, is_here = look(channel, user)
    if is_online == told[pair] or is_settled then
        redis.call('SREM', owed, pair)
    else
        redis.call('SADD', owed, pair)
    end
    if is_settled and is_online ~= told[pair] then
        tell(is_online and joined or left, channel, user)
    elseif is_settled and is_online and is_here ~= were_here[pair] then
        tell(is_here and back or away, channel, user)
    end
end
-- Tells listeners that they have heard everything up to here.
redis.call('PUBLISH', topics, epoch .. ' ' .. seq .. ' h')
local next_end = tonumber(redis.call('ZRANGE', processes, 0, 0, 'WITHSCORES')[2])
if not is_settled then
    next_end = math.min(next_end, settles)
end
return {epoch, is_settled and 1 or 0, told_to and 1 or 0, math.ceil(next_end - now), joined, left, away, back, longer}
