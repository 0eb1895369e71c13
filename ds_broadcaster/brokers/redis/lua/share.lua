-- Store a process's changes, renew its lease, and remove the processes whose lease has ended.
--
-- KEYS: ... processes. ARGV: epoch, process, lease (ms), the prefixes of topics, of holdings and of users, then for
-- each channel its name, its connections, the number of users that follow, and for each a user and their connections.
-- -1 connections remove a channel or a user. Returns epoch, whether the process was known, the milliseconds until the
-- next lease ends, and the joins and the leaves, as channel, user, channel, user ...

local processes, me, topics, holdings, people = KEYS[6], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local was_there = redis.call('EXISTS', holdings .. me)
local joined, left = {}, {}
local dead = {}
for _, process in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', now)) do
    redis.call('ZREM', processes, process)
    if process ~= me then
        dead[#dead + 1] = process
    end
end
redis.call('ZADD', processes, now + ARGV[3], me)
redis.call('HSET', holdings .. me, '', 0)
local alive = redis.call('ZRANGE', processes, 0, -1)

-- Tell whether any other process than `but` has a user on a channel.
local function is_on(channel, user, but)
    for _, process in ipairs(alive) do
        if process ~= but and redis.call('HEXISTS', people .. process .. ':' .. channel, user) == 1 then
            return true
        end
    end
    return false
end

local function note(list, channel, user)
    list[#list + 1] = channel
    list[#list + 1] = user
end

local function changed(channel, process)
    redis.call('PUBLISH', topics .. channel, epoch .. ' 0 r' .. process)
end

for _, process in ipairs(dead) do
    for _, channel in ipairs(redis.call('HKEYS', holdings .. process)) do
        local theirs = people .. process .. ':' .. channel
        local users = redis.call('HKEYS', theirs)
        redis.call('DEL', theirs)
        for _, user in ipairs(users) do
            if not is_on(channel, user, process) then
                note(left, channel, user)
            end
        end
        if #users > 0 then
            changed(channel, process)
        end
    end
    redis.call('DEL', holdings .. process)
end

local position = 7
while position <= #ARGV do
    local channel, connections, count = ARGV[position], tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2])
    local mine = people .. me .. ':' .. channel
    local is_news = false
    for index = position + 3, position + 2 + 2 * count, 2 do
        local user = ARGV[index]
        if ARGV[index + 1] ~= '-1' then
            if redis.call('HSET', mine, user, ARGV[index + 1]) == 1 then
                is_news = true
                if not is_on(channel, user, me) then
                    note(joined, channel, user)
                end
            end
        elseif redis.call('HDEL', mine, user) == 1 then
            is_news = true
            if not is_on(channel, user, me) then
                note(left, channel, user)
            end
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
    position = position + 3 + 2 * count
end
-- Tells listeners that they have heard everything up to here.
redis.call('PUBLISH', topics, epoch .. ' ' .. redis.call('HGET', state, 'seq') .. ' h')
local next_end = redis.call('ZRANGE', processes, 0, 0, 'WITHSCORES')[2] - now
return {epoch, was_there, math.ceil(next_end), joined, left}
